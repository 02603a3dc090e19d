# SPDX-License-Identifier: Apache-2.0
"""What a VTL switch carries from one vCPU of a VP to another: the registers that VTLs share (TLFS 15.11).

| state | how |
|---|---|
| general registers without RSP, RIP, RFLAGS | from kvm_run to kvm_run (KVM_CAP_SYNC_REGS): no ioctl |
| CR2 | the same, written only where it differs |
| x87, SSE, AVX, PKRU | KVM_GET_XSAVE of the VTL that stops; KVM_SET_XSAVE only where the other's differs |
| DR0-DR3, DR6 where it is shared | KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS likewise |
| XCR0 | KVM_GET_XCRS where the VTL that stops can have written it (CR4.OSXSAVE), KVM_SET_XCRS likewise |

A vCPU's state cannot change while it does not run, so what was read at its last stop, or written to it since, is what
it has: nothing is read of the VTL that starts. The MTRRs and MCG_STATUS are shared too; their writes are carried over
when they happen (`shared_msrs`).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86

_REGS: Final = run_page.SYNC_REGS
_RSP: Final = x86.kvm_regs.rsp.offset
_BEFORE_RSP: Final = slice(_REGS, _REGS + _RSP)
_BEHIND_RSP: Final = slice(_REGS + _RSP + 8, _REGS + x86.kvm_regs.rip.offset)
_SREGS: Final = _REGS + ctypes.sizeof(x86.kvm_regs)
_CR2_U64: Final = (_SREGS + x86.kvm_sregs.cr2.offset) // 8
_CR4_U64: Final = (_SREGS + x86.kvm_sregs.cr4.offset) // 8
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8
_CR4_OSXSAVE: Final = 1 << 18
_ADDRESS_REGISTERS: Final = slice(0, 4 * 8)  # DR0-DR3 in struct kvm_debugregs
XCR0: Final = 0


class _Known:
    """A vCPU's state that is no part of kvm_run, as it was when the vCPU stopped last."""

    __slots__ = ("debug", "xcr0", "xsave")

    def __init__(self) -> None:
        self.xsave: bytes | None = None
        self.debug: bytes | None = None
        self.xcr0: int | None = None


class SharedState:
    """The shared registers of one VP. Used on its VP's thread, or while it is frozen."""

    def __init__(self, *, dr6_shared: bool, has_xcr0: bool) -> None:
        """has_xcr0: whether this KVM has KVM_CAP_XCRS and the processor model XSAVE."""
        self._dr6_shared = dr6_shared
        self._has_xcr0 = has_xcr0
        self._known: dict[Vcpu, _Known] = {}
        self._fault_addresses: dict[Vcpu, int] = {}

    def forget(self, vcpu: Vcpu) -> None:
        """`vcpu` is given another state, or closed."""
        self._known.pop(vcpu, None)
        self._fault_addresses.pop(vcpu, None)

    def expect_fault(self, vcpu: Vcpu, address: int) -> None:
        """A page fault was made pending in `vcpu`, which does not run: CR2 is the VP's until it is delivered."""
        self._fault_addresses[vcpu] = address

    def carry(self, source: Vcpu, target: Vcpu) -> None:
        """Give `target` the shared registers of `source`, which has just stopped. Errors: `KvmError`."""
        old, new = source.run, target.run
        new.u8[_BEFORE_RSP] = old.u8[_BEFORE_RSP]
        new.u8[_BEHIND_RSP] = old.u8[_BEHIND_RSP]
        dirty = x86.KVM_SYNC_X86_REGS
        cr2 = self._fault_addresses.pop(target, old.u64[_CR2_U64])
        if new.u64[_CR2_U64] != cr2:
            new.u64[_CR2_U64] = cr2
            dirty |= x86.KVM_SYNC_X86_SREGS
        new.u64[_DIRTY_U64] |= dirty
        was, known = self._of(source), self._of(target)
        self._carry_xcr0(source, was, target, known)  # first: XSAVE state may need its bits
        self._carry_xsave(source, was, target, known)
        self._carry_debug(source, was, target, known)

    def _of(self, vcpu: Vcpu) -> _Known:
        known = self._known.get(vcpu)
        if known is None:
            known = self._known[vcpu] = _Known()
        return known

    def _carry_xcr0(self, source: Vcpu, was: _Known, target: Vcpu, known: _Known) -> None:
        if not self._has_xcr0:
            return
        if was.xcr0 is None or source.run.u64[_CR4_U64] & _CR4_OSXSAVE:
            was.xcr0 = _xcr0(source.get_xcrs())
        if known.xcr0 != was.xcr0:
            xcrs = x86.kvm_xcrs()
            xcrs.nr_xcrs = 1
            xcrs.xcrs[0].xcr = XCR0
            xcrs.xcrs[0].value = was.xcr0
            target.set_xcrs(xcrs)
            known.xcr0 = was.xcr0

    def _carry_xsave(self, source: Vcpu, was: _Known, target: Vcpu, known: _Known) -> None:
        area = source.get_xsave()
        now = was.xsave = bytes(area)
        if known.xsave != now:
            target.set_xsave(area)
            known.xsave = now

    def _carry_debug(self, source: Vcpu, was: _Known, target: Vcpu, known: _Known) -> None:
        registers = source.get_debugregs()
        now = was.debug = self._shared_debug(registers)
        if known.debug != now:
            own = target.get_debugregs()  # DR7, and DR6 where it is private
            own.db[:] = registers.db
            if self._dr6_shared:
                own.dr6 = registers.dr6
            target.set_debugregs(own)
            known.debug = now

    def _shared_debug(self, registers: x86.kvm_debugregs) -> bytes:
        addresses = bytes(registers)[_ADDRESS_REGISTERS]
        return addresses + registers.dr6.to_bytes(8, "little") if self._dr6_shared else addresses


def _xcr0(xcrs: Any) -> int:
    """XCR0 of what KVM_GET_XCRS gave; its reset value where it gave nothing."""
    for number in range(xcrs.nr_xcrs):
        if xcrs.xcrs[number].xcr == XCR0:
            return int(xcrs.xcrs[number].value)
    return 1
