# SPDX-License-Identifier: Apache-2.0
"""What a VTL switch carries from one vCPU of a VP to another: the registers that VTLs share (TLFS 15.11).

| state | how |
|---|---|
| general registers without RSP, RIP, RFLAGS | from kvm_run to kvm_run (KVM_CAP_SYNC_REGS): no ioctl |
| CR2 | the same, written only where it differs |
| x87, SSE, AVX, PKRU | KVM_GET_XSAVE of the VTL that stops; KVM_SET_XSAVE only where the other's differs |
| DR0-DR3, DR6 where it is shared | KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS likewise |
| XCR0 | KVM_GET_XCRS where the VTL that stops can have written it (CR4.OSXSAVE), KVM_SET_XCRS likewise |

PKRU is a part of that only with XSAVE: a machine with VTLs has no PKU without it (`vmm.machine.cpu.select`).

A vCPU's state cannot change while it does not run, so what was read at its last stop, or written to it since, is what
it has: nothing is read of the VTL that starts, but its private DR6 and DR7 where DR0-DR3 are written. The MTRRs and
MCG_STATUS are shared too; their writes are carried over when they happen (`shared_msrs`).

Implements: VSM-044, VSM-060, VSM-061, VSM-065, VSM-066
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_ioctl import KVM_GET_DEBUGREGS, KVM_GET_XSAVE, KVM_SET_XSAVE

_REGS: Final = run_page.SYNC_REGS
_RSP: Final = x86.kvm_regs.rsp.offset
_BEFORE_RSP: Final = slice(_REGS, _REGS + _RSP)
_BEHIND_RSP: Final = slice(_REGS + _RSP + 8, _REGS + x86.kvm_regs.rip.offset)
_SREGS: Final = _REGS + ctypes.sizeof(x86.kvm_regs)
_CR2_U64: Final = (_SREGS + x86.kvm_sregs.cr2.offset) // 8
_CR4_U64: Final = (_SREGS + x86.kvm_sregs.cr4.offset) // 8
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8
_CR4_OSXSAVE: Final = 1 << 18
_ADDRESSES: Final = slice(0, x86.kvm_debugregs.dr6.offset)  # DR0-DR3, before DR6 and DR7
_ADDRESSES_AND_DR6: Final = slice(0, x86.kvm_debugregs.dr7.offset)
XCR0: Final = 0


class _Carried:
    """A vCPU's state that is no part of kvm_run, as it was when the vCPU stopped last, and the ioctls for it."""

    __slots__ = ("debug", "get_debugregs", "get_xsave", "set_xsave", "xcr0", "xsave")

    def __init__(self, vcpu: Vcpu, xsave: x86.kvm_xsave, debugregs: x86.kvm_debugregs) -> None:
        self.get_xsave = vcpu.quick_ioctl(KVM_GET_XSAVE, xsave)
        self.set_xsave = vcpu.quick_ioctl(KVM_SET_XSAVE, xsave)
        self.get_debugregs = vcpu.quick_ioctl(KVM_GET_DEBUGREGS, debugregs)
        self.xsave: bytes | None = None
        self.debug: bytes | None = None
        self.xcr0: int | None = None


class SharedState:
    """The shared registers of one VP. Used on its VP's thread, or while it is frozen."""

    def __init__(self, *, dr6_shared: bool, has_xcr0: bool) -> None:
        """has_xcr0: whether this KVM has KVM_CAP_XCRS and the processor model XSAVE."""
        self._dr6_shared = dr6_shared
        self._has_xcr0 = has_xcr0
        self._carried: dict[Vcpu, _Carried] = {}
        self._fault_addresses: dict[Vcpu, int] = {}
        # What the ioctls of all VTLs fill and read, one after the other.
        self._xsave, self._debugregs = x86.kvm_xsave(), x86.kvm_debugregs()
        self._xsave_bytes = memoryview(self._xsave).cast("B")
        shared = _ADDRESSES_AND_DR6 if dr6_shared else _ADDRESSES
        self._debug_bytes = memoryview(self._debugregs).cast("B")[shared]

    def forget(self, vcpu: Vcpu) -> None:
        """`vcpu` is given another state, or closed."""
        self._carried.pop(vcpu, None)
        self._fault_addresses.pop(vcpu, None)

    def expect_fault(self, vcpu: Vcpu, address: int) -> None:
        """A page fault was made pending in `vcpu`, which does not run: CR2 is the VP's until it is delivered."""
        self._fault_addresses[vcpu] = address

    def carry(self, source: Vcpu, target: Vcpu) -> None:
        """Give `target` the shared registers of `source`, which has just stopped. Errors: `KvmError`."""
        old, new = source.run, target.run
        from_u8, to_u8, from_u64, to_u64 = old.u8, new.u8, old.u64, new.u64
        to_u8[_BEFORE_RSP] = from_u8[_BEFORE_RSP]
        to_u8[_BEHIND_RSP] = from_u8[_BEHIND_RSP]
        dirty = x86.KVM_SYNC_X86_REGS
        cr2 = from_u64[_CR2_U64]
        if self._fault_addresses:
            cr2 = self._fault_addresses.pop(target, cr2)
        if to_u64[_CR2_U64] != cr2:
            to_u64[_CR2_U64] = cr2
            dirty |= x86.KVM_SYNC_X86_SREGS
        to_u64[_DIRTY_U64] |= dirty
        was = self._carried.get(source) or self._of(source)
        known = self._carried.get(target) or self._of(target)
        if self._has_xcr0:  # first: XSAVE state may need its bits
            self._carry_xcr0(source, was, target, known)
        was.get_xsave()
        now = was.xsave = self._xsave_bytes.tobytes()
        if known.xsave != now:
            known.set_xsave()
            known.xsave = now
        was.get_debugregs()
        now = was.debug = self._debug_bytes.tobytes()
        if known.debug != now:
            self._give_debug(target)
            known.debug = now

    def _of(self, vcpu: Vcpu) -> _Carried:
        made = self._carried[vcpu] = _Carried(vcpu, self._xsave, self._debugregs)
        return made

    def _carry_xcr0(self, source: Vcpu, was: _Carried, target: Vcpu, known: _Carried) -> None:
        if was.xcr0 is None or source.run.u64[_CR4_U64] & _CR4_OSXSAVE:
            was.xcr0 = _xcr0(source.get_xcrs())
        if known.xcr0 != was.xcr0:
            xcrs = x86.kvm_xcrs()
            xcrs.nr_xcrs = 1
            xcrs.xcrs[0].xcr = XCR0
            xcrs.xcrs[0].value = was.xcr0
            target.set_xcrs(xcrs)
            known.xcr0 = was.xcr0

    def _give_debug(self, target: Vcpu) -> None:
        own = target.get_debugregs()  # DR7, and DR6 where it is private
        own.db[:] = self._debugregs.db
        if self._dr6_shared:
            own.dr6 = self._debugregs.dr6
        target.set_debugregs(own)


def _xcr0(xcrs: Any) -> int:
    """XCR0 of what KVM_GET_XCRS gave; its reset value where it gave nothing."""
    for number in range(xcrs.nr_xcrs):
        if xcrs.xcrs[number].xcr == XCR0:
            return int(xcrs.xcrs[number].value)
    return 1
