# SPDX-License-Identifier: Apache-2.0
"""An instruction that KVM has begun to emulate and stopped at KVM_EXIT_MMIO: taken back, so that nothing is pending.

KVM finishes such an instruction with the next KVM_RUN on that vCPU, whoever makes it and whatever is in kvm_run then.
So it is finished at once, without entering the guest (`immediate_exit`), and with zeros; whatever it changed by that is
put back: registers of all kinds, an exception that it raised. What it writes is thrown away: pages of its other
operands are taken out of the mapping meanwhile, so their writes come as further exits, too.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Any, Final

from kvmapi import KvmError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.emulation.processor import Processor

_IMMEDIATE_EXIT: Final = 1
# struct kvm_run: mmio.phys_addr u64 @32, data u8[8] @40, len u32 @48, is_write u8 @52
_MMIO_GPA_U64: Final = 32 // 8
_MMIO_DATA: Final = 40
_MMIO_DATA_U64: Final = _MMIO_DATA // 8
_MMIO_LENGTH_U32: Final = 48 // 4
_MMIO_IS_WRITE: Final = 52
_REGS: Final = slice(run_page.SYNC_REGS, run_page.SYNC_REGS + ctypes.sizeof(x86.kvm_regs))
_SREGS: Final = slice(_REGS.stop, _REGS.stop + ctypes.sizeof(x86.kvm_sregs))

MOST_PARTS: Final = 64
"""Exits that one instruction can still make, of eight bytes or less each: KVM emulates FXSAVE, with 512."""


def take_back(vcpu: Vcpu, cpu: Processor, *, vector: bool) -> list[tuple[int, bytes]]:
    """Finish the instruction at which `vcpu` stopped without effect: registers are those of `cpu`, which were read at
    the exit. vector: it can have changed x87 or vector registers. What it wanted to write behind that exit: `(gpa,
    data)`.

    The next KVM_RUN comes back at once: a kick that came meanwhile is attended to there. Errors: `KvmError`.
    """
    xsave = vcpu.get_xsave() if vector else None
    events = vcpu.get_vcpu_events()
    run = vcpu.run
    writes: list[tuple[int, bytes]] = []
    for _ in range(MOST_PARTS):
        run.u8[_IMMEDIATE_EXIT] = 1
        number = vcpu.run_once()
        if number == errno.EINTR:
            break
        if number or run.exit_reason != k.KVM_EXIT_MMIO:
            break  # it ended in another way: what that says is of zeros, and no longer true
        if run.u8[_MMIO_IS_WRITE]:
            size = run.u32[_MMIO_LENGTH_U32]
            writes.append((run.u64[_MMIO_GPA_U64], bytes(run.u8[_MMIO_DATA : _MMIO_DATA + size])))
        run.u64[_MMIO_DATA_U64] = 0
    else:
        raise KvmError(errno.EIO, "KVM_RUN", {"exits": MOST_PARTS}, f"vCPU {vcpu.vcpu_id}")
    run.u8[_IMMEDIATE_EXIT] = 1
    if xsave is not None:
        vcpu.set_xsave(xsave)
    put_registers(vcpu, cpu.regs, cpu.sregs)
    put_exception(vcpu, events)
    return writes


def put_registers(vcpu: Vcpu, regs: Any, sregs: Any) -> None:
    """Registers into KVM and into kvm_run, where others look for them. Errors: `KvmError`."""
    wanted = bytes(sregs)
    if bytes(vcpu.get_sregs()) != wanted:
        vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    vcpu.run.u8[_REGS] = bytes(regs)
    vcpu.run.u8[_SREGS] = wanted


def put_exception(vcpu: Vcpu, before: x86.kvm_vcpu_events) -> None:
    """The exception that was on its way, or none. Errors: `KvmError`."""
    events = vcpu.get_vcpu_events()
    now, then = events.exception, before.exception
    if (now.injected, now.pending) != (then.injected, then.pending):
        events.exception = then
        # No NMI or SMI that came since is lost by writing it back.
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        events.interrupt.shadow = before.interrupt.shadow
        vcpu.set_vcpu_events(events)
