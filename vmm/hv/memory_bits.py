# SPDX-License-Identifier: Apache-2.0
"""Words about guest memory: protections, flushes, translations (TLFS 9.3, 9.4, 15.9, 15.15.2)."""

from __future__ import annotations

from vmm.hv.bits import Bits, bit, bits, reserved, rsvdz
from vmm.hv.messages import HvCacheType
from vmm.hv.open_enum import OpenIntEnum


class HV_MAP_GPA_FLAGS(Bits, size=4):
    """Rights to a page. Bits 2 and 3 as the markdown, hvdef and Linux have them; v6.0b swaps them (DIS-03)."""

    Readable = bit(0)
    Writable = bit(1)
    KernelExecutable = bit(2)
    UserExecutable = bit(3)
    SupervisorShadowStack = bit(4)
    PagingWritability = bit(5)
    VerifyPagingWritability = bit(6)
    Reserved0 = reserved(7, 8)
    Adjustable = bit(15)
    Reserved1 = reserved(16, 16)


class HV_FLUSH_FLAGS(Bits):
    """Which translations a flush call drops (TLFS 9.4); bits 4, 8 and 9 from hvdef."""

    AllProcessors = bit(0)
    AllVirtualAddressSpaces = bit(1)
    NonGlobalMappingsOnly = bit(2)
    UseExtendedRangeFormat = bit(3)
    UseTargetVtl = bit(4)
    ReservedZ0 = rsvdz(5, 3)
    TargetVtl0 = bit(8)
    TargetVtl1 = bit(9)
    ReservedZ1 = rsvdz(10, 54)


class HV_GVA_RANGE(Bits):
    """An element of the flush list calls: pages from a page on (TLFS 9.4)."""

    AdditionalPages = bits(0, 12)
    """Pages behind the first."""
    GvaPageNumber = bits(12, 52)


class HV_GVA_RANGE_EXTENDED(Bits):
    """An element of the flush list calls under UseExtendedRangeFormat (markdown HV_GVA_RANGE)."""

    AdditionalPages = bits(0, 11)
    """Pages behind the first."""
    LargePage = bit(11)
    """Set: read the word as HV_GVA_RANGE_LARGE_PAGE."""
    GvaPageNumber = bits(12, 52)


class HV_GVA_RANGE_LARGE_PAGE(Bits):
    """The same for large pages (markdown HV_GVA_RANGE)."""

    AdditionalPages = bits(0, 11)
    """Large pages behind the first."""
    LargePage = bit(11)
    PageSize = bit(12)
    """0: 2 MiB, 1: 1 GiB."""
    Reserved = reserved(13, 8)
    GvaLargePageNumber = bits(21, 43)
    """Bits 63:21 of the address."""


class HV_TRANSLATE_GVA_CONTROL_FLAGS(Bits):
    """What a translation validates (TLFS 9.3, VP-021); bits 6 to 10 from the markdown and hvdef."""

    ValidateRead = bit(0)
    ValidateWrite = bit(1)
    ValidateExecute = bit(2)
    PrivilegeExempt = bit(3)
    SetPageTableBits = bit(4)
    TlbFlushInhibit = bit(5)
    SupervisorAccess = bit(6)
    UserAccess = bit(7)
    EnforceSmap = bit(8)
    OverrideSmap = bit(9)
    ShadowStack = bit(10)
    ReservedZ = rsvdz(11, 45)
    InputVtl = bits(56, 8)
    """An HV_INPUT_VTL."""


class HvTranslateGvaResultCode(OpenIntEnum):
    """HV_TRANSLATE_GVA_RESULT_CODE (TLFS 9.3, VP-022). The hypercall's status is success for all of them."""

    HvTranslateGvaSuccess = 0
    HvTranslateGvaPageNotPresent = 1
    HvTranslateGvaPrivilegeViolation = 2
    HvTranslateGvaInvalidPageTableFlags = 3
    HvTranslateGvaGpaUnmapped = 4
    HvTranslateGvaGpaNoReadAccess = 5
    HvTranslateGvaGpaNoWriteAccess = 6
    HvTranslateGvaGpaIllegalOverlayAccess = 7
    HvTranslateGvaIntercept = 8
    HvTranslateGvaGpaUnaccepted = 9


class HV_TRANSLATE_GVA_RESULT(Bits):
    """The outcome of a translation (TLFS 9.3)."""

    ResultCode = bits(0, 32, HvTranslateGvaResultCode)
    CacheType = bits(32, 8, HvCacheType)
    OverlayPage = bit(40)
    Reserved = reserved(41, 23)


class HV_ACCESS_CHECK_RESULT(Bits):
    """One element of HvCallCheckSparseGpaPageVtlAccess's output (hvdef, VSM-090)."""

    ResultCode = bits(0, 8)
    """0 the access is allowed, 1 it would be intercepted."""
    DeniedAccess = bits(8, 8)
    InterceptingVtl = bits(16, 4)
    Reserved = reserved(20, 44)


class HvInterceptType(OpenIntEnum):
    """HV_INTERCEPT_TYPE of HvCallInstallIntercept (TLFS 6.1, markdown, Linux; VSM-119)."""

    HvInterceptTypeX64IoPort = 0x00
    HvInterceptTypeX64Msr = 0x01
    HvInterceptTypeX64Cpuid = 0x02
    HvInterceptTypeException = 0x03
    HvInterceptTypeX64GlobalCpuid = 0x06
    HvInterceptTypeX64ApicSmi = 0x07
    HvInterceptTypeHypercall = 0x08
    HvInterceptTypeX64ApicInitSipi = 0x09
    HvInterceptTypeX64ApicWrite = 0x0B
    HvInterceptTypeX64MsrIndex = 0x0C
    HvInterceptTypeUnknownSynicConnection = 0x0D
    HvInterceptTypeX64ApicEoi = 0x0E
    HvInterceptTypeRetargetInterruptWithUnknownDeviceId = 0x0F
    HvInterceptTypeX64ExceptionTrap = 0x10
    HvInterceptTypeX64IoPortRange = 0x11
    HvInterceptTypeRegister = 0x12
    HvInterceptTypeSystemResetExt = 0x13


class HV_INTERCEPT_ACCESS_MASK(Bits, size=4):
    """Which accesses an intercept is for; none removes it (TLFS 6.1)."""

    Read = bit(0)
    Write = bit(1)
    Execute = bit(2)
    Reserved = reserved(3, 29)
