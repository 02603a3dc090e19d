# SPDX-License-Identifier: Apache-2.0
"""A vCPU's state at its last exit, as intercept messages tell it.

Read out of kvm_run in few goes: by name each field of a ctypes structure costs as much as all of them in one.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER
from vmm.vsm.intercept_messages import VpState

_CR0_PE: Final = 1
_RFLAGS_VM: Final = 1 << 17
_DR7_ENABLED: Final = 0xFF
# struct kvm_regs: rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags
_regs: Final = Struct("<18Q").unpack_from
_REGS: Final = run_page.SYNC_REGS
# struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable
_SEGMENT: Final = Struct("<QIH9B").unpack


def take(vp: int, vtl: int, vcpu: Vcpu) -> VpState:
    """`vcpu` has just left the guest; registers are those that came with its exit, or were put there since.

    Errors: `KvmError`.
    """
    run = vcpu.run
    sregs = run.sregs
    rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, *numbered, rip, rflags = _regs(run.u8, _REGS)
    events = vcpu.get_vcpu_events()
    return VpState(
        vp=vp,
        vtl=vtl,
        cpl=cpl(rflags, sregs),
        rip=rip,
        rflags=rflags,
        cr0=sregs.cr0,
        cr8=sregs.cr8,
        efer=sregs.efer,
        cs=_segment(sregs.cs),
        ds=_segment(sregs.ds),
        es=_segment(sregs.es),
        ss=_segment(sregs.ss),
        general=(rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, *numbered),
        debug_active=bool(vcpu.get_debugregs().dr7 & _DR7_ENABLED),
        interruption_pending=in_flight(events),
        interrupt_shadow=bool(events.interrupt.shadow),
    )


def cpl(rflags: int, sregs: Any) -> int:
    """The privilege level that RFLAGS and `kvm_sregs` tell."""
    if not sregs.cr0 & _CR0_PE:
        return 0
    return 3 if rflags & _RFLAGS_VM else int(sregs.ss.dpl)


def in_flight(events: x86.kvm_vcpu_events) -> bool:
    """Whether an event was being delivered, or is to be delivered before the next instruction."""
    return bool(
        events.exception.injected
        or events.exception.pending
        or events.interrupt.injected
        or events.nmi.injected
    )


def _segment(segment: Any) -> HV_X64_SEGMENT_REGISTER:
    """As `register_access.segment_value` has it: one that is unusable has Present clear."""
    base, limit, selector, kind, present, dpl, db, system, long, granularity, available, unusable = _SEGMENT(
        bytes(segment)[:23]
    )
    attributes = (
        kind
        | system << 4
        | dpl << 5
        | (present and not unusable) << 7
        | available << 12
        | long << 13
        | db << 14
        | granularity << 15
    )
    return HV_X64_SEGMENT_REGISTER(base, limit, selector, attributes)
