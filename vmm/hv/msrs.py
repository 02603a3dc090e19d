# SPDX-License-Identifier: Apache-2.0
"""Synthetic MSRs: one table with everything that is true of one (TLFS appendix C).

A row: number, access, VTL scope, the CPUID bit without which an access faults (MISC-007), the value after reset (None:
the implementation's own), and what its 64 bits are: bit fields, or in words what the number counts.

    HvMsr.HV_X64_MSR_SINT0.privilege.mask        # a bit of HV_PARTITION_PRIVILEGE_MASK or of the features in EDX
    HvMsr.of(0x40000090)                         # the member, or the number when it has no name

An access that the row does not allow is #GP. SCONTROL is the TLFS's 0 after reset; KVM and OpenVMM have 1 (DIS-24).
`vmm.hv.registers.BY_MSR` gives the VP register that is the same thing.
"""

from __future__ import annotations

from typing import Any, Self

from vmm.hv import msr_bits as m
from vmm.hv.access import Access, VtlScope
from vmm.hv.bits import BitField, Bits
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX as F
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK as P
from vmm.hv.open_enum import OpenIntEnum

# The table's columns, short so that a row is a line.
R, W, RW = Access.R, Access.W, Access.RW
SHARED, PRIVATE, ANY = VtlScope.SHARED, VtlScope.PRIVATE, VtlScope.UNSPECIFIED
OVERLAY = m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
TIMERS, REENLIGHTENMENT = P.AccessSyntheticTimerRegs, P.AccessReenlightenmentControls
REF_COUNTER, REF_TSC = P.AccessPartitionReferenceCounter, P.AccessPartitionReferenceTsc
TSC_INVARIANT, IDLE, CRASH = P.AccessTscInvariantControls, P.AccessGuestIdleReg, F.GuestCrashRegsAvailable
NESTED = "as the MSR without NESTED, of the level below"


class HvMsr(OpenIntEnum):
    """HV_X64_MSR_*."""

    _value_: int
    access: Access
    vtl_scope: VtlScope
    privilege: BitField[Any]
    """The bit of leaf 0x40000003 that offers it; `privilege.owner` says in which word."""
    reset_value: int | None
    contents: type[Bits] | str

    def __new__(
        cls,
        number: int,
        access: Access,
        vtl_scope: VtlScope,
        privilege: BitField[Any],
        reset_value: int | None,
        contents: type[Bits] | str,
    ) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.access = access
        member.vtl_scope = vtl_scope
        member.privilege = privilege
        member.reset_value = reset_value
        member.contents = contents
        return member

    # fmt: off
    # Identity, hypercalls, VP
    HV_X64_MSR_GUEST_OS_ID = 0x40000000, RW, PRIVATE, P.AccessHypercallMsrs, 0, m.HV_X64_MSR_GUEST_OS_ID_CONTENTS
    HV_X64_MSR_HYPERCALL = 0x40000001, RW, PRIVATE, P.AccessHypercallMsrs, 0, m.HV_X64_MSR_HYPERCALL_CONTENTS
    HV_X64_MSR_VP_INDEX = 0x40000002, R, SHARED, P.AccessVpIndex, None, m.HV_X64_MSR_VP_INDEX_CONTENTS
    HV_X64_MSR_RESET = 0x40000003, RW, SHARED, P.AccessResetReg, 0, m.HV_X64_MSR_RESET_CONTENTS
    HV_X64_MSR_VP_RUNTIME = 0x40000010, R, SHARED, P.AccessVpRunTimeReg, 0, "time this VP has run, in 100 ns"
    # Time
    HV_X64_MSR_TIME_REF_COUNT = 0x40000020, R, SHARED, REF_COUNTER, 0, "partition reference time, in 100 ns"
    HV_X64_MSR_REFERENCE_TSC = 0x40000021, RW, PRIVATE, REF_TSC, 0, OVERLAY
    HV_X64_MSR_TSC_FREQUENCY = 0x40000022, R, SHARED, P.AccessFrequencyRegs, None, "TSC frequency in Hz"
    HV_X64_MSR_APIC_FREQUENCY = 0x40000023, R, PRIVATE, P.AccessFrequencyRegs, None, "APIC timer frequency in Hz"
    # Processor features
    HV_X64_MSR_NPIEP_CONFIG = 0x40000040, RW, PRIVATE, F.Npiep1Available, 0, m.HV_X64_MSR_NPIEP_CONFIG_CONTENTS
    # Local APIC
    HV_X64_MSR_EOI = 0x40000070, W, PRIVATE, P.AccessIntrCtrlRegs, None, m.HV_X64_MSR_EOI_CONTENTS
    HV_X64_MSR_ICR = 0x40000071, RW, PRIVATE, P.AccessIntrCtrlRegs, 0, m.HV_X64_MSR_ICR_CONTENTS
    HV_X64_MSR_TPR = 0x40000072, RW, PRIVATE, P.AccessIntrCtrlRegs, 0, m.HV_X64_MSR_TPR_CONTENTS
    HV_X64_MSR_VP_ASSIST_PAGE = 0x40000073, RW, PRIVATE, P.AccessIntrCtrlRegs, 0, OVERLAY
    # SynIC
    HV_X64_MSR_SCONTROL = 0x40000080, RW, PRIVATE, P.AccessSynicRegs, 0, m.HV_X64_MSR_SCONTROL_CONTENTS
    HV_X64_MSR_SVERSION = 0x40000081, R, PRIVATE, P.AccessSynicRegs, 1, m.HV_X64_MSR_SVERSION_CONTENTS
    HV_X64_MSR_SIEFP = 0x40000082, RW, PRIVATE, P.AccessSynicRegs, 0, OVERLAY
    HV_X64_MSR_SIMP = 0x40000083, RW, PRIVATE, P.AccessSynicRegs, 0, OVERLAY
    HV_X64_MSR_EOM = 0x40000084, RW, PRIVATE, P.AccessSynicRegs, 0, "any write looks for waiting messages; reads as 0"
    HV_X64_MSR_SIRBP = 0x40000085, RW, PRIVATE, P.AccessSynicRegs, 0, OVERLAY
    HV_X64_MSR_SINT0 = 0x40000090, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT1 = 0x40000091, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT2 = 0x40000092, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT3 = 0x40000093, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT4 = 0x40000094, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT5 = 0x40000095, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT6 = 0x40000096, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT7 = 0x40000097, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT8 = 0x40000098, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT9 = 0x40000099, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT10 = 0x4000009A, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT11 = 0x4000009B, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT12 = 0x4000009C, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT13 = 0x4000009D, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT14 = 0x4000009E, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    HV_X64_MSR_SINT15 = 0x4000009F, RW, PRIVATE, P.AccessSynicRegs, 0x10000, m.HV_X64_MSR_SINT_CONTENTS
    # Synthetic timers
    HV_X64_MSR_STIMER0_CONFIG = 0x400000B0, RW, PRIVATE, TIMERS, 0, m.HV_X64_MSR_STIMER_CONFIG
    HV_X64_MSR_STIMER0_COUNT = 0x400000B1, RW, PRIVATE, TIMERS, 0, "expiry (one-shot) or period, in 100 ns"
    HV_X64_MSR_STIMER1_CONFIG = 0x400000B2, RW, PRIVATE, TIMERS, 0, m.HV_X64_MSR_STIMER_CONFIG
    HV_X64_MSR_STIMER1_COUNT = 0x400000B3, RW, PRIVATE, TIMERS, 0, "expiry (one-shot) or period, in 100 ns"
    HV_X64_MSR_STIMER2_CONFIG = 0x400000B4, RW, PRIVATE, TIMERS, 0, m.HV_X64_MSR_STIMER_CONFIG
    HV_X64_MSR_STIMER2_COUNT = 0x400000B5, RW, PRIVATE, TIMERS, 0, "expiry (one-shot) or period, in 100 ns"
    HV_X64_MSR_STIMER3_CONFIG = 0x400000B6, RW, PRIVATE, TIMERS, 0, m.HV_X64_MSR_STIMER_CONFIG
    HV_X64_MSR_STIMER3_COUNT = 0x400000B7, RW, PRIVATE, TIMERS, 0, "expiry (one-shot) or period, in 100 ns"
    # Idling
    HV_X64_MSR_GUEST_IDLE = 0x400000F0, R, SHARED, IDLE, None, "a read sleeps until an interrupt arrives"
    # Crash
    HV_X64_MSR_CRASH_P0 = 0x40000100, RW, ANY, CRASH, 0, "crash parameter"
    HV_X64_MSR_CRASH_P1 = 0x40000101, RW, ANY, CRASH, 0, "crash parameter"
    HV_X64_MSR_CRASH_P2 = 0x40000102, RW, ANY, CRASH, 0, "crash parameter"
    HV_X64_MSR_CRASH_P3 = 0x40000103, RW, ANY, CRASH, 0, "crash parameter"
    HV_X64_MSR_CRASH_P4 = 0x40000104, RW, ANY, CRASH, 0, "crash parameter"
    HV_X64_MSR_CRASH_CTL = 0x40000105, RW, ANY, CRASH, None, m.HV_CRASH_CTL_REG_CONTENTS
    # Re-enlightenment, TSC
    HV_X64_MSR_REENLIGHTENMENT_CONTROL = 0x40000106, RW, ANY, REENLIGHTENMENT, 0, m.HV_REENLIGHTENMENT_CONTROL
    HV_X64_MSR_TSC_EMULATION_CONTROL = 0x40000107, RW, ANY, REENLIGHTENMENT, 0, m.HV_TSC_EMULATION_CONTROL
    HV_X64_MSR_TSC_EMULATION_STATUS = 0x40000108, RW, ANY, REENLIGHTENMENT, 0, m.HV_TSC_EMULATION_STATUS
    HV_X64_MSR_STIME_UNHALTED_TIMER_CONFIG = 0x40000114, RW, ANY, TIMERS, 0, m.HV_X64_MSR_UNHALTED_TIMER_CONFIG
    HV_X64_MSR_STIME_UNHALTED_TIMER_COUNT = 0x40000115, RW, ANY, TIMERS, 0, "period in 100 ns"
    HV_X64_MSR_TSC_INVARIANT_CONTROL = 0x40000118, RW, ANY, TSC_INVARIANT, 0, m.HV_X64_MSR_TSC_INVARIANT
    # The level below, for a nested root
    HV_X64_MSR_NESTED_VP_INDEX = 0x40001002, R, ANY, P.CpuManagement, None, "VP index of the level below"
    HV_X64_MSR_NESTED_SCONTROL = 0x40001080, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SVERSION = 0x40001081, R, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SIEFP = 0x40001082, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SIMP = 0x40001083, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_EOM = 0x40001084, W, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT0 = 0x40001090, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT1 = 0x40001091, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT2 = 0x40001092, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT3 = 0x40001093, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT4 = 0x40001094, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT5 = 0x40001095, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT6 = 0x40001096, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT7 = 0x40001097, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT8 = 0x40001098, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT9 = 0x40001099, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT10 = 0x4000109A, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT11 = 0x4000109B, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT12 = 0x4000109C, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT13 = 0x4000109D, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT14 = 0x4000109E, RW, ANY, P.CpuManagement, None, NESTED
    HV_X64_MSR_NESTED_SINT15 = 0x4000109F, RW, ANY, P.CpuManagement, None, NESTED
    # fmt: on
