# SPDX-License-Identifier: Apache-2.0
"""Input blocks of hypercalls: the fixed part, and the element that repeats behind it (TLFS chapters 7, 9 to 11, 15).

Where documents disagree the layout real software uses is taken; the other one is kept beside it under a name that
says whose it is.
"""

from vmm.hv.bits import Bits, bit, bits, reserved
from vmm.hv.bits import rsvdz as rsvdz_bits
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.layout import U8, U16, U32, U64, Layout, padding, raw, rsvdz
from vmm.hv.memory_bits import (
    HV_FLUSH_FLAGS,
    HV_INTERCEPT_ACCESS_MASK,
    HV_MAP_GPA_FLAGS,
    HV_TRANSLATE_GVA_CONTROL_FLAGS,
)
from vmm.hv.open_enum import OpenIntEnum
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT


class HvGenericSetFormat(OpenIntEnum):
    """HV_GENERIC_SET_FORMAT: how a VP set is written (TLFS 7.8)."""

    HvGenericSetSparse4k = 0
    HvGenericSetAll = 1


class HV_VP_SET(Layout, element=("BankContents", U64)):
    """A set of VPs: bank N holds VPs 64 N to 64 N + 63, one bank for each bit set in the mask (TLFS 7.8)."""

    Format: U64
    """HvGenericSetFormat."""
    ValidBankMask: U64


class HV_REGISTER_ASSOC(Layout):
    """A register's name and value (TLFS 7.9)."""

    Name: U32
    """HvRegisterName."""
    Reserved: bytes = padding(12)
    Value: bytes = raw(16)


class HV_INPUT_GET_VP_REGISTERS(Layout, element=("Names", U32)):
    """HvCallGetVpRegisters (TLFS 7.10.2, REG-001); output: 16 bytes for each register."""

    PartitionId: U64
    VpIndex: U32
    InputVtl: HV_INPUT_VTL
    RsvdZ: bytes = rsvdz(3)


class HV_INPUT_SET_VP_REGISTERS(Layout, element=("Elements", HV_REGISTER_ASSOC)):
    """HvCallSetVpRegisters (TLFS 7.10.1, REG-002, DIS-11)."""

    PartitionId: U64
    VpIndex: U32
    InputVtl: HV_INPUT_VTL
    RsvdZ: bytes = rsvdz(3)


class HV_ENABLE_PARTITION_VTL_FLAGS(Bits, size=1):
    """Flags of HvCallEnablePartitionVtl (TLFS 15.15.3); bits 1 and 2 from hvdef."""

    EnableMbec = bit(0)
    EnableSupervisorShadowStack = bit(1)
    EnableHardwareHvpt = bit(2)
    RsvdZ = rsvdz_bits(3, 5)


class HV_INPUT_ENABLE_PARTITION_VTL(Layout):
    """HvCallEnablePartitionVtl (TLFS 15.15.3, DIS-04)."""

    TargetPartitionId: U64
    TargetVtl: U8
    Flags: HV_ENABLE_PARTITION_VTL_FLAGS
    RsvdZ: bytes = rsvdz(6)


class HV_INPUT_ENABLE_VP_VTL(Layout):
    """HvCallEnableVpVtl (TLFS 15.15.4)."""

    TargetPartitionId: U64
    VpIndex: U32
    TargetVtl: U8
    RsvdZ: bytes = rsvdz(3)
    VpVtlContext: HV_INITIAL_VP_CONTEXT


class HV_INPUT_START_VIRTUAL_PROCESSOR(Layout):
    """HvCallStartVirtualProcessor (TLFS 7.10.3, VP-001)."""

    PartitionId: U64
    VpIndex: U32
    TargetVtl: U8
    Padding: bytes = padding(3)
    VpContext: HV_INITIAL_VP_CONTEXT


class HV_INPUT_MODIFY_VTL_PROTECTION_MASK(Layout, element=("GpaPageList", U64)):
    """HvCallModifyVtlProtectionMask (TLFS 15.15.2, VSM-070, DIS-02)."""

    TargetPartitionId: U64
    MapFlags: HV_MAP_GPA_FLAGS
    TargetVtl: HV_INPUT_VTL
    RsvdZ: bytes = rsvdz(3)


class HV_INPUT_INSTALL_INTERCEPT(Layout):
    """HvCallInstallIntercept (TLFS 6.1, VSM-119)."""

    PartitionId: U64
    AccessTypeMask: HV_INTERCEPT_ACCESS_MASK
    InterceptType: U32
    """HvInterceptType."""
    InterceptParameters: U64


class HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS(Layout):
    """HvCallTranslateVirtualAddress and HvCallTranslateVirtualAddressEx (TLFS 9.4, VP-020, VP-025)."""

    PartitionId: U64
    VpIndex: U32
    Padding: bytes = padding(4)
    ControlFlags: HV_TRANSLATE_GVA_CONTROL_FLAGS
    GvaPage: U64


class HV_INPUT_GET_VP_INDEX_FROM_APIC_ID(Layout, element=("ApicId", U32)):
    """HvCallGetVpIndexFromApicId (TLFS 7.10.4, VP-006). Elements of 4 bytes, which real guests use (DIS-12)."""

    PartitionId: U64
    TargetVtl: U8
    Padding: bytes = padding(7)


class HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI(Layout):
    """HvCallSendSyntheticClusterIpi (TLFS 10.5, VP-008)."""

    Vector: U32
    TargetVtl: HV_INPUT_VTL
    Flags: U8
    """hvdef; padding in the TLFS."""
    Reserved: bytes = padding(2)
    ProcessorMask: U64


class HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI_EX(Layout, element=("Banks", U64)):
    """HvCallSendSyntheticClusterIpiEx (TLFS 10.5, VP-009)."""

    Vector: U32
    TargetVtl: HV_INPUT_VTL
    Padding: bytes = padding(3)
    VpSet: HV_VP_SET


class HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE(Layout):
    """HvCallFlushVirtualAddressSpace (TLFS 9.4)."""

    AddressSpace: U64
    """A CR3 value."""
    Flags: HV_FLUSH_FLAGS
    ProcessorMask: U64


class HV_INPUT_FLUSH_VIRTUAL_ADDRESS_LIST(Layout, element=("GvaRangeList", U64)):
    """HvCallFlushVirtualAddressList (TLFS 9.4): elements are HV_GVA_RANGE."""

    AddressSpace: U64
    """A CR3 value."""
    Flags: HV_FLUSH_FLAGS
    ProcessorMask: U64


class HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX(Layout, element=("Banks", U64)):
    """HvCallFlushVirtualAddressSpaceEx, and HvCallFlushVirtualAddressListEx before its HV_GVA_RANGE (TLFS 9.4)."""

    AddressSpace: U64
    """A CR3 value."""
    Flags: HV_FLUSH_FLAGS
    VpSet: HV_VP_SET


class HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE(Layout):
    """HvCallSwitchVirtualAddressSpace (TLFS 9.4)."""

    AddressSpace: U64
    """A CR3 value."""


class HV_INPUT_NOTIFY_LONG_SPIN_WAIT(Layout):
    """HvCallNotifyLongSpinWait (TLFS 14.5)."""

    SpinCount: U32
    Reserved: bytes = padding(4)


class HV_INPUT_POST_MESSAGE(Layout):
    """HvCallPostMessage (TLFS 11.12)."""

    ConnectionId: U32
    Reserved: bytes = padding(4)
    MessageType: U32
    PayloadSize: U32
    """In bytes, up to 240."""
    Payload: bytes = raw(240)


class HV_INPUT_SIGNAL_EVENT(Layout):
    """HvCallSignalEvent (TLFS 11.12)."""

    ConnectionId: U32
    FlagNumber: U16
    """Counted from the connection's base flag."""
    Reserved: bytes = padding(2)


class HV_INPUT_SIGNAL_EVENT_DIRECT(Layout):
    """HvCallSignalEventDirect (markdown, hvdef)."""

    TargetPartition: U64
    TargetVp: U32
    TargetVtl: U8
    TargetSint: U8
    FlagNumber: U16


class HV_INPUT_POST_MESSAGE_DIRECT(Layout):
    """HvCallPostMessageDirect as hvdef has it (DIS-14)."""

    PartitionId: U64
    VpIndex: U32
    Vtl: U8
    Padding0: bytes = padding(3)
    Sint: U8
    Padding1: bytes = padding(3)
    Message: bytes = raw(256)
    """An HV_MESSAGE."""
    Padding2: bytes = padding(4)


class HV_INPUT_POST_MESSAGE_DIRECT_MD(Layout):
    """The same in the markdown's layout (DIS-14): no caller of it is known."""

    PartitionId: U64
    VpIndex: U32
    TargetVtl: U8
    SintIndex: U8
    Padding: bytes = padding(2)
    Message: bytes = raw(240)


class HV_INTERRUPT_CONTROL(Bits):
    """How a virtual interrupt is delivered (TLFS 10.5)."""

    InterruptType = bits(0, 32)
    LevelTriggered = bit(32)
    LogicalDestinationMode = bit(33)
    Reserved = reserved(34, 30)


class HV_INPUT_ASSERT_VIRTUAL_INTERRUPT(Layout):
    """HvCallAssertVirtualInterrupt (TLFS 10.5)."""

    TargetPartition: U64
    InterruptControl: HV_INTERRUPT_CONTROL
    DestinationAddress: U64
    RequestedVector: U32
    TargetVtl: U8
    ReservedZ: bytes = rsvdz(3)


class HV_INPUT_RETARGET_DEVICE_INTERRUPT(Layout, element=("Banks", U64)):
    """HvCallRetargetDeviceInterrupt (TLFS 10.5, MISC-010). With a VP set its format lies in MaskOrVpSet."""

    PartitionId: U64
    DeviceId: U64
    InterruptSource: U32
    Reserved: bytes = padding(4)
    InterruptData: U64
    Reserved2: bytes = padding(8)
    Vector: U32
    Flags: U32
    MaskOrVpSet: U64


class HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS(Layout, element=("GpaPageList", U64)):
    """HvCallCheckSparseGpaPageVtlAccess (hvdef, VSM-090)."""

    PartitionId: U64
    TargetVtl: HV_INPUT_VTL
    DesiredAccess: U8
    Reserved0: bytes = padding(2)
    Reserved1: bytes = padding(4)


class HV_INPUT_ACCEPT_GPA_PAGES(Layout):
    """HvCallAcceptGpaPages (hvdef)."""

    PartitionId: U64
    PageAttributes: U32
    VtlPermissionSet: U32
    GpaPageBase: U64
