# SPDX-License-Identifier: Apache-2.0
"""The page tables of VPs for HvCallTranslateVirtualAddress (`vmm.hvcalls.translate.AddressSpaces`).

The walk is done on the VP's own thread, outside of the guest: registers, tables and accessed bits hold still for it.
The cache type is what IA32_PAT makes of the page; KVM gives guest RAM no other for what MTRRs say.

A page, of a table too, that a higher VTL does not let the VTL access is an intercept (code 8). Codes 5 and 6 are for
what the host has taken from the whole partition, which is nothing here.

No document says when a write to an overlay that may only be read is an illegal access (code 7). Here it is when the
caller's VTL sees that overlay too. A higher VTL that does not has RAM in its place: it is told of the overlay, and
whether the VTL it asks about may access that RAM so, which is what the caller would do for it. Where overlays are
copied into RAM (hugepages=on) no VTL has RAM in their place, and each writes those that may be written.

Implements: VP-022, VP-023
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from kvmapi import Vcpu
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.page_walk import Access, Denial, Paging, Refusal, Translation, walk
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.backend.hyperv import memory_types
from vmm.backend.hyperv.errands import Errands
from vmm.backend.hyperv.register_access import regs_of, sregs_of
from vmm.hv.constants import HV_PAGE_SHIFT
from vmm.hv.memory_bits import HvTranslateGvaResultCode as Code
from vmm.hv.messages import HvCacheType
from vmm.hvcalls.translate import GvaAccess, GvaTranslation
from vmm.hvmsr.state import VTL0, HvState
from vmm.hypercall.outside import AccessInterceptedError, ProcessorMemory
from vmm.outside import GuestMemoryError

_CPL_USER: Final = 3
_ILLEGAL: Final = Code.HvTranslateGvaGpaIllegalOverlayAccess
_CODES: Final = {
    Denial.NOT_PRESENT: Code.HvTranslateGvaPageNotPresent,
    Denial.RESERVED_BITS: Code.HvTranslateGvaInvalidPageTableFlags,
    Denial.PRIVILEGE: Code.HvTranslateGvaPrivilegeViolation,
    Denial.TABLE_NOT_RAM: Code.HvTranslateGvaGpaUnmapped,
}


class VtlVcpus(Protocol):
    """The vCPUs of each VTL of each VP, and who holds their TLB flushes back."""

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        """The vCPU of `vtl`, which the VP has."""

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        """See `vmm.hvcalls.translate.AddressSpaces`."""


class VpAddressSpaces:
    """A machine's. Thread-safe; see the package for threads."""

    def __init__(
        self,
        vcpus: VtlVcpus,
        errands: Errands,
        memory: Callable[[int], ProcessorMemory],
        state: HvState,
    ) -> None:
        """memory: with the rights of a VTL."""
        self.inhibit_flushes = vcpus.inhibit_flushes
        self._vcpu = vcpus.vcpu
        self._errands = errands
        self._memory = memory
        self._state = state
        self._cpuid: Cpuid | None = None

    def has_vp(self, vp: int) -> bool:
        """Whether a VP has this index."""
        return self._state.vp(vp, VTL0) is not None

    def has_vtl(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` is enabled on the VP."""
        return self._state.vp(vp, vtl) is not None

    def translate(
        self, caller: int, caller_vtl: int, vp: int, vtl: int, gva: int, access: GvaAccess
    ) -> GvaTranslation | None:
        """Walk the tables of `vtl` on `vp`. Errors: `KvmError`."""
        return self._errands.ask(caller, vp, lambda: self._translate(caller_vtl, vp, vtl, gva, access))

    def _translate(self, caller_vtl: int, vp: int, vtl: int, gva: int, access: GvaAccess) -> GvaTranslation:
        vcpu = self._vcpu(vp, vtl)
        if self._cpuid is None:
            self._cpuid = Cpuid(vcpu.get_cpuid2())  # the same on all VPs in what is asked for
        memory = self._memory(vtl)
        cpu = Processor(vcpu, memory, self._cpuid)
        # What has been written by hypercall, or by a VTL switch, counts before the VTL runs.
        cpu.regs, cpu.sregs = regs_of(vcpu), sregs_of(vcpu)
        paging, asked = _paging(cpu.paging, access), _accesses(cpu, access)
        paging_off = not paging.cr0 & r.CR0_PG
        try:
            found = self._walk(memory, paging, gva, asked)
            if isinstance(found, GvaTranslation):
                return found
            gpa_page = found.gpa >> HV_PAGE_SHIFT
            failure = None if paging_off else self._refused_page(memory, caller_vtl, vtl, gpa_page, access)
            if failure is not None:
                return GvaTranslation(failure, gpa_page)
            if access.set_bits:
                walk(memory, paging, gva, asked[-1], set_bits=True)
        except AccessInterceptedError as error:  # of a table
            return GvaTranslation(Code.HvTranslateGvaIntercept, error.gpa >> HV_PAGE_SHIFT)
        cache_type = int(HvCacheType.WriteBack)
        if not paging_off:
            cache_type = memory_types.of(vcpu, found.pat_index)
        overlay = self._state.overlays.at(vtl, gpa_page) is not None
        return GvaTranslation(Code.HvTranslateGvaSuccess, gpa_page, cache_type, overlay)

    def _walk(
        self, memory: ProcessorMemory, paging: Paging, gva: int, asked: Sequence[Access]
    ) -> Translation | GvaTranslation:
        if paging.cr0 & r.CR0_PG and paging.long_mode and not paging.canonical(gva):
            return GvaTranslation(Code.HvTranslateGvaPageNotPresent)
        found: Translation | Refusal = walk(memory, paging, gva, asked[0], set_bits=False)
        for kind in asked[1:]:
            if isinstance(found, Refusal):
                break
            found = walk(memory, paging, gva, kind, set_bits=False)
        if isinstance(found, Refusal):
            code = _CODES[found.denial]
            unmapped = code == Code.HvTranslateGvaGpaUnmapped
            return GvaTranslation(code, found.entry_gpa >> HV_PAGE_SHIFT if unmapped else 0)
        return found

    def _refused_page(
        self, memory: ProcessorMemory, caller_vtl: int, vtl: int, gpa_page: int, access: GvaAccess
    ) -> Code | None:
        """Why the VTL may not access a page as asked, None if it may. The rights to RAM do not bind an overlay of its
        own that is no RAM, unless somebody asks who sees that RAM."""
        overlay = self._state.overlays.at(vtl, gpa_page)
        separate = self._state.overlays.separate_views  # else all VTLs see every overlay, and write it alike
        caller_sees_it = overlay is not None and (overlay.vtl >= caller_vtl or not separate)
        illegal = None
        if overlay is not None and caller_sees_it and access.write:
            illegal = None if overlay.writable and (overlay.vtl == vtl or not separate) else _ILLEGAL
        if overlay is not None and overlay.vtl == vtl and caller_sees_it and separate:
            return illegal
        gpa = gpa_page << HV_PAGE_SHIFT
        try:
            if access.read:
                memory.read(gpa, 1)
            if access.execute:
                memory.fetch(gpa, 1)
            if access.write:
                memory.require_writable(gpa, 1)
        except GuestMemoryError:
            # Of a page of a higher VTL, which the VTL sees, it is the write that finds no memory.
            from_above = overlay is not None and overlay.vtl > vtl and separate
            return illegal if from_above else Code.HvTranslateGvaGpaUnmapped
        except AccessInterceptedError:
            return Code.HvTranslateGvaIntercept
        return illegal


def _accesses(cpu: Processor, access: GvaAccess) -> list[Access]:
    """The accesses to be checked; a write, which sets the most bits, comes last."""
    user = access.user if access.user is not None else cpu.cpl == _CPL_USER
    user = user and not access.exempt
    found = []
    if access.execute:
        found.append(Access(fetch=True, user=user))
    if access.read:
        found.append(Access(user=user))
    if access.write:
        found.append(Access(write=True, user=user))
    return found


def _paging(paging: Paging, access: GvaAccess) -> Paging:
    """The registers with what the caller wants instead."""
    if access.exempt:
        return replace(paging, cr4=paging.cr4 & ~(r.CR4_SMEP | r.CR4_SMAP))
    return paging if access.smap is None else replace(paging, ac=not access.smap)
