# SPDX-License-Identifier: Apache-2.0
"""Segment and table registers, and the state a VP starts with in a VTL (TLFS 7.9, 7.10.3)."""

from vmm.hv.layout import U16, U32, U64, Layout, padding
from vmm.hv.register_bits import HV_X64_SEGMENT_ATTRIBUTES


class HV_X64_SEGMENT_REGISTER(Layout):
    """A segment register, as a 16-byte register value."""

    Base: U64
    Limit: U32
    """In bytes, after the granularity bit was applied."""
    Selector: U16
    Attributes: HV_X64_SEGMENT_ATTRIBUTES


class HV_X64_TABLE_REGISTER(Layout):
    """GDTR or IDTR, as a 16-byte register value."""

    Pad: bytes = padding(6)
    Limit: U16
    Base: U64


class HV_INITIAL_VP_CONTEXT(Layout):
    """HV_INITIAL_VP_CONTEXT of x64: what HvCallEnableVpVtl and HvCallStartVirtualProcessor start with."""

    Rip: U64
    Rsp: U64
    Rflags: U64
    Cs: HV_X64_SEGMENT_REGISTER
    Ds: HV_X64_SEGMENT_REGISTER
    Es: HV_X64_SEGMENT_REGISTER
    Fs: HV_X64_SEGMENT_REGISTER
    Gs: HV_X64_SEGMENT_REGISTER
    Ss: HV_X64_SEGMENT_REGISTER
    Tr: HV_X64_SEGMENT_REGISTER
    Ldtr: HV_X64_SEGMENT_REGISTER
    Idtr: HV_X64_TABLE_REGISTER
    Gdtr: HV_X64_TABLE_REGISTER
    Efer: U64
    Cr0: U64
    Cr3: U64
    Cr4: U64
    MsrCrPat: U64
