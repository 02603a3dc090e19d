# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's CPUID leaves as words with named bits (TLFS 2.3, 2.4; markdown "Feature Discovery"; hvdef, Linux).

`LEAVES` lists, for each leaf, what EAX, EBX, ECX and EDX mean; a register without an entry is a plain number or zero.
Leaf 0x40000003's EAX and EBX together are the 64-bit privilege mask, described as one word.
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.hv.bits import Bits, bit, bits, reserved
from vmm.hv.open_enum import OpenIntEnum


class HvCpuidLeaf(OpenIntEnum):
    """HV_CPUID_FUNCTION."""

    HvCpuIdFunctionHvVendorAndMaxFunction = 0x40000000
    HvCpuIdFunctionHvInterface = 0x40000001
    HvCpuIdFunctionMsHvVersion = 0x40000002
    HvCpuIdFunctionMsHvFeatures = 0x40000003
    HvCpuIdFunctionMsHvEnlightenmentInformation = 0x40000004
    HvCpuIdFunctionMsHvImplementationLimits = 0x40000005
    HvCpuIdFunctionMsHvHardwareFeatures = 0x40000006
    HvCpuIdFunctionMsHvCpuManagementFeatures = 0x40000007
    HvCpuIdFunctionMsHvSvmFeatures = 0x40000008
    HvCpuIdFunctionMsHvSkipLevelFeatures = 0x40000009
    HvCpuIdFunctionMsHvNestedVirtFeatures = 0x4000000A
    HvCpuIdFunctionMsHvIptFeatures = 0x4000000B
    HvCpuIdFunctionMsHvIsolationConfiguration = 0x4000000C
    VirtualizationStackVendor = 0x40000080
    VirtualizationStackInterface = 0x40000081
    VirtualizationStackProperties = 0x40000082


CPUID_1_ECX_HYPERVISOR_PRESENT = 1 << 31
"""CPUID leaf 1, ECX: a hypervisor is there (TLFS 2.2, DISC-001)."""

HV_VENDOR = b"Microsoft Hv"
"""EBX, ECX, EDX of leaf 0x40000000 (DISC-002)."""
HV_MINIMUM_MAX_LEAF = 0x40000005
"""The lowest EAX of leaf 0x40000000 that guests accept (DISC-002)."""
HV_INTERFACE_SIGNATURE = int.from_bytes(b"Hv#1", "little")
"""EAX of leaf 0x40000001 (DISC-003)."""
VIRTUALIZATION_STACK_INTERFACE_SIGNATURE = int.from_bytes(b"VS#1", "little")
"""EAX of leaf 0x40000081 (DISC-015)."""
HV_SPIN_RETRIES_NEVER_NOTIFY = 0xFFFF_FFFF
"""EBX of leaf 0x40000004: never call HvCallNotifyLongSpinWait (DISC-011, DIS-27)."""


class HvPartitionIsolationType(OpenIntEnum):
    """HV_PARTITION_ISOLATION_TYPE."""

    HvPartitionIsolationTypeNone = 0
    HvPartitionIsolationTypeVbs = 1
    HvPartitionIsolationTypeSnp = 2
    HvPartitionIsolationTypeTdx = 3


class HV_HYPERVISOR_VERSION_EBX(Bits, size=4):
    """Leaf 0x40000002, EBX."""

    MinorVersion = bits(0, 16)
    MajorVersion = bits(16, 16)


class HV_HYPERVISOR_VERSION_EDX(Bits, size=4):
    """Leaf 0x40000002, EDX."""

    ServiceNumber = bits(0, 24)
    ServiceBranch = bits(24, 8)


class HV_PARTITION_PRIVILEGE_MASK(Bits):
    """Leaf 0x40000003, EBX:EAX: what the partition may use (TLFS 4.2.2, DISC-005)."""

    AccessVpRunTimeReg = bit(0)
    AccessPartitionReferenceCounter = bit(1)
    AccessSynicRegs = bit(2)
    AccessSyntheticTimerRegs = bit(3)
    AccessIntrCtrlRegs = bit(4)
    AccessHypercallMsrs = bit(5)
    AccessVpIndex = bit(6)
    AccessResetReg = bit(7)
    AccessStatsReg = bit(8)
    AccessPartitionReferenceTsc = bit(9)
    AccessGuestIdleReg = bit(10)
    AccessFrequencyRegs = bit(11)
    AccessDebugRegs = bit(12)
    AccessReenlightenmentControls = bit(13)
    AccessRootSchedulerReg = bit(14)
    AccessTscInvariantControls = bit(15)
    Reserved1 = reserved(16, 16)
    CreatePartitions = bit(32)
    AccessPartitionId = bit(33)
    AccessMemoryPool = bit(34)
    AdjustMessageBuffers = bit(35)
    PostMessages = bit(36)
    SignalEvents = bit(37)
    CreatePort = bit(38)
    ConnectPort = bit(39)
    AccessStats = bit(40)
    Reserved2 = reserved(41, 2)
    Debugging = bit(43)
    CpuManagement = bit(44)
    ConfigureProfiler = bit(45)
    AccessVpExitTracing = bit(46)
    EnableExtendedGvaRangesForFlushVirtualAddressList = bit(47)
    AccessVsm = bit(48)
    AccessVpRegisters = bit(49)
    Reserved3 = reserved(50)
    FastHypercallOutput = bit(51)
    EnableExtendedHypercalls = bit(52)
    StartVirtualProcessor = bit(53)
    Isolation = bit(54)
    Reserved4 = reserved(55, 9)

    @property
    def eax(self) -> int:
        """EAX of leaf 0x40000003."""
        return self & 0xFFFF_FFFF

    @property
    def ebx(self) -> int:
        """EBX of leaf 0x40000003."""
        return self >> 32


class HV_HYPERVISOR_FEATURES_ECX(Bits, size=4):
    """Leaf 0x40000003, ECX (DISC-008)."""

    MaxSupportedCState = bits(0, 4)
    HpetNeededForC3PowerState_Deprecated = bit(4)
    InvariantMperfAvailable = bit(5)
    SupervisorShadowStackAvailable = bit(6)
    ArchPmuAvailable = bit(7)
    ExceptionTrapInterceptAvailable = bit(8)
    Reserved = reserved(9, 23)


class HV_HYPERVISOR_FEATURES_EDX(Bits, size=4):
    """Leaf 0x40000003, EDX (DISC-009)."""

    MwaitAvailable_Deprecated = bit(0)
    GuestDebuggingAvailable = bit(1)
    PerformanceMonitorsAvailable = bit(2)
    CpuDynamicPartitioningAvailable = bit(3)
    XmmRegistersForFastHypercallAvailable = bit(4)
    GuestIdleAvailable = bit(5)
    HypervisorSleepStateSupportAvailable = bit(6)
    NumaDistanceQueryAvailable = bit(7)
    FrequencyRegsAvailable = bit(8)
    SyntheticMachineCheckAvailable = bit(9)
    GuestCrashRegsAvailable = bit(10)
    DebugRegsAvailable = bit(11)
    Npiep1Available = bit(12)
    DisableHypervisorAvailable = bit(13)
    ExtendedGvaRangesForFlushVirtualAddressListAvailable = bit(14)
    FastHypercallOutputAvailable = bit(15)
    SvmFeaturesAvailable = bit(16)
    SintPollingModeAvailable = bit(17)
    HypercallMsrLockAvailable = bit(18)
    DirectSyntheticTimers = bit(19)
    RegisterPatAvailable = bit(20)
    RegisterBndcfgsAvailable = bit(21)
    WatchdogTimerAvailable = bit(22)
    SyntheticTimeUnhaltedTimerAvailable = bit(23)
    DeviceDomainsAvailable = bit(24)
    S1DeviceDomainsAvailable = bit(25)
    LbrAvailable = bit(26)
    IptAvailable = bit(27)
    CrossVtlFlushAvailable = bit(28)
    IdleSpecCtrlAvailable = bit(29)
    TranslateGvaFlagsAvailable = bit(30)
    ApicEoiInterceptAvailable = bit(31)


class HV_ENLIGHTENMENT_INFORMATION_EAX(Bits, size=4):
    """Leaf 0x40000004, EAX: what the guest had better do (DISC-010)."""

    UseHypercallForAddressSpaceSwitch = bit(0)
    UseHypercallForLocalFlush = bit(1)
    UseHypercallForRemoteFlushAndLocalFlushEntire = bit(2)
    UseApicMsrs = bit(3)
    UseHvRegisterForReset = bit(4)
    UseRelaxedTiming = bit(5)
    UseDmaRemapping_Deprecated = bit(6)
    UseInterruptRemapping_Deprecated = bit(7)
    UseX2ApicMsrs = bit(8)
    DeprecateAutoEoi = bit(9)
    UseSyntheticClusterIpi = bit(10)
    UseExProcessorMasks = bit(11)
    Nested = bit(12)
    UseIntForMbecSystemCalls = bit(13)
    UseVmcsEnlightenments = bit(14)
    UseSyncedTimeline = bit(15)
    CoreSchedulerRequested = bit(16)
    UseDirectLocalFlushEntire = bit(17)
    NoNonArchitecturalCoreSharing = bit(18)
    UseX2Apic = bit(19)
    RestoreTimeOnResume = bit(20)
    UseHypercallForMmioAccess = bit(21)
    UseGpaPinningHypercall = bit(22)
    WakeVps = bit(23)
    Reserved = reserved(24, 8)


class HV_ENLIGHTENMENT_INFORMATION_ECX(Bits, size=4):
    """Leaf 0x40000004, ECX."""

    ImplementedPhysicalAddressBits = bits(0, 7)
    Reserved = reserved(7, 25)


class HV_HARDWARE_FEATURES_EAX(Bits, size=4):
    """Leaf 0x40000006, EAX: for information (DISC-013)."""

    ApicOverlayAssistInUse = bit(0)
    MsrBitmapsInUse = bit(1)
    ArchitecturalPerformanceCountersInUse = bit(2)
    SecondLevelAddressTranslationInUse = bit(3)
    DmaRemappingInUse = bit(4)
    InterruptRemappingInUse = bit(5)
    MemoryPatrolScrubberPresent = bit(6)
    DmaProtectionInUse = bit(7)
    HpetRequested = bit(8)
    SyntheticTimersVolatile = bit(9)
    HypervisorLevel = bits(10, 4)
    PhysicalDestinationModeRequired = bit(14)
    UseVmfuncForAliasMapSwitch = bit(15)
    HvRegisterForMemoryZeroingSupported = bit(16)
    UnrestrictedGuestSupported = bit(17)
    RdtAFeaturesSupported = bit(18)
    RdtMFeaturesSupported = bit(19)
    ChildPerfmonPmuSupported = bit(20)
    ChildPerfmonLbrSupported = bit(21)
    ChildPerfmonIptSupported = bit(22)
    ApicEmulationSupported = bit(23)
    ChildX2ApicRecommended = bit(24)
    HardwareWatchdogReserved = bit(25)
    DeviceAccessTrackingSupported = bit(26)
    HardwareGpaAccessTrackingSupported = bit(27)
    Reserved = reserved(28, 4)


class HV_HARDWARE_FEATURES_EBX(Bits, size=4):
    """Leaf 0x40000006, EBX (hvdef)."""

    DeviceDomainInputWidth = bits(0, 8)
    Reserved = reserved(8, 24)


class HV_CPU_MANAGEMENT_FEATURES_EAX(Bits, size=4):
    """Leaf 0x40000007, EAX: for a root partition (TLFS 2.4)."""

    StartLogicalProcessor = bit(0)
    CreateRootVirtualProcessor = bit(1)
    PerformanceCounterSync = bit(2)
    Reserved = reserved(3, 28)
    ReservedIdentityBit = bit(31)


class HV_CPU_MANAGEMENT_FEATURES_EBX(Bits, size=4):
    """Leaf 0x40000007, EBX."""

    ProcessorPowerManagement = bit(0)
    MwaitIdleStates = bit(1)
    LogicalProcessorIdling = bit(2)
    Reserved = reserved(3, 29)


class HV_CPU_MANAGEMENT_FEATURES_ECX(Bits, size=4):
    """Leaf 0x40000007, ECX."""

    RemapGuestUncached = bit(0)
    Reserved = reserved(1, 31)


class HV_SVM_FEATURES_EAX(Bits, size=4):
    """Leaf 0x40000008, EAX: shared virtual memory of devices."""

    SvmSupported = bit(0)
    Reserved = reserved(1, 10)
    MaxPasidSpacePasidCount = bits(11, 21)


class HV_NESTED_FEATURES_EAX(Bits, size=4):
    """Leaf 0x40000009, EAX: what a nested hypervisor may use of the level below."""

    Reserved1 = reserved(0, 2)
    AccessSynicRegs = bit(2)
    Reserved2 = reserved(3)
    AccessIntrCtrlRegs = bit(4)
    AccessHypercallMsrs = bit(5)
    AccessVpIndex = bit(6)
    Reserved3 = reserved(7, 5)
    AccessReenlightenmentControls = bit(12)
    Reserved4 = reserved(13, 19)


class HV_NESTED_FEATURES_EDX(Bits, size=4):
    """Leaf 0x40000009, EDX."""

    Reserved1 = reserved(0, 4)
    XmmRegistersForFastHypercallAvailable = bit(4)
    Reserved2 = reserved(5, 10)
    FastHypercallOutputAvailable = bit(15)
    Reserved3 = reserved(16)
    SintPollingModeAvailable = bit(17)
    Reserved4 = reserved(18, 14)


class HV_NESTED_VIRTUALIZATION_FEATURES_EAX(Bits, size=4):
    """Leaf 0x4000000A, EAX (DISC-014)."""

    EnlightenedVmcsVersionLow = bits(0, 8)
    EnlightenedVmcsVersionHigh = bits(8, 8)
    Reserved1 = reserved(16)
    DirectFlushHypercall = bit(17)
    FlushGuestPhysicalHypercall = bit(18)
    MsrBitmap = bit(19)
    VirtualizationException = bit(20)
    DebugCtl = bit(21)
    EnlightenedTlb = bit(22)
    Reserved2 = reserved(23, 9)


class HV_ISOLATION_CONFIGURATION_EAX(Bits, size=4):
    """Leaf 0x4000000C, EAX."""

    ParavisorPresent = bit(0)
    Reserved = reserved(1, 31)


class HV_ISOLATION_CONFIGURATION_EBX(Bits, size=4):
    """Leaf 0x4000000C, EBX."""

    IsolationType = bits(0, 4, HvPartitionIsolationType)
    Reserved1 = reserved(4)
    SharedGpaBoundaryActive = bit(5)
    SharedGpaBoundaryBits = bits(6, 6)
    Reserved2 = reserved(12, 20)


class VIRTUALIZATION_STACK_PROPERTIES_EAX(Bits, size=4):
    """Leaf 0x40000082, EAX (Linux, hvdef; DISC-015)."""

    Portable = bit(0)
    DebugDevicePresent = bit(1)
    ExtendedIoApicRte = bit(2)
    Reserved = reserved(3, 29)


class CpuidLeaf(NamedTuple):
    """The meaning of a leaf's registers. `eax` of the features leaf describes EBX:EAX together."""

    leaf: HvCpuidLeaf
    section: str
    eax: type[Bits] | None = None
    ebx: type[Bits] | None = None
    ecx: type[Bits] | None = None
    edx: type[Bits] | None = None


_L = HvCpuidLeaf
LEAVES: tuple[CpuidLeaf, ...] = (
    CpuidLeaf(_L.HvCpuIdFunctionHvVendorAndMaxFunction, "TLFS 2.3"),
    CpuidLeaf(_L.HvCpuIdFunctionHvInterface, "TLFS 2.3"),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvVersion,
        "TLFS 2.4",
        ebx=HV_HYPERVISOR_VERSION_EBX,
        edx=HV_HYPERVISOR_VERSION_EDX,
    ),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvFeatures,
        "TLFS 2.4, 4.2.2",
        eax=HV_PARTITION_PRIVILEGE_MASK,
        ecx=HV_HYPERVISOR_FEATURES_ECX,
        edx=HV_HYPERVISOR_FEATURES_EDX,
    ),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvEnlightenmentInformation,
        "TLFS 2.4",
        eax=HV_ENLIGHTENMENT_INFORMATION_EAX,
        ecx=HV_ENLIGHTENMENT_INFORMATION_ECX,
    ),
    CpuidLeaf(_L.HvCpuIdFunctionMsHvImplementationLimits, "TLFS 2.4"),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvHardwareFeatures,
        "TLFS 2.4",
        eax=HV_HARDWARE_FEATURES_EAX,
        ebx=HV_HARDWARE_FEATURES_EBX,
    ),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvCpuManagementFeatures,
        "TLFS 2.4",
        eax=HV_CPU_MANAGEMENT_FEATURES_EAX,
        ebx=HV_CPU_MANAGEMENT_FEATURES_EBX,
        ecx=HV_CPU_MANAGEMENT_FEATURES_ECX,
    ),
    CpuidLeaf(_L.HvCpuIdFunctionMsHvSvmFeatures, "TLFS 2.4", eax=HV_SVM_FEATURES_EAX),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvSkipLevelFeatures,
        "TLFS 2.4",
        eax=HV_NESTED_FEATURES_EAX,
        edx=HV_NESTED_FEATURES_EDX,
    ),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvNestedVirtFeatures,
        "TLFS 2.4",
        eax=HV_NESTED_VIRTUALIZATION_FEATURES_EAX,
    ),
    CpuidLeaf(_L.HvCpuIdFunctionMsHvIptFeatures, "markdown"),
    CpuidLeaf(
        _L.HvCpuIdFunctionMsHvIsolationConfiguration,
        "markdown",
        eax=HV_ISOLATION_CONFIGURATION_EAX,
        ebx=HV_ISOLATION_CONFIGURATION_EBX,
    ),
    CpuidLeaf(_L.VirtualizationStackVendor, "Linux, hvdef"),
    CpuidLeaf(_L.VirtualizationStackInterface, "Linux, hvdef"),
    CpuidLeaf(_L.VirtualizationStackProperties, "Linux, hvdef", eax=VIRTUALIZATION_STACK_PROPERTIES_EAX),
)
