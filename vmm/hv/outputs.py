# SPDX-License-Identifier: Apache-2.0
"""Output blocks of hypercalls.

A register value is 16 bytes: a number, zero-extended, or a structure of `vmm.hv.registers.LAYOUTS`.
"""

from vmm.hv.layout import U8, U32, U64, Layout, padding, raw
from vmm.hv.memory_bits import HV_TRANSLATE_GVA_RESULT

HV_REGISTER_VALUE_SIZE = 16
"""Bytes of one element that HvCallGetVpRegisters returns."""


class HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS(Layout):
    """HvCallTranslateVirtualAddress (TLFS 9.4): the first 8 bytes are an HV_TRANSLATE_GVA_RESULT."""

    ResultCode: U32
    """HvTranslateGvaResultCode."""
    CacheType: U8
    """HvCacheType."""
    Flags: U8
    """Bit 0: the page is an overlay."""
    Reserved: bytes = padding(2)
    GpaPage: U64


class HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX(Layout):
    """HvCallTranslateVirtualAddressEx as hvdef has it (DIS-13)."""

    Result: HV_TRANSLATE_GVA_RESULT
    Reserved: bytes = padding(8)
    EventInfo: bytes = raw(32)
    """The event the access would have caused, as hvdef's HV_X64_PENDING_EVENT."""
    GpaPage: U64
    Reserved2: bytes = padding(8)


class HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX_MD(Layout):
    """The same in the markdown's layout (DIS-13)."""

    Result: bytes = raw(16)
    GpaPage: U64


class HV_OUTPUT_GET_VP_INDEX_FROM_APIC_ID(Layout):
    """One element of HvCallGetVpIndexFromApicId's output (VP-006, DIS-12)."""

    VpIndex: U32


class HV_OUTPUT_SIGNAL_EVENT_DIRECT(Layout):
    """HvCallSignalEventDirect (markdown, hvdef)."""

    NewlySignaled: U8
    Reserved: bytes = padding(7)


class HV_EXT_OUTPUT_QUERY_CAPABILITIES(Layout):
    """HvExtCallQueryCapabilities (TLFS 3.14, HC-020)."""

    Capabilities: U64
    """0 boot zeroed memory, 1 memory heat hint, 2 EPF setup, 3 scheduler assist setup, 4 asynchronous heat hint."""


class HV_BOOT_ZEROED_RANGE(Layout):
    """One range of HvExtCallGetBootZeroedMemory (markdown)."""

    StartPage: U64
    PageCount: U64


class HV_EXT_OUTPUT_GET_BOOT_ZEROED_MEMORY(Layout, element=("Ranges", HV_BOOT_ZEROED_RANGE)):
    """HvExtCallGetBootZeroedMemory as the markdown has it, up to 255 ranges (DIS-33)."""

    RangeCount: U64
