# SPDX-License-Identifier: Apache-2.0
"""The call table: every hypercall this machine knows how to take apart, one row each.

From it come dispatch, the checks of privilege and VTL, what CPUID announces, `docs/hypercalls.md` and the property
tests. Codes that have no row, or a row and no handler, answer INVALID_HYPERCALL_CODE. HvCallDisablePartitionVtl and
HvCallDisableVpVtl have none: only TLFS v6.0b names them, in a list (VSM-036).

Where documents disagree the row follows the checklist's advice; the number of the disagreement is in its notes.

Implements: REG-001, REG-002, VSM-036, VSM-070
"""

from __future__ import annotations

from typing import Final

from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_PARTITION_PRIVILEGE_MASK,
)
from vmm.hv.inputs import (
    HV_INPUT_ASSERT_VIRTUAL_INTERRUPT,
    HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS,
    HV_INPUT_ENABLE_PARTITION_VTL,
    HV_INPUT_ENABLE_VP_VTL,
    HV_INPUT_FLUSH_VIRTUAL_ADDRESS_LIST,
    HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE,
    HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
    HV_INPUT_GET_VP_INDEX_FROM_APIC_ID,
    HV_INPUT_GET_VP_REGISTERS,
    HV_INPUT_INSTALL_INTERCEPT,
    HV_INPUT_MODIFY_VTL_PROTECTION_MASK,
    HV_INPUT_NOTIFY_LONG_SPIN_WAIT,
    HV_INPUT_POST_MESSAGE,
    HV_INPUT_POST_MESSAGE_DIRECT,
    HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI,
    HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI_EX,
    HV_INPUT_SET_VP_REGISTERS,
    HV_INPUT_SIGNAL_EVENT,
    HV_INPUT_SIGNAL_EVENT_DIRECT,
    HV_INPUT_START_VIRTUAL_PROCESSOR,
    HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE,
    HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS,
    HV_REGISTER_ASSOC,
)
from vmm.hv.outputs import (
    HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS,
    HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX,
)
from vmm.hypercall.call import Call, CallKind, TargetVtl, VtlForm
from vmm.hypercall.elements import REGISTER_VALUES, U32_ELEMENTS, U64_ELEMENTS, Structures

Privilege = HV_PARTITION_PRIVILEGE_MASK
Recommendation = HV_ENLIGHTENMENT_INFORMATION_EAX
REP: Final = CallKind.REP
VTL_SWITCH: Final = CallKind.VTL_SWITCH

EXTENDED_HYPERCALLS: Final = Privilege.EnableExtendedHypercalls.mask
"""The privilege that every code from 0x8000 on needs (HC-020)."""

_VSM: Final = (Privilege.AccessVsm, Privilege.AccessVpRegisters, Privilege.AccessSynicRegs)
"""VSM is there only for a partition that has all three (DISC-006, DIS-38)."""

CALLS: Final[tuple[Call, ...]] = (
    Call(
        Code.HvCallSwitchVirtualAddressSpace,
        "TLFS 9.4",
        header=HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE,
        items=("TLB-006",),
        notes="never recommended: MOV to CR3 needs no exit",
    ),
    Call(
        Code.HvCallFlushVirtualAddressSpace,
        "TLFS 9.4",
        header=HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE,
        announces=(
            Recommendation.UseHypercallForLocalFlush,
            Recommendation.UseHypercallForRemoteFlushAndLocalFlushEntire,
        ),
        items=("TLB-001",),
    ),
    Call(
        Code.HvCallFlushVirtualAddressList,
        "TLFS 9.4",
        REP,
        header=HV_INPUT_FLUSH_VIRTUAL_ADDRESS_LIST,
        element=U64_ELEMENTS,
        announces=(
            Recommendation.UseHypercallForLocalFlush,
            Recommendation.UseHypercallForRemoteFlushAndLocalFlushEntire,
        ),
        items=("TLB-001",),
        notes="an element is a GVA range",
    ),
    Call(
        Code.HvCallNotifyLongSpinWait,
        "TLFS 14.5",
        header=HV_INPUT_NOTIFY_LONG_SPIN_WAIT,
        items=("MISC-001",),
        notes="announced by the spin count in EBX of leaf 0x40000004",
    ),
    Call(
        Code.HvCallSendSyntheticClusterIpi,
        "TLFS 10.5",
        header=HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI,
        target_vtl=TargetVtl("TargetVtl", above_caller=True),
        announces=(Recommendation.UseSyntheticClusterIpi,),
        items=("VP-008", "VP-010", "VP-011"),
        notes="the processor mask is 8 bytes (DIS-36); an explicit higher VTL is reached (DIS-15)",
    ),
    Call(
        Code.HvCallModifyVtlProtectionMask,
        "TLFS 15.15.2",
        REP,
        header=HV_INPUT_MODIFY_VTL_PROTECTION_MASK,
        element=U64_ELEMENTS,
        requires=_VSM,
        min_caller_vtl=1,
        target_vtl=TargetVtl("TargetVtl"),
        announces=(Privilege.AccessVsm,),
        items=("VSM-070", "VSM-073"),
        notes="an element is a GPA page number; VTL0 has nothing below it to protect",
    ),
    Call(
        Code.HvCallEnablePartitionVtl,
        "TLFS 15.15.3",
        header=HV_INPUT_ENABLE_PARTITION_VTL,
        requires=_VSM,
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN, above_caller=True),
        refuse_reserved=True,
        announces=(Privilege.AccessVsm,),
        items=("VSM-022",),
        notes="flags are a byte at offset 9 (DIS-04)",
    ),
    Call(
        Code.HvCallEnableVpVtl,
        "TLFS 15.15.4",
        header=HV_INPUT_ENABLE_VP_VTL,
        requires=_VSM,
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN, above_caller=True),
        announces=(Privilege.AccessVsm,),
        items=("VSM-026",),
    ),
    Call(
        Code.HvCallVtlCall,
        "TLFS 15.6",
        VTL_SWITCH,
        requires=_VSM,
        announces=(Privilege.AccessVsm,),
        items=("VSM-040", "VSM-041"),
    ),
    Call(
        Code.HvCallVtlReturn,
        "TLFS 15.7",
        VTL_SWITCH,
        requires=_VSM,
        min_caller_vtl=1,
        announces=(Privilege.AccessVsm,),
        control_mask=1,
        items=("VSM-042",),
        notes="bit 0 of the control value: fast return",
    ),
    Call(
        Code.HvCallFlushVirtualAddressSpaceEx,
        "TLFS 9.4",
        header=HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
        variable_header=True,
        announces=(Recommendation.UseExProcessorMasks,),
        items=("TLB-001",),
        notes="the variable header holds the banks of the processor set",
    ),
    Call(
        Code.HvCallFlushVirtualAddressListEx,
        "TLFS 9.4",
        REP,
        header=HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
        variable_header=True,
        element=U64_ELEMENTS,
        announces=(Recommendation.UseExProcessorMasks,),
        items=("TLB-001",),
        notes="the variable header holds the banks of the processor set; an element is a GVA range",
    ),
    Call(
        Code.HvCallSendSyntheticClusterIpiEx,
        "TLFS 10.5",
        header=HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI_EX,
        variable_header=True,
        target_vtl=TargetVtl("TargetVtl", above_caller=True),
        announces=(Recommendation.UseExProcessorMasks,),
        items=("VP-009", "VP-010"),
        notes="the variable header holds the banks of the processor set; an explicit higher VTL is reached (DIS-15)",
    ),
    Call(
        Code.HvCallGetPartitionId,
        "TLFS 4.4",
        output=U64_ELEMENTS,
        requires=(Privilege.AccessPartitionId,),
        announces=(Privilege.AccessPartitionId,),
    ),
    Call(
        Code.HvCallInstallIntercept,
        "TLFS 6.3",
        header=HV_INPUT_INSTALL_INTERCEPT,
        min_caller_vtl=1,
        items=("VSM-119", "VSM-120"),
        notes="acts on the lower VTLs of the caller's own partition; I/O ports and MSRs only",
    ),
    Call(
        Code.HvCallGetVpRegisters,
        "TLFS 7.10.2",
        REP,
        header=HV_INPUT_GET_VP_REGISTERS,
        element=U32_ELEMENTS,
        output=REGISTER_VALUES,
        requires=(Privilege.AccessVpRegisters,),
        target_vtl=TargetVtl("InputVtl"),
        announces=(Privilege.AccessVpRegisters,),
        items=("REG-001", "REG-003", "REG-004"),
        notes="an element is a register name",
    ),
    Call(
        Code.HvCallSetVpRegisters,
        "TLFS 7.10.1",
        REP,
        header=HV_INPUT_SET_VP_REGISTERS,
        element=Structures(HV_REGISTER_ASSOC),
        requires=(Privilege.AccessVpRegisters,),
        target_vtl=TargetVtl("InputVtl"),
        announces=(Privilege.AccessVpRegisters,),
        items=("REG-002", "REG-003", "REG-004"),
        notes="32-byte elements (DIS-11)",
    ),
    Call(
        Code.HvCallTranslateVirtualAddress,
        "TLFS 9.4",
        header=HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS,
        output=Structures(HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS),
        requires=(Privilege.AccessVpRegisters,),
        target_vtl=TargetVtl("ControlFlags", VtlForm.IN_FLAGS),
        announces=(HV_HYPERVISOR_FEATURES_EDX.TranslateGvaFlagsAvailable,),
        items=("VP-020", "VP-021", "VP-022", "VP-023", "VP-024"),
        notes="the caller's own VTL may be translated (DIS-16)",
    ),
    Call(
        Code.HvCallPostMessage,
        "TLFS 11.11",
        header=HV_INPUT_POST_MESSAGE,
        requires=(Privilege.PostMessages,),
        announces=(Privilege.PostMessages,),
        items=("SYN-027",),
    ),
    Call(
        Code.HvCallSignalEvent,
        "TLFS 11.11",
        header=HV_INPUT_SIGNAL_EVENT,
        requires=(Privilege.SignalEvents,),
        announces=(Privilege.SignalEvents,),
        items=("SYN-028",),
    ),
    Call(
        Code.HvCallAssertVirtualInterrupt,
        "TLFS 10.5",
        header=HV_INPUT_ASSERT_VIRTUAL_INTERRUPT,
        min_caller_vtl=1,
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN),
        items=("SYN-030",),
        notes="for a lower VTL; fixed, lowest priority and NMI only",
    ),
    Call(
        Code.HvCallStartVirtualProcessor,
        "TLFS 7.10.3",
        header=HV_INPUT_START_VIRTUAL_PROCESSOR,
        requires=(Privilege.StartVirtualProcessor,),
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN),
        announces=(Privilege.StartVirtualProcessor,),
        items=("VP-001", "VP-002", "VP-003", "VP-005"),
    ),
    Call(
        Code.HvCallGetVpIndexFromApicId,
        "TLFS 7.10.4",
        REP,
        header=HV_INPUT_GET_VP_INDEX_FROM_APIC_ID,
        element=U32_ELEMENTS,
        output=U32_ELEMENTS,
        requires=(Privilege.StartVirtualProcessor,),
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN, above_caller=True),
        announces=(Privilege.StartVirtualProcessor,),
        items=("VP-006",),
        notes="an element is an APIC id; 4-byte stride (DIS-12)",
    ),
    Call(
        Code.HvCallTranslateVirtualAddressEx,
        "markdown",
        header=HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS,
        output=Structures(HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX),
        requires=(Privilege.AccessVpRegisters,),
        target_vtl=TargetVtl("ControlFlags", VtlForm.IN_FLAGS),
        announces=(HV_HYPERVISOR_FEATURES_EDX.TranslateGvaFlagsAvailable,),
        items=("VP-021", "VP-022", "VP-023", "VP-024", "VP-025"),
        notes="64 bytes of output (DIS-13)",
    ),
    Call(
        Code.HvCallSignalEventDirect,
        "markdown",
        header=HV_INPUT_SIGNAL_EVENT_DIRECT,
        output=U64_ELEMENTS,
        min_caller_vtl=2,
        target_vtl=TargetVtl("TargetVtl", VtlForm.PLAIN),
        items=("SYN-029",),
        notes="output 1 when the flag was clear before, else 0; so a call that is made again, since its output page "
        "was taken away meanwhile, says 0",
    ),
    Call(
        Code.HvCallPostMessageDirect,
        "markdown",
        header=HV_INPUT_POST_MESSAGE_DIRECT,
        min_caller_vtl=2,
        target_vtl=TargetVtl("Vtl", VtlForm.PLAIN),
        items=("SYN-029",),
        notes="280 bytes of input (DIS-14)",
    ),
    Call(
        Code.HvCallCheckSparseGpaPageVtlAccess,
        "hvdef",
        REP,
        header=HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS,
        element=U64_ELEMENTS,
        output=U64_ELEMENTS,
        min_caller_vtl=2,
        target_vtl=TargetVtl("TargetVtl"),
        items=("VSM-090",),
        notes="an element is a GPA page number",
    ),
    Call(
        Code.HvExtCallQueryCapabilities,
        "TLFS 3.14",
        output=U64_ELEMENTS,
        requires=(Privilege.EnableExtendedHypercalls,),
        announces=(Privilege.EnableExtendedHypercalls,),
        items=("HC-020",),
    ),
)
"""In the order of their codes."""

CALLS_BY_CODE: Final[dict[int, Call]] = {int(call.code): call for call in CALLS}
