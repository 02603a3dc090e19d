# SPDX-License-Identifier: Apache-2.0
"""Have a vCPU forget the access that it left the guest for.

KVM ends an IN, OUT, RDMSR or WRMSR in the next KVM_RUN: it moves RIP and gives the result to the registers. That is let
happen, without entering the guest, and taken back: the vCPU is before the instruction then, and whoever looks at it or
writes its registers finds nothing under way.
"""

from __future__ import annotations

import errno

from kvmapi import KvmError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import copy

_DIRTY_U64 = run_page.DIRTY_REGS // 8
_ENDED = (errno.EINTR, errno.EFAULT)
"""EFAULT: the instruction ended in an access of memory that is not allowed, and is over all the same."""
_MOST_EXITS = 1 + 4096
"""An INS to a device's memory exits once more for each item that KVM has asked for at once: a page of bytes at most."""


def undo(vcpu: Vcpu) -> int:
    """Take back the exit that `vcpu` has just made; by how much RIP would have moved.

    `run.regs` are as they came with the exit, and are to be stored at the next entry. A request to leave the guest
    that comes meanwhile stays. Errors: `KvmError`.
    """
    run = vcpu.run
    before = x86.kvm_regs.from_buffer_copy(run.regs)
    events = vcpu.get_vcpu_events()
    # Stays set: the next KVM_RUN comes back at once, as after a kick, and no request to leave is lost.
    run.immediate_exit = True
    for _ in range(_MOST_EXITS):
        number = vcpu.run_once()
        if number in _ENDED:
            break
    else:
        raise KvmError(
            number, "KVM_RUN", {"immediate_exit": 1}, f"vCPU {vcpu.vcpu_id} does not end an access"
        )
    moved = int(run.regs.rip - before.rip)
    copy(run.regs, before)
    run.u64[_DIRTY_U64] |= x86.KVM_SYNC_X86_REGS
    now = vcpu.get_vcpu_events()
    if bytes(now) != bytes(events):
        # A single-step trap, the end of an interrupt shadow. An NMI that has come meanwhile stays.
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        vcpu.set_vcpu_events(events)
    return moved
