# SPDX-License-Identifier: Apache-2.0
"""A vCPU's state at its last exit, as intercept messages tell it."""

from __future__ import annotations

from typing import Any, Final

from kvmapi import Vcpu
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import segment_value
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER
from vmm.vsm.intercept_messages import VpState

_ORDER: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
_CR0_PE: Final = 1
_RFLAGS_VM: Final = 1 << 17
_DR7_ENABLED: Final = 0xFF


def take(vp: int, vtl: int, vcpu: Vcpu) -> VpState:
    """`vcpu` has just left the guest; registers are those that came with its exit, or were put there since.

    Errors: `KvmError`.
    """
    regs, sregs = vcpu.run.regs, vcpu.run.sregs
    events = vcpu.get_vcpu_events()
    return VpState(
        vp=vp,
        vtl=vtl,
        cpl=cpl(regs, sregs),
        rip=regs.rip,
        rflags=regs.rflags,
        cr0=sregs.cr0,
        cr8=sregs.cr8,
        efer=sregs.efer,
        cs=_segment(sregs.cs),
        ds=_segment(sregs.ds),
        es=_segment(sregs.es),
        ss=_segment(sregs.ss),
        general=tuple(getattr(regs, name) for name in _ORDER),
        debug_active=bool(vcpu.get_debugregs().dr7 & _DR7_ENABLED),
        interruption_pending=in_flight(events),
        interrupt_shadow=bool(events.interrupt.shadow),
    )


def cpl(regs: Any, sregs: Any) -> int:
    """The privilege level that `kvm_regs` and `kvm_sregs` tell."""
    if not sregs.cr0 & _CR0_PE:
        return 0
    return 3 if regs.rflags & _RFLAGS_VM else int(sregs.ss.dpl)


def in_flight(events: x86.kvm_vcpu_events) -> bool:
    """Whether an event was being delivered, or is to be delivered before the next instruction."""
    return bool(
        events.exception.injected
        or events.exception.pending
        or events.interrupt.injected
        or events.nmi.injected
    )


def _segment(segment: Any) -> HV_X64_SEGMENT_REGISTER:
    return HV_X64_SEGMENT_REGISTER.unpack(segment_value(segment).to_bytes(16, "little"))
