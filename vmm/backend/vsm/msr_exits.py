# SPDX-License-Identifier: Apache-2.0
"""RDMSR and WRMSR that leave the guest because a higher VTL wants to be told of them.

KVM's MSR filter belongs to a VM, so that it is for all VPs of a VTL; what a VTL wants is for one (CrIntercept
registers), and of some MSRs only for some bits. The rest is done here as KVM would have done it for the guest. KVM
itself takes more from the VMM than from a guest, so a write is checked before. Any other MSR comes here only where the
VTL has given its intercept up since: the guest makes the access again, and KVM does what is right for it.

Implements: VSM-113, VSM-114, VSM-117, VSM-119
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kvmapi import KvmError, MsrRange, Vcpu, Vm
from kvmapi.uapi import kvm as k
from kvmapi.uapi.x86_features import (
    KVM_MSR_FILTER_MAX_BITMAP_SIZE,
    KVM_MSR_FILTER_MAX_RANGES,
    KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_WRITE,
)
from vmm.backend.emulation.processor import Cpuid, Feature
from vmm.backend.hyperv.register_access import SYNTHETIC
from vmm.backend.vsm.shared_msrs import MSRS as SHARED_MSRS
from vmm.backend.vsm.undo_exit import undo
from vmm.hv.x64_msrs import X64Msr
from vmm.vsm.intercept_messages import MsrAccess
from vmm.vsm.intercept_table import CONTROLS, READ, WRITE, InterceptTable

_BITMAP_MSRS: Final = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8
# struct kvm_run, KVM_EXIT_X86_RDMSR and _WRMSR: u8 error @32, u32 reason @40, u64 data @48
_ERROR_U8: Final = 32
_REASON_U32: Final = 40 // 4
_DATA_U64: Final = 48 // 8
_UNKNOWN: Final = k.KVM_MSR_EXIT_REASON_UNKNOWN
_FILTERED: Final = k.KVM_MSR_EXIT_REASON_FILTER

_APIC_ENABLED, _APIC_X2 = 1 << 11, 1 << 10
_MISC_READ_ONLY: Final = 1 << 11 | 1 << 12
"""BTS and PEBS unavailable."""
_CR0_PG: Final = 1 << 31
_EFER_SCE, _EFER_LME, _EFER_LMA, _EFER_NXE, _EFER_SVME, _EFER_FFXSR, _EFER_TCE, _EFER_AIBRSE = (
    1 << 0, 1 << 8, 1 << 10, 1 << 11, 1 << 12, 1 << 14, 1 << 15, 1 << 21
)  # fmt: skip
_EFER_NEEDS: Final = (
    (_EFER_LME | _EFER_LMA, Feature(0x8000_0001, "edx", 29)),
    (_EFER_NXE, Feature(0x8000_0001, "edx", 20)),
    (_EFER_SVME, Feature(0x8000_0001, "ecx", 2)),
    (_EFER_FFXSR, Feature(0x8000_0001, "edx", 25)),
    (_EFER_TCE, Feature(0x8000_0001, "ecx", 17)),
    (_EFER_AIBRSE, Feature(0x8000_0021, "eax", 8)),
)
_PER_VP: Final = frozenset(msr for msrs, _ in CONTROLS.values() for msr in msrs)
_SGX_LAUNCH_CONTROL: Final = Feature(7, "ecx", 30)
_TSC_AUX_NEEDS: Final = (Feature(0x8000_0001, "edx", 27), Feature(7, "ecx", 22))
_XSAVES: Final = Feature(0xD, "eax", 3, 1)


class Hook(NamedTuple):
    """What a `Caller` asks first at such an exit; True: it is dealt with."""

    read: Callable[[int], bool]
    write: Callable[[int, int], bool]


def filter_ranges(accesses: dict[int, int]) -> list[MsrRange] | None:
    """KVM's MSR filter for a VM: what always leaves the guest (`interface.keep_msrs`), and `accesses` by MSR.

    None where KVM's few ranges are not enough.
    """
    reads = {*SYNTHETIC, *(msr for msr, access in accesses.items() if access & READ)}
    writes = {*SYNTHETIC, *SHARED_MSRS, *(msr for msr, access in accesses.items() if access & WRITE)}
    ranges = [*_ranges(reads, KVM_MSR_FILTER_READ), *_ranges(writes, KVM_MSR_FILTER_WRITE)]
    return ranges if len(ranges) <= KVM_MSR_FILTER_MAX_RANGES else None


def _ranges(msrs: Iterable[int], flags: int) -> list[MsrRange]:
    groups: list[list[int]] = []
    for msr in sorted(msrs):
        if not groups or msr - groups[-1][0] >= _BITMAP_MSRS:
            groups.append([])
        groups[-1].append(msr)
    return [MsrRange(group[0], group[-1] - group[0] + 1, flags, frozenset(group)) for group in groups]


def apply(vm: Vm, table: InterceptTable, vtl: int) -> bool:
    """Have `vm`, that of `vtl`, hand over what `table` says. False: that is too much. Errors: `KvmError`."""
    ranges = filter_ranges(table.msr_accesses(vtl))
    if ranges is None:
        return False
    reasons = k.KVM_MSR_EXIT_REASON_FILTER
    if table.unknown_msr_accesses(vtl):
        reasons |= k.KVM_MSR_EXIT_REASON_UNKNOWN
    vm.enable_cap(k.KVM_CAP_X86_USER_SPACE_MSR, reasons)
    vm.set_msr_filter(ranges)
    return True


class MsrExits:
    """One VTL's of one VP. On the VP's thread."""

    def __init__(
        self,
        vp: int,
        vtl: int,
        vcpu: Vcpu,
        table: InterceptTable,
        tell: Callable[[int, MsrAccess], None],
    ) -> None:
        """tell: told of the owner and the access, with the vCPU before the instruction."""
        self._vp, self._vtl = vp, vtl
        self._vcpu = vcpu
        self._table = table
        self._tell = tell
        self._cpuid: Cpuid | None = None
        self.hook = Hook(self.read, self.write)

    def wanted(self) -> bool:
        """Whether any VTL wants to be told of anything."""
        table, vtl = self._table, self._vtl
        return bool(table.msr_accesses(vtl) or table.unknown_msr_accesses(vtl))

    def read(self, msr: int) -> bool:
        """KVM_EXIT_X86_RDMSR. Errors: `KvmError`."""
        if self._intercepted(msr, READ, lambda: 0):
            return True
        if not self._is_ours(msr, SYNTHETIC):
            return False
        if msr not in _PER_VP:
            undo(self._vcpu)
            return True
        run = self._vcpu.run
        try:
            run.u64[_DATA_U64] = self._vcpu.get_msrs([msr])[0][1]
        except KvmError:  # the processor model does not have it
            run.u8[_ERROR_U8] = 1
        return True

    def write(self, msr: int, value: int) -> bool:
        """KVM_EXIT_X86_WRMSR. Errors: `KvmError`."""
        if self._intercepted(msr, WRITE, lambda: self._vcpu.get_msrs([msr])[0][1] ^ value):
            return True
        if not self._is_ours(msr, SYNTHETIC) or msr in SHARED_MSRS:
            return False
        if msr not in _PER_VP:
            undo(self._vcpu)
            return True
        try:
            accepted = self._guest_may_write(msr, value)
            if accepted:
                self._vcpu.set_msrs([(msr, value)])
        except KvmError:
            accepted = False
        if not accepted:
            self._vcpu.run.u8[_ERROR_U8] = 1
        return True

    def _is_ours(self, msr: int, others: range) -> bool:
        """Whether the exit is there for our filter alone."""
        return bool(self._vcpu.run.u32[_REASON_U32] & _FILTERED) and msr not in others

    def _intercepted(self, msr: int, access: int, changes: Callable[[], int]) -> bool:
        owner = self._table.msr_owner(self._vp, self._vtl, msr, access, changes)
        if owner is None and self._vcpu.run.u32[_REASON_U32] & _UNKNOWN:
            owner = self._table.unknown_msr_owner(self._vtl, access)
        if owner is None:
            return False
        length = undo(self._vcpu)
        self._tell(owner, MsrAccess(msr, access == WRITE, length))
        return True

    def _guest_may_write(self, msr: int, value: int) -> bool:
        """What KVM checks of a guest's write and not of the VMM's. Errors: `KvmError`."""
        if self._cpuid is None:
            self._cpuid = Cpuid(self._vcpu.get_cpuid2())
        cpuid, sregs = self._cpuid, self._vcpu.run.sregs
        match msr:
            case X64Msr.EFER:
                known = _EFER_SCE
                for bits, feature in _EFER_NEEDS:
                    known |= bits if cpuid.has(feature) else 0
                switches = (value ^ sregs.efer) & _EFER_LME and sregs.cr0 & _CR0_PG
                return not value & ~known and not switches
            case X64Msr.IA32_APIC_BASE:
                before, after = (
                    sregs.apic_base & (_APIC_ENABLED | _APIC_X2),
                    value & (_APIC_ENABLED | _APIC_X2),
                )
                if after == _APIC_X2:
                    return False
                if before == _APIC_ENABLED | _APIC_X2:
                    return after != _APIC_ENABLED
                return bool(before) or after != _APIC_ENABLED | _APIC_X2
            case X64Msr.IA32_MISC_ENABLE:
                return not (self._vcpu.get_msrs([msr])[0][1] ^ value) & _MISC_READ_ONLY
            case X64Msr.TSC_AUX:
                return any(cpuid.has(feature) for feature in _TSC_AUX_NEEDS)
            case 0x8C | 0x8D | 0x8E | 0x8F:  # SGX launch control
                return cpuid.has(_SGX_LAUNCH_CONTROL)
            case X64Msr.IA32_XSS:
                return cpuid.has(_XSAVES)
        return True
