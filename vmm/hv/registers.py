# SPDX-License-Identifier: Apache-2.0
"""Virtual processor registers: one table with everything that is true of a register (TLFS 7.8, chapter 15).

A row: code, value type, access, VTL scope, the MSR that is the same register, the meaning of its bits. A member is
its code, so it goes wherever a number goes, and carries the rest of its row:

    HvRegisterName.HvRegisterVsmVina.vtl_scope          # VtlScope.PRIVATE
    HvRegisterName.of(0xD0005)                          # the member, or the number when it has no name

Names are the TLFS's; those that only Linux or hvdef has are theirs. Sources that only infer a scope are followed
(TLFS 15.11 lists registers by group); `ANY` is a scope nobody states.

Implements: REG-017
"""

from __future__ import annotations

import enum
from typing import Self

from vmm.hv import msr_bits as m
from vmm.hv import register_bits as r
from vmm.hv.access import Access, VtlScope
from vmm.hv.bits import Bits
from vmm.hv.layout import Layout
from vmm.hv.open_enum import OpenIntEnum
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER, HV_X64_TABLE_REGISTER


class ValueType(enum.Enum):
    """What lies in the 16 bytes of a register value. Shorter numbers are zero-extended (HV_REGISTER_VALUE)."""

    U32 = "u32", 32
    U64 = "u64", 64
    U128 = "u128", 128
    CPUID = "HV_CPUID_RESULT", 128
    SEGMENT = "HV_X64_SEGMENT_REGISTER", 128
    TABLE = "HV_X64_TABLE_REGISTER", 128
    EVENT = "HV_X64_PENDING_EVENT", 128

    def __init__(self, type_name: str, size_bits: int) -> None:
        self.type_name = type_name
        self.size_bits = size_bits
        self.size_bytes = size_bits // 8
        self.value_mask = (1 << size_bits) - 1


# The table's columns, short so that a row is a line.
U32, U64, U128 = ValueType.U32, ValueType.U64, ValueType.U128
CPUID, SEGMENT, TABLE, EVENT = ValueType.CPUID, ValueType.SEGMENT, ValueType.TABLE, ValueType.EVENT
R, W, RW = Access.R, Access.W, Access.RW
SHARED, PRIVATE, ANY = VtlScope.SHARED, VtlScope.PRIVATE, VtlScope.UNSPECIFIED
PARTITION, PER_VTL, VP = VtlScope.PARTITION, VtlScope.PARTITION_PER_VTL, VtlScope.VP
OWNED, DR6 = VtlScope.OWNER_AND_LOWER, VtlScope.SHARED_IF_DR6_SHARED
NOTIFY = r.HV_DELIVERABILITY_NOTIFICATIONS_REGISTER


class HvRegisterName(OpenIntEnum):
    """HV_REGISTER_NAME."""

    _value_: int
    value_type: ValueType
    access: Access
    vtl_scope: VtlScope
    msr: int | None
    """The MSR that is this register, where one is."""
    bits: type[Bits] | None
    """The meaning of its bits, where it is not one number."""

    def __new__(
        cls,
        code: int,
        value_type: ValueType,
        access: Access,
        vtl_scope: VtlScope,
        msr: int | None = None,
        bits: type[Bits] | None = None,
    ) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.value_type = value_type
        member.access = access
        member.vtl_scope = vtl_scope
        member.msr = msr
        member.bits = bits
        return member

    # fmt: off
    # Activity and suspension
    HvRegisterExplicitSuspend = 0x00000000, U64, RW, ANY, None, r.HV_EXPLICIT_SUSPEND_REGISTER
    HvRegisterInterceptSuspend = 0x00000001, U64, RW, ANY, None, r.HV_INTERCEPT_SUSPEND_REGISTER
    HvRegisterInstructionEmulationHints = 0x00000002, U64, RW, ANY
    HvRegisterDispatchSuspend = 0x00000003, U64, RW, ANY
    HvRegisterInternalActivityState = 0x00000004, U64, R, PRIVATE, None, r.HV_INTERNAL_ACTIVITY_REGISTER
    # CPUID leaves as registers (0x40000002 to 0x4000000C)
    HvRegisterHypervisorVersion = 0x00000100, CPUID, R, ANY
    HvRegisterPrivilegesAndFeaturesInfo = 0x00000200, CPUID, R, ANY
    HvRegisterFeaturesInfo = 0x00000201, CPUID, R, ANY
    HvRegisterImplementationLimitsInfo = 0x00000202, CPUID, R, ANY
    HvRegisterHardwareFeaturesInfo = 0x00000203, CPUID, R, ANY
    HvRegisterCpuManagementFeaturesInfo = 0x00000204, CPUID, R, ANY
    HvRegisterPasidFeaturesInfo = 0x00000205, CPUID, R, ANY
    HV_REGISTER_SKIP_LEVEL_FEATURES_INFO = 0x00000206, CPUID, R, ANY
    HvRegisterNestedVirtFeaturesInfo = 0x00000207, CPUID, R, ANY
    HvRegisterIptFeaturesInfo = 0x00000208, CPUID, R, ANY
    IsolationConfiguration = 0x00000209, CPUID, R, ANY
    # Crash, power, clocks, idling
    HvRegisterGuestCrashP0 = 0x00000210, U64, RW, ANY, 0x40000100
    HvRegisterGuestCrashP1 = 0x00000211, U64, RW, ANY, 0x40000101
    HvRegisterGuestCrashP2 = 0x00000212, U64, RW, ANY, 0x40000102
    HvRegisterGuestCrashP3 = 0x00000213, U64, RW, ANY, 0x40000103
    HvRegisterGuestCrashP4 = 0x00000214, U64, RW, ANY, 0x40000104
    HvRegisterGuestCrashCtl = 0x00000215, U64, RW, ANY, 0x40000105, m.HV_CRASH_CTL_REG_CONTENTS
    HvRegisterPowerStateConfigC1 = 0x00000220, U64, RW, ANY
    HvRegisterPowerStateTriggerC1 = 0x00000221, U64, RW, ANY
    HvRegisterPowerStateConfigC2 = 0x00000222, U64, RW, ANY
    HvRegisterPowerStateTriggerC2 = 0x00000223, U64, RW, ANY
    HvRegisterPowerStateConfigC3 = 0x00000224, U64, RW, ANY
    HvRegisterPowerStateTriggerC3 = 0x00000225, U64, RW, ANY
    HvRegisterProcessorClockFrequency = 0x00000240, U64, R, ANY
    HvRegisterInterruptClockFrequency = 0x00000241, U64, R, ANY
    HvRegisterGuestIdle = 0x00000250, U64, RW, SHARED, 0x400000F0
    HvRegisterDebugDeviceOptions = 0x00000260, U64, RW, SHARED
    HvRegisterMemoryZeroingControl = 0x00000270, U64, RW, ANY
    # Interruptions and pending events
    HvRegisterPendingInterruption = 0x00010002, U64, RW, PRIVATE, None, r.HV_X64_PENDING_INTERRUPTION_REGISTER
    HvRegisterInterruptState = 0x00010003, U64, RW, PRIVATE, None, r.HV_X64_INTERRUPT_STATE_REGISTER
    HvRegisterPendingEvent0 = 0x00010004, EVENT, RW, PRIVATE, None, r.HV_X64_PENDING_EXCEPTION_EVENT
    HvRegisterPendingEvent1 = 0x00010005, EVENT, RW, PRIVATE, None, r.HV_X64_PENDING_EXCEPTION_EVENT
    HvRegisterDeliverabilityNotifications = 0x00010006, U64, RW, PRIVATE, None, NOTIFY
    HvX64RegisterPendingDebugException = 0x00010007, U64, RW, PRIVATE
    HvRegisterPendingEvent2 = 0x00010008, EVENT, RW, PRIVATE, None, r.HV_X64_PENDING_EXCEPTION_EVENT
    HvRegisterPendingEvent3 = 0x00010009, EVENT, RW, PRIVATE, None, r.HV_X64_PENDING_EXCEPTION_EVENT
    # General registers
    HvX64RegisterRax = 0x00020000, U64, RW, SHARED
    HvX64RegisterRcx = 0x00020001, U64, RW, SHARED
    HvX64RegisterRdx = 0x00020002, U64, RW, SHARED
    HvX64RegisterRbx = 0x00020003, U64, RW, SHARED
    HvX64RegisterRsp = 0x00020004, U64, RW, PRIVATE
    HvX64RegisterRbp = 0x00020005, U64, RW, SHARED
    HvX64RegisterRsi = 0x00020006, U64, RW, SHARED
    HvX64RegisterRdi = 0x00020007, U64, RW, SHARED
    HvX64RegisterR8 = 0x00020008, U64, RW, SHARED
    HvX64RegisterR9 = 0x00020009, U64, RW, SHARED
    HvX64RegisterR10 = 0x0002000A, U64, RW, SHARED
    HvX64RegisterR11 = 0x0002000B, U64, RW, SHARED
    HvX64RegisterR12 = 0x0002000C, U64, RW, SHARED
    HvX64RegisterR13 = 0x0002000D, U64, RW, SHARED
    HvX64RegisterR14 = 0x0002000E, U64, RW, SHARED
    HvX64RegisterR15 = 0x0002000F, U64, RW, SHARED
    HvX64RegisterRip = 0x00020010, U64, RW, PRIVATE
    HvX64RegisterRflags = 0x00020011, U64, RW, PRIVATE
    # Floating point and vector registers
    HvX64RegisterXmm0 = 0x00030000, U128, RW, SHARED
    HvX64RegisterXmm1 = 0x00030001, U128, RW, SHARED
    HvX64RegisterXmm2 = 0x00030002, U128, RW, SHARED
    HvX64RegisterXmm3 = 0x00030003, U128, RW, SHARED
    HvX64RegisterXmm4 = 0x00030004, U128, RW, SHARED
    HvX64RegisterXmm5 = 0x00030005, U128, RW, SHARED
    HvX64RegisterXmm6 = 0x00030006, U128, RW, SHARED
    HvX64RegisterXmm7 = 0x00030007, U128, RW, SHARED
    HvX64RegisterXmm8 = 0x00030008, U128, RW, SHARED
    HvX64RegisterXmm9 = 0x00030009, U128, RW, SHARED
    HvX64RegisterXmm10 = 0x0003000A, U128, RW, SHARED
    HvX64RegisterXmm11 = 0x0003000B, U128, RW, SHARED
    HvX64RegisterXmm12 = 0x0003000C, U128, RW, SHARED
    HvX64RegisterXmm13 = 0x0003000D, U128, RW, SHARED
    HvX64RegisterXmm14 = 0x0003000E, U128, RW, SHARED
    HvX64RegisterXmm15 = 0x0003000F, U128, RW, SHARED
    HvX64RegisterFpMmx0 = 0x00030010, U128, RW, SHARED
    HvX64RegisterFpMmx1 = 0x00030011, U128, RW, SHARED
    HvX64RegisterFpMmx2 = 0x00030012, U128, RW, SHARED
    HvX64RegisterFpMmx3 = 0x00030013, U128, RW, SHARED
    HvX64RegisterFpMmx4 = 0x00030014, U128, RW, SHARED
    HvX64RegisterFpMmx5 = 0x00030015, U128, RW, SHARED
    HvX64RegisterFpMmx6 = 0x00030016, U128, RW, SHARED
    HvX64RegisterFpMmx7 = 0x00030017, U128, RW, SHARED
    HvX64RegisterFpControlStatus = 0x00030018, U128, RW, SHARED
    HvX64RegisterXmmControlStatus = 0x00030019, U128, RW, SHARED
    # Control registers
    HvX64RegisterCr0 = 0x00040000, U64, RW, PRIVATE
    HvX64RegisterCr2 = 0x00040001, U64, RW, SHARED
    HvX64RegisterCr3 = 0x00040002, U64, RW, PRIVATE
    HvX64RegisterCr4 = 0x00040003, U64, RW, PRIVATE
    HvX64RegisterCr8 = 0x00040004, U64, RW, PRIVATE
    HvX64RegisterXfem = 0x00040005, U64, RW, SHARED
    HvX64RegisterIntermediateCr0 = 0x00041000, U64, RW, PRIVATE
    IntermediateCr3 = 0x00041002, U64, RW, PRIVATE
    HvX64RegisterIntermediateCr4 = 0x00041003, U64, RW, PRIVATE
    HvX64RegisterIntermediateCr8 = 0x00041004, U64, RW, PRIVATE
    # Debug registers
    HvX64RegisterDr0 = 0x00050000, U64, RW, SHARED
    HvX64RegisterDr1 = 0x00050001, U64, RW, SHARED
    HvX64RegisterDr2 = 0x00050002, U64, RW, SHARED
    HvX64RegisterDr3 = 0x00050003, U64, RW, SHARED
    HvX64RegisterDr6 = 0x00050004, U64, RW, DR6
    HvX64RegisterDr7 = 0x00050005, U64, RW, PRIVATE
    # Segment and table registers
    HvX64RegisterEs = 0x00060000, SEGMENT, RW, PRIVATE
    HvX64RegisterCs = 0x00060001, SEGMENT, RW, PRIVATE
    HvX64RegisterSs = 0x00060002, SEGMENT, RW, PRIVATE
    HvX64RegisterDs = 0x00060003, SEGMENT, RW, PRIVATE
    HvX64RegisterFs = 0x00060004, SEGMENT, RW, PRIVATE
    HvX64RegisterGs = 0x00060005, SEGMENT, RW, PRIVATE
    HvX64RegisterLdtr = 0x00060006, SEGMENT, RW, PRIVATE
    HvX64RegisterTr = 0x00060007, SEGMENT, RW, PRIVATE
    HvX64RegisterIdtr = 0x00070000, TABLE, RW, PRIVATE
    HvX64RegisterGdtr = 0x00070001, TABLE, RW, PRIVATE
    # Registers that are MSRs of the processor
    HvX64RegisterTsc = 0x00080000, U64, RW, PRIVATE, 0x00000010
    HvX64RegisterEfer = 0x00080001, U64, RW, PRIVATE, 0xC0000080
    HvX64RegisterKernelGsBase = 0x00080002, U64, RW, PRIVATE, 0xC0000102
    HvX64RegisterApicBase = 0x00080003, U64, RW, PRIVATE, 0x0000001B
    HvX64RegisterPat = 0x00080004, U64, RW, PRIVATE, 0x00000277
    HvX64RegisterSysenterCs = 0x00080005, U64, RW, PRIVATE, 0x00000174
    HvX64RegisterSysenterEip = 0x00080006, U64, RW, PRIVATE, 0x00000176
    HvX64RegisterSysenterEsp = 0x00080007, U64, RW, PRIVATE, 0x00000175
    HvX64RegisterStar = 0x00080008, U64, RW, PRIVATE, 0xC0000081
    HvX64RegisterLstar = 0x00080009, U64, RW, PRIVATE, 0xC0000082
    HvX64RegisterCstar = 0x0008000A, U64, RW, PRIVATE, 0xC0000083
    HvX64RegisterSfmask = 0x0008000B, U64, RW, PRIVATE, 0xC0000084
    HvX64RegisterInitialApicId = 0x0008000C, U32, R, ANY
    HvX64RegisterMsrMtrrCap = 0x0008000D, U64, R, SHARED, 0x000000FE
    HvX64RegisterMsrMtrrDefType = 0x0008000E, U64, RW, SHARED, 0x000002FF
    HvX64RegisterMsrMtrrPhysBase0 = 0x00080010, U64, RW, SHARED, 0x00000200
    HvX64RegisterMsrMtrrPhysBase1 = 0x00080011, U64, RW, SHARED, 0x00000202
    HvX64RegisterMsrMtrrPhysBase2 = 0x00080012, U64, RW, SHARED, 0x00000204
    HvX64RegisterMsrMtrrPhysBase3 = 0x00080013, U64, RW, SHARED, 0x00000206
    HvX64RegisterMsrMtrrPhysBase4 = 0x00080014, U64, RW, SHARED, 0x00000208
    HvX64RegisterMsrMtrrPhysBase5 = 0x00080015, U64, RW, SHARED, 0x0000020A
    HvX64RegisterMsrMtrrPhysBase6 = 0x00080016, U64, RW, SHARED, 0x0000020C
    HvX64RegisterMsrMtrrPhysBase7 = 0x00080017, U64, RW, SHARED, 0x0000020E
    HvX64RegisterMsrMtrrPhysBase8 = 0x00080018, U64, RW, SHARED, 0x00000210
    HvX64RegisterMsrMtrrPhysBase9 = 0x00080019, U64, RW, SHARED, 0x00000212
    HvX64RegisterMsrMtrrPhysBaseA = 0x0008001A, U64, RW, SHARED, 0x00000214
    HvX64RegisterMsrMtrrPhysBaseB = 0x0008001B, U64, RW, SHARED, 0x00000216
    HvX64RegisterMsrMtrrPhysBaseC = 0x0008001C, U64, RW, SHARED, 0x00000218
    HvX64RegisterMsrMtrrPhysBaseD = 0x0008001D, U64, RW, SHARED, 0x0000021A
    HvX64RegisterMsrMtrrPhysBaseE = 0x0008001E, U64, RW, SHARED, 0x0000021C
    HvX64RegisterMsrMtrrPhysBaseF = 0x0008001F, U64, RW, SHARED, 0x0000021E
    HvX64RegisterMsrMtrrPhysMask0 = 0x00080040, U64, RW, SHARED, 0x00000201
    HvX64RegisterMsrMtrrPhysMask1 = 0x00080041, U64, RW, SHARED, 0x00000203
    HvX64RegisterMsrMtrrPhysMask2 = 0x00080042, U64, RW, SHARED, 0x00000205
    HvX64RegisterMsrMtrrPhysMask3 = 0x00080043, U64, RW, SHARED, 0x00000207
    HvX64RegisterMsrMtrrPhysMask4 = 0x00080044, U64, RW, SHARED, 0x00000209
    HvX64RegisterMsrMtrrPhysMask5 = 0x00080045, U64, RW, SHARED, 0x0000020B
    HvX64RegisterMsrMtrrPhysMask6 = 0x00080046, U64, RW, SHARED, 0x0000020D
    HvX64RegisterMsrMtrrPhysMask7 = 0x00080047, U64, RW, SHARED, 0x0000020F
    HvX64RegisterMsrMtrrPhysMask8 = 0x00080048, U64, RW, SHARED, 0x00000211
    HvX64RegisterMsrMtrrPhysMask9 = 0x00080049, U64, RW, SHARED, 0x00000213
    HvX64RegisterMsrMtrrPhysMaskA = 0x0008004A, U64, RW, SHARED, 0x00000215
    HvX64RegisterMsrMtrrPhysMaskB = 0x0008004B, U64, RW, SHARED, 0x00000217
    HvX64RegisterMsrMtrrPhysMaskC = 0x0008004C, U64, RW, SHARED, 0x00000219
    HvX64RegisterMsrMtrrPhysMaskD = 0x0008004D, U64, RW, SHARED, 0x0000021B
    HvX64RegisterMsrMtrrPhysMaskE = 0x0008004E, U64, RW, SHARED, 0x0000021D
    HvX64RegisterMsrMtrrPhysMaskF = 0x0008004F, U64, RW, SHARED, 0x0000021F
    HvX64RegisterMsrMtrrFix64k00000 = 0x00080070, U64, RW, SHARED, 0x00000250
    HvX64RegisterMsrMtrrFix16k80000 = 0x00080071, U64, RW, SHARED, 0x00000258
    HvX64RegisterMsrMtrrFix16kA0000 = 0x00080072, U64, RW, SHARED, 0x00000259
    HvX64RegisterMsrMtrrFix4kC0000 = 0x00080073, U64, RW, SHARED, 0x00000268
    HvX64RegisterMsrMtrrFix4kC8000 = 0x00080074, U64, RW, SHARED, 0x00000269
    HvX64RegisterMsrMtrrFix4kD0000 = 0x00080075, U64, RW, SHARED, 0x0000026A
    HvX64RegisterMsrMtrrFix4kD8000 = 0x00080076, U64, RW, SHARED, 0x0000026B
    HvX64RegisterMsrMtrrFix4kE0000 = 0x00080077, U64, RW, SHARED, 0x0000026C
    HvX64RegisterMsrMtrrFix4kE8000 = 0x00080078, U64, RW, SHARED, 0x0000026D
    HvX64RegisterMsrMtrrFix4kF0000 = 0x00080079, U64, RW, SHARED, 0x0000026E
    HvX64RegisterMsrMtrrFix4kF8000 = 0x0008007A, U64, RW, SHARED, 0x0000026F
    HvX64RegisterTscAux = 0x0008007B, U64, RW, PRIVATE, 0xC0000103
    HvX64RegisterBndcfgs = 0x0008007C, U64, RW, ANY, 0x00000D90
    HvX64RegisterDebugCtl = 0x0008007D, U64, RW, ANY, 0x000001D9
    HvX64RegisterMCount = 0x0008007E, U64, RW, ANY, 0x000000E7
    HvX64RegisterACount = 0x0008007F, U64, RW, ANY, 0x000000E8
    HvX64RegisterSgxLaunchControl0 = 0x00080080, U64, RW, ANY, 0x0000008C
    HvX64RegisterSgxLaunchControl1 = 0x00080081, U64, RW, ANY, 0x0000008D
    HvX64RegisterSgxLaunchControl2 = 0x00080082, U64, RW, ANY, 0x0000008E
    HvX64RegisterSgxLaunchControl3 = 0x00080083, U64, RW, ANY, 0x0000008F
    HvX64RegisterSpecCtrl = 0x00080084, U64, RW, ANY, 0x00000048
    HvX64RegisterPredCmd = 0x00080085, U64, W, ANY, 0x00000049
    HvX64RegisterVirtSpecCtrl = 0x00080086, U64, RW, ANY, 0xC001011F
    HvX64RegisterTscVirtualOffset = 0x00080087, U64, RW, ANY
    HvX64RegisterTsxCtrl = 0x00080088, U64, RW, ANY, 0x00000122
    MsrMcUpdatePatchLevel = 0x00080089, U64, RW, ANY, 0x0000008B
    Available1 = 0x0008008A, U64, RW, ANY
    HvX64RegisterXss = 0x0008008B, U64, RW, ANY, 0x00000DA0
    HvX64RegisterUCet = 0x0008008C, U64, RW, ANY, 0x000006A0
    HvX64RegisterSCet = 0x0008008D, U64, RW, ANY, 0x000006A2
    HvX64RegisterSsp = 0x0008008E, U64, RW, ANY
    HvX64RegisterPl0Ssp = 0x0008008F, U64, RW, ANY, 0x000006A4
    HvX64RegisterPl1Ssp = 0x00080090, U64, RW, ANY, 0x000006A5
    HvX64RegisterPl2Ssp = 0x00080091, U64, RW, ANY, 0x000006A6
    HvX64RegisterPl3Ssp = 0x00080092, U64, RW, ANY, 0x000006A7
    HvX64RegisterInterruptSspTableAddr = 0x00080093, U64, RW, ANY, 0x000006A8
    TscVirtualMultiplier = 0x00080094, U64, RW, ANY
    HvX64RegisterTscDeadline = 0x00080095, U64, RW, ANY, 0x000006E0
    HvX64RegisterTscAdjust = 0x00080096, U64, RW, ANY, 0x0000003B
    Pasid = 0x00080097, U64, RW, ANY, 0x00000D93
    HvX64RegisterUmwaitControl = 0x00080098, U64, RW, ANY, 0x000000E1
    HvX64RegisterXfd = 0x00080099, U64, RW, ANY, 0x000001C4
    HvX64RegisterXfdErr = 0x0008009A, U64, RW, ANY, 0x000001C5
    HvX64RegisterMsrIa32MiscEnable = 0x000800A0, U64, RW, ANY, 0x000001A0
    HvX64RegisterIa32FeatureControl = 0x000800A1, U64, RW, ANY, 0x0000003A
    HvX64RegisterIa32VmxBasic = 0x000800A2, U64, RW, ANY
    HvX64RegisterIa32VmxPinbasedCtls = 0x000800A3, U64, RW, ANY
    HvX64RegisterIa32VmxExitCtls = 0x000800A5, U64, RW, ANY
    HvX64RegisterIa32VmxEntryCtls = 0x000800A6, U64, RW, ANY
    HvX64RegisterIa32VmxMisc = 0x000800A7, U64, RW, ANY
    HvX64RegisterIa32VmxCr0Fixed0 = 0x000800A8, U64, RW, ANY
    HvX64RegisterIa32VmxCr0Fixed1 = 0x000800A9, U64, RW, ANY
    HvX64RegisterIa32VmxCr4Fixed0 = 0x000800AA, U64, RW, ANY
    HvX64RegisterIa32VmxCr4Fixed1 = 0x000800AB, U64, RW, ANY
    HvX64RegisterIa32VmxVmcsEnum = 0x000800AC, U64, RW, ANY
    HvX64RegisterIa32VmxProcbasedCtls2 = 0x000800AD, U64, RW, ANY
    HvX64RegisterIa32VmxEptVpidCap = 0x000800AE, U64, RW, ANY
    HvX64RegisterIa32VmxTruePinbasedCtls = 0x000800AF, U64, RW, ANY
    HvX64RegisterIa32VmxTrueProcbasedCtls = 0x000800B0, U64, RW, ANY
    HvX64RegisterIa32VmxTrueExitCtls = 0x000800B1, U64, RW, ANY
    HvX64RegisterIa32VmxTrueEntryCtls = 0x000800B2, U64, RW, ANY
    HvX64RegisterAmdVmHsavePa = 0x000800B3, U64, RW, ANY
    HvX64RegisterAmdVmCr = 0x000800B4, U64, RW, ANY
    # Performance monitoring and tracing
    HvX64RegisterPerfGlobalCtrl = 0x00081000, U64, RW, ANY
    HvX64RegisterPerfGlobalStatus = 0x00081001, U64, RW, ANY
    HvX64RegisterPerfGlobalInUse = 0x00081002, U64, RW, ANY
    HvX64RegisterFixedCtrCtrl = 0x00081003, U64, RW, ANY
    HvX64RegisterDsArea = 0x00081004, U64, RW, ANY
    HvX64RegisterPebsEnable = 0x00081005, U64, RW, ANY
    HvX64RegisterPebsLdLat = 0x00081006, U64, RW, ANY
    HvX64RegisterPebsFrontend = 0x00081007, U64, RW, ANY
    HvX64RegisterRtitCtl = 0x00081008, U64, RW, ANY
    HvX64RegisterRtitStatus = 0x00081009, U64, RW, ANY
    HvX64RegisterRtitOutputBase = 0x0008100A, U64, RW, ANY
    HvX64RegisterRtitOutputMaskPtrs = 0x0008100B, U64, RW, ANY
    HvX64RegisterRtitCr3Match = 0x0008100C, U64, RW, ANY
    HvX64RegisterPerfEvtSel0 = 0x00081100, U64, RW, ANY
    HvX64RegisterPmc0 = 0x00081200, U64, RW, ANY
    HvX64RegisterFixedCtr0 = 0x00081300, U64, RW, ANY
    HvX64RegisterLbrTos = 0x00082000, U64, RW, ANY
    HvX64RegisterLbrSelect = 0x00082001, U64, RW, ANY
    HvX64RegisterLerFromLip = 0x00082002, U64, RW, ANY
    HvX64RegisterLerToLip = 0x00082003, U64, RW, ANY
    HvX64RegisterLbrFrom0 = 0x00082100, U64, RW, ANY
    HvX64RegisterLbrTo0 = 0x00082200, U64, RW, ANY
    HvX64RegisterLbrInfo0 = 0x00083300, U64, RW, ANY
    # Local APIC
    HvX64RegisterApicId = 0x00084802, U32, RW, PRIVATE
    HvX64RegisterApicVersion = 0x00084803, U32, RW, PRIVATE
    HvX64RegisterApicTpr = 0x00084808, U32, RW, PRIVATE
    HvX64RegisterApicPpr = 0x0008480A, U32, RW, PRIVATE
    HvX64RegisterApicEoi = 0x0008480B, U32, W, PRIVATE
    HvX64RegisterApicLdr = 0x0008480D, U32, RW, PRIVATE
    HvX64RegisterApicSpurious = 0x0008480F, U32, RW, PRIVATE
    HvX64RegisterApicIsr0 = 0x00084810, U32, RW, PRIVATE
    HvX64RegisterApicIsr1 = 0x00084811, U32, RW, PRIVATE
    HvX64RegisterApicIsr2 = 0x00084812, U32, RW, PRIVATE
    HvX64RegisterApicIsr3 = 0x00084813, U32, RW, PRIVATE
    HvX64RegisterApicIsr4 = 0x00084814, U32, RW, PRIVATE
    HvX64RegisterApicIsr5 = 0x00084815, U32, RW, PRIVATE
    HvX64RegisterApicIsr6 = 0x00084816, U32, RW, PRIVATE
    HvX64RegisterApicIsr7 = 0x00084817, U32, RW, PRIVATE
    HvX64RegisterApicTmr0 = 0x00084818, U32, RW, PRIVATE
    HvX64RegisterApicTmr1 = 0x00084819, U32, RW, PRIVATE
    HvX64RegisterApicTmr2 = 0x0008481A, U32, RW, PRIVATE
    HvX64RegisterApicTmr3 = 0x0008481B, U32, RW, PRIVATE
    HvX64RegisterApicTmr4 = 0x0008481C, U32, RW, PRIVATE
    HvX64RegisterApicTmr5 = 0x0008481D, U32, RW, PRIVATE
    HvX64RegisterApicTmr6 = 0x0008481E, U32, RW, PRIVATE
    HvX64RegisterApicTmr7 = 0x0008481F, U32, RW, PRIVATE
    HvX64RegisterApicIrr0 = 0x00084820, U32, RW, PRIVATE
    HvX64RegisterApicIrr1 = 0x00084821, U32, RW, PRIVATE
    HvX64RegisterApicIrr2 = 0x00084822, U32, RW, PRIVATE
    HvX64RegisterApicIrr3 = 0x00084823, U32, RW, PRIVATE
    HvX64RegisterApicIrr4 = 0x00084824, U32, RW, PRIVATE
    HvX64RegisterApicIrr5 = 0x00084825, U32, RW, PRIVATE
    HvX64RegisterApicIrr6 = 0x00084826, U32, RW, PRIVATE
    HvX64RegisterApicIrr7 = 0x00084827, U32, RW, PRIVATE
    HvX64RegisterApicEse = 0x00084828, U32, RW, PRIVATE
    HvX64RegisterApicIcr = 0x00084830, U64, RW, PRIVATE
    HvX64RegisterApicLvtTimer = 0x00084832, U32, RW, PRIVATE
    HvX64RegisterApicLvtThermal = 0x00084833, U32, RW, PRIVATE
    HvX64RegisterApicLvtPerfmon = 0x00084834, U32, RW, PRIVATE
    HvX64RegisterApicLvtLint0 = 0x00084835, U32, RW, PRIVATE
    HvX64RegisterApicLvtLint1 = 0x00084836, U32, RW, PRIVATE
    HvX64RegisterApicLvtError = 0x00084837, U32, RW, PRIVATE
    HvX64RegisterApicInitCount = 0x00084838, U32, RW, PRIVATE
    HvX64RegisterApicCurrentCount = 0x00084839, U32, RW, PRIVATE
    HvX64RegisterApicDivide = 0x0008483E, U32, RW, PRIVATE
    HvX64RegisterApicSelfIpi = 0x0008483F, U32, W, PRIVATE
    # Hyper-V: hypercalls, time, assist pages
    HvRegisterVpRuntime = 0x00090000, U64, R, SHARED, 0x40000010
    HvX64RegisterHypercall = 0x00090001, U64, RW, PRIVATE, 0x40000001, m.HV_X64_MSR_HYPERCALL_CONTENTS
    HvRegisterGuestOsId = 0x00090002, U64, RW, PRIVATE, 0x40000000, m.HV_X64_MSR_GUEST_OS_ID_CONTENTS
    HvRegisterVpIndex = 0x00090003, U32, R, SHARED, 0x40000002
    HvRegisterTimeRefCount = 0x00090004, U64, R, SHARED, 0x40000020
    HvRegisterCpuManagementVersion = 0x00090007, U64, RW, ANY
    HvX64RegisterSyntheticEoi = 0x00090010, U64, W, PRIVATE, 0x40000070, m.HV_X64_MSR_EOI_CONTENTS
    HvX64RegisterSyntheticIcr = 0x00090011, U64, RW, PRIVATE, 0x40000071, m.HV_X64_MSR_ICR_CONTENTS
    HvX64RegisterSyntheticTpr = 0x00090012, U64, RW, PRIVATE, 0x40000072, m.HV_X64_MSR_TPR_CONTENTS
    HvRegisterVpAssistPage = 0x00090013, U64, RW, PRIVATE, 0x40000073, m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
    HvRegisterVpRootSignalCount = 0x00090014, U64, R, ANY
    HvRegisterReferenceTsc = 0x00090017, U64, RW, PRIVATE, 0x40000021, m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
    VpConfig = 0x00090018, U64, RW, ANY
    HvX64RegisterGhcb = 0x00090019, U64, RW, ANY
    HvRegisterReferenceTscSequence = 0x0009001A, U64, R, ANY
    GuestSchedulerEvent = 0x0009001B, U64, RW, ANY
    RegisterPage = 0x0009001C, U64, RW, ANY, None, m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
    HvRegisterStatsPartitionRetail = 0x00090020, U64, RW, ANY
    HvRegisterStatsPartitionInternal = 0x00090021, U64, RW, ANY
    HvRegisterStatsVpRetail = 0x00090022, U64, RW, ANY
    HvRegisterStatsVpInternal = 0x00090023, U64, RW, ANY
    HvX64RegisterEmulatedTimerPeriod = 0x00090030, U64, RW, ANY
    HvX64RegisterEmulatedTimerControl = 0x00090031, U64, RW, ANY
    HvX64RegisterPmTimerAssist = 0x00090032, U64, RW, ANY
    HvX64RegisterSevControl = 0x00090040, U64, RW, ANY
    HvX64RegisterSevGhcbGpa = 0x00090041, U64, RW, ANY
    HvX64RegisterSevAvicGpa = 0x00090043, U64, RW, ANY
    HvX64RegisterNestedGuestState = 0x00090050, U64, RW, ANY
    HvX64RegisterNestedCurrentVmGpa = 0x00090051, U64, RW, ANY
    HvX64RegisterNestedVmxInvEpt = 0x00090052, U64, RW, ANY
    HvX64RegisterNestedVmxInvVpid = 0x00090053, U64, RW, ANY
    HvRegisterNestedVpIndex = 0x00091003, U32, R, ANY, 0x40001002
    # SynIC
    HvRegisterSint0 = 0x000A0000, U64, RW, PRIVATE, 0x40000090, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint1 = 0x000A0001, U64, RW, PRIVATE, 0x40000091, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint2 = 0x000A0002, U64, RW, PRIVATE, 0x40000092, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint3 = 0x000A0003, U64, RW, PRIVATE, 0x40000093, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint4 = 0x000A0004, U64, RW, PRIVATE, 0x40000094, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint5 = 0x000A0005, U64, RW, PRIVATE, 0x40000095, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint6 = 0x000A0006, U64, RW, PRIVATE, 0x40000096, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint7 = 0x000A0007, U64, RW, PRIVATE, 0x40000097, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint8 = 0x000A0008, U64, RW, PRIVATE, 0x40000098, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint9 = 0x000A0009, U64, RW, PRIVATE, 0x40000099, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint10 = 0x000A000A, U64, RW, PRIVATE, 0x4000009A, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint11 = 0x000A000B, U64, RW, PRIVATE, 0x4000009B, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint12 = 0x000A000C, U64, RW, PRIVATE, 0x4000009C, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint13 = 0x000A000D, U64, RW, PRIVATE, 0x4000009D, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint14 = 0x000A000E, U64, RW, PRIVATE, 0x4000009E, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterSint15 = 0x000A000F, U64, RW, PRIVATE, 0x4000009F, m.HV_X64_MSR_SINT_CONTENTS
    HvRegisterScontrol = 0x000A0010, U64, RW, PRIVATE, 0x40000080, m.HV_X64_MSR_SCONTROL_CONTENTS
    HvRegisterSversion = 0x000A0011, U64, R, PRIVATE, 0x40000081, m.HV_X64_MSR_SVERSION_CONTENTS
    HvRegisterSifp = 0x000A0012, U64, RW, PRIVATE, 0x40000082, m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
    HvRegisterSipp = 0x000A0013, U64, RW, PRIVATE, 0x40000083, m.HV_X64_MSR_OVERLAY_PAGE_CONTENTS
    HvRegisterEom = 0x000A0014, U64, W, PRIVATE, 0x40000084
    HvRegisterSirbp = 0x000A0015, U64, RW, PRIVATE, 0x40000085
    HV_REGISTER_NESTED_SINT0 = 0x000A1000, U64, RW, ANY
    HV_REGISTER_NESTED_SINT1 = 0x000A1001, U64, RW, ANY
    HV_REGISTER_NESTED_SINT2 = 0x000A1002, U64, RW, ANY
    HV_REGISTER_NESTED_SINT3 = 0x000A1003, U64, RW, ANY
    HV_REGISTER_NESTED_SINT4 = 0x000A1004, U64, RW, ANY
    HV_REGISTER_NESTED_SINT5 = 0x000A1005, U64, RW, ANY
    HV_REGISTER_NESTED_SINT6 = 0x000A1006, U64, RW, ANY
    HV_REGISTER_NESTED_SINT7 = 0x000A1007, U64, RW, ANY
    HV_REGISTER_NESTED_SINT8 = 0x000A1008, U64, RW, ANY
    HV_REGISTER_NESTED_SINT9 = 0x000A1009, U64, RW, ANY
    HV_REGISTER_NESTED_SINT10 = 0x000A100A, U64, RW, ANY
    HV_REGISTER_NESTED_SINT11 = 0x000A100B, U64, RW, ANY
    HV_REGISTER_NESTED_SINT12 = 0x000A100C, U64, RW, ANY
    HV_REGISTER_NESTED_SINT13 = 0x000A100D, U64, RW, ANY
    HV_REGISTER_NESTED_SINT14 = 0x000A100E, U64, RW, ANY
    HV_REGISTER_NESTED_SINT15 = 0x000A100F, U64, RW, ANY
    HV_REGISTER_NESTED_SCONTROL = 0x000A1010, U64, RW, ANY
    HV_REGISTER_NESTED_SVERSION = 0x000A1011, U64, R, ANY
    HV_REGISTER_NESTED_SIFP = 0x000A1012, U64, RW, ANY
    HV_REGISTER_NESTED_SIPP = 0x000A1013, U64, RW, ANY
    HV_REGISTER_NESTED_EOM = 0x000A1014, U64, W, ANY
    HV_REGISTER_NESTED_SIRBP = 0x000A1015, U64, RW, ANY
    # Synthetic timers
    HvRegisterStimer0Config = 0x000B0000, U64, RW, PRIVATE, 0x400000B0, m.HV_X64_MSR_STIMER_CONFIG
    HvRegisterStimer0Count = 0x000B0001, U64, RW, PRIVATE, 0x400000B1
    HvRegisterStimer1Config = 0x000B0002, U64, RW, PRIVATE, 0x400000B2, m.HV_X64_MSR_STIMER_CONFIG
    HvRegisterStimer1Count = 0x000B0003, U64, RW, PRIVATE, 0x400000B3
    HvRegisterStimer2Config = 0x000B0004, U64, RW, PRIVATE, 0x400000B4, m.HV_X64_MSR_STIMER_CONFIG
    HvRegisterStimer2Count = 0x000B0005, U64, RW, PRIVATE, 0x400000B5
    HvRegisterStimer3Config = 0x000B0006, U64, RW, PRIVATE, 0x400000B6, m.HV_X64_MSR_STIMER_CONFIG
    HvRegisterStimer3Count = 0x000B0007, U64, RW, PRIVATE, 0x400000B7
    HvRegisterStimeUnhaltedTimerConfig = 0x000B0100, U64, RW, ANY, 0x40000114, m.HV_X64_MSR_UNHALTED_TIMER_CONFIG
    HvRegisterStimeUnhaltedTimerCount = 0x000B0101, U64, RW, ANY, 0x40000115
    # YMM halves
    HvX64RegisterYmm0Low = 0x000C0000, U128, RW, SHARED
    HvX64RegisterYmm1Low = 0x000C0001, U128, RW, SHARED
    HvX64RegisterYmm2Low = 0x000C0002, U128, RW, SHARED
    HvX64RegisterYmm3Low = 0x000C0003, U128, RW, SHARED
    HvX64RegisterYmm4Low = 0x000C0004, U128, RW, SHARED
    HvX64RegisterYmm5Low = 0x000C0005, U128, RW, SHARED
    HvX64RegisterYmm6Low = 0x000C0006, U128, RW, SHARED
    HvX64RegisterYmm7Low = 0x000C0007, U128, RW, SHARED
    HvX64RegisterYmm8Low = 0x000C0008, U128, RW, SHARED
    HvX64RegisterYmm9Low = 0x000C0009, U128, RW, SHARED
    HvX64RegisterYmm10Low = 0x000C000A, U128, RW, SHARED
    HvX64RegisterYmm11Low = 0x000C000B, U128, RW, SHARED
    HvX64RegisterYmm12Low = 0x000C000C, U128, RW, SHARED
    HvX64RegisterYmm13Low = 0x000C000D, U128, RW, SHARED
    HvX64RegisterYmm14Low = 0x000C000E, U128, RW, SHARED
    HvX64RegisterYmm15Low = 0x000C000F, U128, RW, SHARED
    HvX64RegisterYmm0High = 0x000C0010, U128, RW, SHARED
    HvX64RegisterYmm1High = 0x000C0011, U128, RW, SHARED
    HvX64RegisterYmm2High = 0x000C0012, U128, RW, SHARED
    HvX64RegisterYmm3High = 0x000C0013, U128, RW, SHARED
    HvX64RegisterYmm4High = 0x000C0014, U128, RW, SHARED
    HvX64RegisterYmm5High = 0x000C0015, U128, RW, SHARED
    HvX64RegisterYmm6High = 0x000C0016, U128, RW, SHARED
    HvX64RegisterYmm7High = 0x000C0017, U128, RW, SHARED
    HvX64RegisterYmm8High = 0x000C0018, U128, RW, SHARED
    HvX64RegisterYmm9High = 0x000C0019, U128, RW, SHARED
    HvX64RegisterYmm10High = 0x000C001A, U128, RW, SHARED
    HvX64RegisterYmm11High = 0x000C001B, U128, RW, SHARED
    HvX64RegisterYmm12High = 0x000C001C, U128, RW, SHARED
    HvX64RegisterYmm13High = 0x000C001D, U128, RW, SHARED
    HvX64RegisterYmm14High = 0x000C001E, U128, RW, SHARED
    HvX64RegisterYmm15High = 0x000C001F, U128, RW, SHARED
    # VSM
    HvRegisterVsmCodePageOffsets = 0x000D0002, U64, R, PER_VTL, None, r.HV_REGISTER_VSM_CODE_PAGE_OFFSETS
    HvRegisterVsmVpStatus = 0x000D0003, U64, R, VP, None, r.HV_REGISTER_VSM_VP_STATUS
    HvRegisterVsmPartitionStatus = 0x000D0004, U64, R, PARTITION, None, r.HV_REGISTER_VSM_PARTITION_STATUS
    HvRegisterVsmVina = 0x000D0005, U64, RW, PRIVATE, None, r.HV_REGISTER_VSM_VINA
    HvRegisterVsmCapabilities = 0x000D0006, U64, R, PARTITION, None, r.HV_REGISTER_VSM_CAPABILITIES
    HvRegisterVsmPartitionConfig = 0x000D0007, U64, RW, PER_VTL, None, r.HV_REGISTER_VSM_PARTITION_CONFIG
    GuestVsmPartitionConfig = 0x000D0008, U64, RW, ANY, None, r.HV_REGISTER_GUEST_VSM_PARTITION_CONFIG
    HvRegisterVsmVpSecureConfigVtl0 = 0x000D0010, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl1 = 0x000D0011, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl2 = 0x000D0012, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl3 = 0x000D0013, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl4 = 0x000D0014, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl5 = 0x000D0015, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl6 = 0x000D0016, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl7 = 0x000D0017, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl8 = 0x000D0018, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl9 = 0x000D0019, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl10 = 0x000D001A, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl11 = 0x000D001B, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl12 = 0x000D001C, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl13 = 0x000D001D, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpSecureConfigVtl14 = 0x000D001E, U64, RW, OWNED, None, r.HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
    HvRegisterVsmVpWaitForTlbLock = 0x000D0020, U64, RW, ANY, None, r.HV_REGISTER_VSM_VP_WAIT_FOR_TLB_LOCK
    HvRegisterIsolationCapabilities = 0x000D0100, U64, R, ANY
    # Control register intercepts
    HvX64RegisterCrInterceptControl = 0x000E0000, U64, RW, PRIVATE, None, r.HV_REGISTER_CR_INTERCEPT_CONTROL
    HvX64RegisterCrInterceptCr0Mask = 0x000E0001, U64, RW, PRIVATE
    HvX64RegisterCrInterceptCr4Mask = 0x000E0002, U64, RW, PRIVATE
    HvX64RegisterCrInterceptIa32MiscEnableMask = 0x000E0003, U64, RW, PRIVATE
    # fmt: on


LAYOUTS: dict[ValueType, type[Layout]] = {SEGMENT: HV_X64_SEGMENT_REGISTER, TABLE: HV_X64_TABLE_REGISTER}
"""Value types that are structures."""

BY_MSR: dict[int, HvRegisterName] = {name.msr: name for name in HvRegisterName if name.msr is not None}
"""The register that an MSR is."""
