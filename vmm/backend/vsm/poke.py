# SPDX-License-Identifier: Apache-2.0
"""Have KVM bring a vCPU's local APIC up to date without running its guest.

The interrupt of a timer that has run out enters IRR in KVM_RUN alone. A KVM_RUN that finds a signal waiting does that
and comes back before the first instruction; `immediate_exit` would come back too soon. Nothing else of the vCPU
changes, except that an exit that was not finished (the step over a port write) is, and that an interrupt that could be
delivered may be on its way (KVM_GET_VCPU_EVENTS, `interrupt.injected`) instead of in IRR.
"""

from __future__ import annotations

import errno
import signal
import threading

from kvmapi import KvmError, Vcpu
from vmm.backend.kick import KICK_SIGNAL

_IMMEDIATE_EXIT = 1


def poke(vcpu: Vcpu) -> None:
    """On the thread that runs the vCPU, between two KVM_RUNs. Errors: `KvmError`."""
    u8 = vcpu.run.u8
    asked, u8[_IMMEDIATE_EXIT] = u8[_IMMEDIATE_EXIT], 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
    try:
        signal.pthread_kill(threading.get_ident(), KICK_SIGNAL)
        vcpu.set_signal_mask([])  # inside KVM_RUN no signal is blocked, so that one waits there
        try:
            number = vcpu.run_once()
        finally:
            vcpu.set_signal_mask(None)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
        u8[_IMMEDIATE_EXIT] |= asked
    if number != errno.EINTR:
        raise KvmError(number, "KVM_RUN", {"signal": int(KICK_SIGNAL)}, f"vCPU {vcpu.vcpu_id}")
