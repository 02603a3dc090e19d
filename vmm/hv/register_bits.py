# SPDX-License-Identifier: Apache-2.0
"""VP registers whose value is made of bits (TLFS 7.9 and chapter 15; hvdef for what the TLFS leaves out)."""

from __future__ import annotations

from vmm.hv.bits import Bits, bit, bits, reserved, rsvdp, rsvdz
from vmm.hv.open_enum import OpenIntEnum


class HvX64PendingInterruptionType(OpenIntEnum):
    """HV_X64_PENDING_INTERRUPTION_TYPE (TLFS 7.9, REG-014)."""

    HvX64PendingInterrupt = 0
    HvX64PendingNmi = 2
    HvX64PendingException = 3
    HvX64PendingSoftwareInterrupt = 4
    HvX64PendingPrivilegedSoftwareException = 5
    HvX64PendingSoftwareException = 6


class HvX64PendingEventType(OpenIntEnum):
    """HV_X64_PENDING_EVENT_TYPE (hvdef, REG-013)."""

    HvX64PendingEventException = 0


class HV_REGISTER_VSM_CODE_PAGE_OFFSETS(Bits):
    """Where the hypercall page has its VTL call and VTL return sequences, in bytes (TLFS 15.8, VSM-004)."""

    VtlCallOffset = bits(0, 12)
    VtlReturnOffset = bits(12, 12)
    ReservedZ = rsvdz(24, 40)


class HV_REGISTER_VSM_VP_STATUS(Bits):
    """The VTLs of one VP (TLFS 15.3, VSM-003)."""

    ActiveVtl = bits(0, 4)
    ActiveMbecEnabled = bit(4)
    ReservedZ0 = rsvdz(5, 11)
    EnabledVtlSet = bits(16, 16)
    """Bit N: VTL N is enabled on this VP."""
    ReservedZ1 = rsvdz(32, 32)


class HV_REGISTER_VSM_PARTITION_STATUS(Bits):
    """The VTLs of the partition (TLFS 15.3, VSM-002)."""

    EnabledVtlSet = bits(0, 16)
    MaximumVtl = bits(16, 4)
    MbecEnabledVtlSet = bits(20, 16)
    SssEnabledVtlSet = bits(36, 4)
    ReservedZ = rsvdz(40, 24)


class HV_REGISTER_VSM_CAPABILITIES(Bits):
    """What VSM offers, in the layout that hvdef and Linux read (DIS-01, VSM-001)."""

    Dr6Shared = bit(0)
    MbecVtlMask = bits(1, 16)
    DenyLowerVtlStartup = bit(17)
    SupervisorShadowStack = bit(18)
    HardwareHvptAvailable = bit(19)
    SoftwareHvptAvailable = bit(20)
    HardwareHvptRangeBits = bits(21, 6)
    InterceptPageAvailable = bit(27)
    ReturnActionAvailable = bit(28)
    Vtl0AliasMapAvailable = bit(29)
    InterceptNotPresentAvailable = bit(30)
    InstallInterceptEx = bit(31)
    InterceptSystemResetAvailable = bit(32)
    Reserved1 = reserved(33)
    ProxyInterruptRedirectAvailable = bit(34)
    Reserved2 = reserved(35, 29)


class HV_REGISTER_VSM_CAPABILITIES_TLFS(Bits):
    """The same register in the layout of the TLFS's table, which kvm-unit-tests read (DIS-01)."""

    RsvdZ = rsvdz(0, 46)
    DenyLowerVtlStartup = bit(46)
    MbecVtlMask = bits(47, 16)
    Dr6Shared = bit(63)


class HV_REGISTER_VSM_PARTITION_CONFIG(Bits):
    """What a VTL above 0 rules over the lower ones (TLFS 15.5, VSM-006); bits 7, 8 and 10 to 15 from hvdef."""

    EnableVtlProtection = bit(0)
    DefaultVtlProtectionMask = bits(1, 4)
    ZeroMemoryOnReset = bit(5)
    DenyLowerVtlStartup = bit(6)
    InterceptAcceptance = bit(7)
    InterceptEnableVtlProtection = bit(8)
    InterceptVpStartup = bit(9)
    InterceptCpuidUnimplemented = bit(10)
    InterceptUnrecoverableException = bit(11)
    InterceptPage = bit(12)
    InterceptRestorePartitionTime = bit(13)
    InterceptNotPresent = bit(14)
    InterceptSystemReset = bit(15)
    Reserved = reserved(16, 48)


class HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG(Bits):
    """What the owner VTL rules over one lower VTL on one VP (TLFS 15.5.2, VSM-014)."""

    MbecEnabled = bit(0)
    TlbLocked = bit(1)
    SupervisorShadowStackEnabled = bit(2)
    HardwareHvptEnabled = bit(3)
    ReservedZ = rsvdz(4, 60)


class HV_REGISTER_VSM_VINA(Bits):
    """Virtual interrupt notification assist (TLFS 15.12.4, VSM-017)."""

    Vector = bits(0, 8)
    Enabled = bit(8)
    AutoReset = bit(9)
    AutoEoi = bit(10)
    ReservedP = rsvdp(11, 53)


class HV_REGISTER_VSM_VP_WAIT_FOR_TLB_LOCK(Bits):
    """Hold a VTL back until TLB locks held now are released (hvdef, VSM-018)."""

    Wait = bit(0)
    Reserved = reserved(1, 63)


class HV_REGISTER_GUEST_VSM_PARTITION_CONFIG(Bits):
    """What VTL2 lets the guest see of VSM (hvdef, VSM-019)."""

    MaximumVtl = bits(0, 4)
    Vtl0InterruptInjection = bits(4, 2)
    Vtl1InterruptInjection = bits(6, 2)
    Reserved = reserved(8, 56)


class HV_REGISTER_CR_INTERCEPT_CONTROL(Bits):
    """Which register accesses of lower VTLs are intercepted (TLFS 15.13.4, VSM-113); bits 25 to 28 from hvdef."""

    Cr0Write = bit(0)
    Cr4Write = bit(1)
    XCr0Write = bit(2)
    IA32MiscEnableRead = bit(3)
    IA32MiscEnableWrite = bit(4)
    MsrLstarRead = bit(5)
    MsrLstarWrite = bit(6)
    MsrStarRead = bit(7)
    MsrStarWrite = bit(8)
    MsrCstarRead = bit(9)
    MsrCstarWrite = bit(10)
    ApicBaseMsrRead = bit(11)
    ApicBaseMsrWrite = bit(12)
    MsrEferRead = bit(13)
    MsrEferWrite = bit(14)
    GdtrWrite = bit(15)
    IdtrWrite = bit(16)
    LdtrWrite = bit(17)
    TrWrite = bit(18)
    MsrSysenterCsWrite = bit(19)
    MsrSysenterEipWrite = bit(20)
    MsrSysenterEspWrite = bit(21)
    MsrSfmaskWrite = bit(22)
    MsrTscAuxWrite = bit(23)
    MsrSgxLaunchControlWrite = bit(24)
    MsrXssWrite = bit(25)
    MsrScetWrite = bit(26)
    MsrPlsSspWrite = bit(27)
    MsrInterruptSspTableAddrWrite = bit(28)
    RsvdZ = rsvdz(29, 35)


class HV_EXPLICIT_SUSPEND_REGISTER(Bits):
    """A VP stopped on request (hvdef)."""

    Suspended = bit(0)
    Reserved = reserved(1, 63)


class HV_INTERCEPT_SUSPEND_REGISTER(Bits):
    """A VP stopped by an intercept (v6.0b 7.9, hvdef)."""

    Suspended = bit(0)
    TlbLocked = bit(1)
    Reserved = reserved(2, 62)


class HV_INTERNAL_ACTIVITY_REGISTER(Bits):
    """Why a VP does not run (hvdef)."""

    StartupSuspend = bit(0)
    HaltSuspend = bit(1)
    IdleSuspend = bit(2)
    Reserved = reserved(3, 61)


class HV_X64_PENDING_INTERRUPTION_REGISTER(Bits):
    """The event that is being delivered (TLFS 7.9, REG-014)."""

    InterruptionPending = bit(0)
    InterruptionType = bits(1, 3, HvX64PendingInterruptionType)
    DeliverErrorCode = bit(4)
    InstructionLength = bits(5, 4)
    NestedEvent = bit(9)
    Reserved = reserved(10, 6)
    InterruptionVector = bits(16, 16)
    ErrorCode = bits(32, 32)


class HV_X64_INTERRUPT_STATE_REGISTER(Bits):
    """Interrupt shadow and NMI blocking (TLFS 7.9)."""

    InterruptShadow = bit(0)
    NmiMasked = bit(1)
    Reserved = reserved(2, 62)


class HV_DELIVERABILITY_NOTIFICATIONS_REGISTER(Bits):
    """What VTL2 wants to hear of when it can be delivered (hvdef, OHCL-009)."""

    NmiNotification = bit(0)
    InterruptNotification = bit(1)
    InterruptPriority = bits(2, 4)
    Reserved = reserved(6, 42)
    Sints = bits(48, 16)


class HV_X64_PENDING_EXCEPTION_EVENT(Bits, size=16):
    """An exception to be delivered when the VTL next runs (hvdef; named in v6.0b; REG-013)."""

    EventPending = bit(0)
    EventType = bits(1, 3, HvX64PendingEventType)
    Reserved0 = reserved(4, 4)
    DeliverErrorCode = bit(8)
    Reserved1 = reserved(9, 7)
    Vector = bits(16, 16)
    ErrorCode = bits(32, 32)
    ExceptionParameter = bits(64, 64)
    """CR2 for #PF, DR6 for #DB."""


class HV_X64_SEGMENT_ATTRIBUTES(Bits, size=2):
    """The attributes of a segment register: the VMX order without its unusable bit; Present clear means unusable."""

    SegmentType = bits(0, 4)
    NonSystemSegment = bit(4)
    DescriptorPrivilegeLevel = bits(5, 2)
    Present = bit(7)
    Reserved = reserved(8, 4)
    Available = bit(12)
    Long = bit(13)
    Default = bit(14)
    Granularity = bit(15)
