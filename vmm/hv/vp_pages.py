# SPDX-License-Identifier: Apache-2.0
"""Pages that hypervisor and guest share: VP assist page, reference TSC page (TLFS 7.8.7, 12.7, 15.7)."""

from vmm.hv.bits import Bits, bit, reserved, rsvdz
from vmm.hv.layout import I64, U8, U32, U64, Layout, padding, raw
from vmm.hv.layout import rsvdz as rsvdz_bytes
from vmm.hv.open_enum import OpenIntEnum


class HvVtlEntryReason(OpenIntEnum):
    """HV_VTL_ENTRY_REASON (TLFS 15.7); the intercept reason is hvdef's."""

    HvVtlEntryReserved = 0
    HvVtlEntryVtlCall = 1
    HvVtlEntryInterrupt = 2
    HvVtlEntryIntercept = 3


class HV_VINA_STATUS(Bits, size=1):
    """Whether the VINA interrupt was raised (TLFS 15.12.4)."""

    VinaAsserted = bit(0)
    ReservedZ = rsvdz(1, 7)


class HV_VP_VTL_CONTROL(Layout):
    """What a VTL learns at its entry, and gives at its return (TLFS 15.7)."""

    EntryReason: U32
    """HvVtlEntryReason."""
    VinaStatus: HV_VINA_STATUS
    ReservedZ00: bytes = rsvdz_bytes(1)
    ReservedZ01: bytes = rsvdz_bytes(2)
    VtlReturnX64Rax: U64
    VtlReturnX64Rcx: U64


class HV_VP_VTL_CONTROL_X86(Layout):
    """The same as a 32-bit VTL sees it."""

    EntryReason: U32
    VinaStatus: HV_VINA_STATUS
    ReservedZ00: bytes = rsvdz_bytes(1)
    ReservedZ01: bytes = rsvdz_bytes(2)
    VtlReturnX86Eax: U32
    VtlReturnX86Ecx: U32
    VtlReturnX86Edx: U32
    ReservedZ1: bytes = rsvdz_bytes(4)


class HV_APIC_ASSIST(Bits, size=4):
    """The local APIC's assist word (TLFS 10.3)."""

    NoEoiRequired = bit(0)
    Reserved = reserved(1, 31)


class HV_VP_ASSIST_PAGE(Layout):
    """The used part of the VP assist page; the rest of its 4096 bytes is zero.

    The virtualization fault information is 40 + 8 bytes (hvdef, Linux), not the markdown's 16, so that the
    intercept message lies at 112 (DIS-31).
    """

    ApicAssist: HV_APIC_ASSIST
    ReservedZ0: bytes = rsvdz_bytes(4)
    VtlControl: HV_VP_VTL_CONTROL
    NestedEnlightenmentsControl: U64
    EnlightenVmEntry: U8
    ReservedZ1: bytes = rsvdz_bytes(7)
    CurrentNestedVmcs: U64
    SyntheticTimeUnhaltedTimerExpired: U8
    ReservedZ2: bytes = rsvdz_bytes(7)
    VirtualizationFaultInformation: bytes = raw(40)
    ReservedZ3: bytes = rsvdz_bytes(8)
    InterceptMessage: bytes = raw(256)
    """An HV_MESSAGE."""
    VtlReturnActions: bytes = raw(256)


class HV_REFERENCE_TSC_PAGE(Layout):
    """Reference time = ((TSC * TscScale) >> 64) + TscOffset, in 100 ns, while TscSequence is not 0 (TLFS 12.7)."""

    TscSequence: U32
    """0: do not use the page, read HV_X64_MSR_TIME_REF_COUNT."""
    Reserved1: bytes = padding(4)
    TscScale: U64
    TscOffset: I64
