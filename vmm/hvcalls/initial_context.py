# SPDX-License-Identifier: Apache-2.0
"""HV_INITIAL_VP_CONTEXT: whether a processor can start with it (TLFS 7.10.3, 15.15.4; SDM volume 3, 27.3.1).

Used for HvCallStartVirtualProcessor and HvCallEnableVpVtl alike. What is checked:

| part | must |
|---|---|
| each register | hold its value at all (`register_values`) |
| CR0, CR4, EFER | fit together: paging needs protection, long mode PAE, PCIDE long mode; LMA follows LME and PG |
| segment registers | be loadable: type, S, granularity, privilege; data segments and LDTR may be absent |
| RFLAGS | have no virtual-8086 mode |
| MsrCrPat | hold memory types; 0, all uncached, is one that guests pass (VSM-035) |

In real mode (CR0.PE clear) segments are not looked at. Whether it is allowed is the caller's word: no VTL above 0
may be in it (VSM-038).

Implements: VP-005, VSM-035
"""

from __future__ import annotations

from typing import Final

from vmm.hv.registers import HvRegisterName
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT, HV_X64_SEGMENT_REGISTER
from vmm.hvcalls.register_values import (
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PCIDE,
    EFER_LMA,
    EFER_LME,
    LOW_32,
    RFLAGS_VM,
    U64,
    Widths,
    segment_number,
    settled,
    table_number,
)

_N = HvRegisterName
_NUMBERS: Final = {
    "Rip": _N.HvX64RegisterRip,
    "Rflags": _N.HvX64RegisterRflags,
    "Efer": _N.HvX64RegisterEfer,
    "Cr0": _N.HvX64RegisterCr0,
    "Cr3": _N.HvX64RegisterCr3,
    "Cr4": _N.HvX64RegisterCr4,
    "MsrCrPat": _N.HvX64RegisterPat,
}
_SEGMENTS: Final = {
    "Cs": _N.HvX64RegisterCs,
    "Ds": _N.HvX64RegisterDs,
    "Es": _N.HvX64RegisterEs,
    "Fs": _N.HvX64RegisterFs,
    "Gs": _N.HvX64RegisterGs,
    "Ss": _N.HvX64RegisterSs,
    "Tr": _N.HvX64RegisterTr,
    "Ldtr": _N.HvX64RegisterLdtr,
}
_TABLES: Final = {"Idtr": _N.HvX64RegisterIdtr, "Gdtr": _N.HvX64RegisterGdtr}

# Segment types (SDM volume 3, 3.4.5.1 and 3.5): bit 0 accessed, bit 1 writable or readable, bit 3 code.
_CODE_TYPES: Final = (9, 11, 13, 15)
_CONFORMING_TYPES: Final = (13, 15)
_STACK_TYPES: Final = (3, 7)
_CODE, _READABLE, _ACCESSED = 8, 2, 1
_LDT: Final = 2
_BUSY_TSS_16, _BUSY_TSS = 3, 11
_TABLE_INDICATOR: Final = 1 << 2
_PAGE_OFFSET: Final = 0xFFF
_SMALL_LIMIT: Final = 1 << 20


def settled_context(
    context: HV_INITIAL_VP_CONTEXT, widths: Widths, *, real_mode: bool
) -> HV_INITIAL_VP_CONTEXT | None:
    """`context` as a processor would hold it; None where no processor can: INVALID_REGISTER_VALUE.

    real_mode: whether CR0.PE may be clear.
    """
    widths = widths.under(context.Cr4)
    values: dict[str, int] = {}
    for field, register in _NUMBERS.items():
        value = settled(register, getattr(context, field), widths)
        if value is None:
            return None
        values[field] = value
    for field, register in _SEGMENTS.items():
        if settled(register, segment_number(getattr(context, field)), widths) is None:
            return None
    for field, register in _TABLES.items():
        if settled(register, table_number(getattr(context, field)), widths) is None:
            return None

    long_mode = bool(values["Efer"] & EFER_LME and values["Cr0"] & CR0_PG)
    if values["Rflags"] & RFLAGS_VM:
        return None  # its segments are another kind; no guest starts a processor there
    if long_mode:
        values["Efer"] |= EFER_LMA
        if not values["Cr4"] & CR4_PAE:
            return None
    elif values["Efer"] & EFER_LMA or values["Cr4"] & CR4_PCIDE:
        return None
    if values["Cr0"] & CR0_PE:
        if not _protected_mode_segments(context, values, long_mode):
            return None
    elif not real_mode:
        return None
    return context.replace(**values)


def _protected_mode_segments(context: HV_INITIAL_VP_CONTEXT, values: dict[str, int], long_mode: bool) -> bool:
    bits_64 = long_mode and context.Cs.Attributes.Long
    if not bits_64 and values["Rip"] > LOW_32:
        return False
    return (
        _code(context.Cs, context.Ss, long_mode)
        and _stack(context.Ss)
        and all(_data(segment, LOW_32) for segment in (context.Ds, context.Es))
        and all(_data(segment, U64) for segment in (context.Fs, context.Gs))
        and _task(context.Tr, long_mode)
        and _local_table(context.Ldtr)
    )


def _limit(segment: HV_X64_SEGMENT_REGISTER) -> bool:
    """Whether the limit can come of the granularity bit."""
    if segment.Attributes.Granularity:
        return segment.Limit & _PAGE_OFFSET == _PAGE_OFFSET
    return segment.Limit < _SMALL_LIMIT


def _code(cs: HV_X64_SEGMENT_REGISTER, ss: HV_X64_SEGMENT_REGISTER, long_mode: bool) -> bool:
    kind = cs.Attributes
    if not (kind.Present and kind.NonSystemSegment and kind.SegmentType in _CODE_TYPES and _limit(cs)):
        return False
    if cs.Base > LOW_32 or (long_mode and kind.Long and kind.Default):
        return False
    if kind.SegmentType in _CONFORMING_TYPES:
        return kind.DescriptorPrivilegeLevel <= ss.Attributes.DescriptorPrivilegeLevel
    return kind.DescriptorPrivilegeLevel == ss.Attributes.DescriptorPrivilegeLevel


def _stack(ss: HV_X64_SEGMENT_REGISTER) -> bool:
    kind = ss.Attributes
    if not kind.Present:
        return True
    return kind.NonSystemSegment and kind.SegmentType in _STACK_TYPES and _limit(ss) and ss.Base <= LOW_32


def _data(segment: HV_X64_SEGMENT_REGISTER, highest_base: int) -> bool:
    kind = segment.Attributes
    if not kind.Present:
        return True
    readable = not kind.SegmentType & _CODE or kind.SegmentType & _READABLE
    return bool(
        kind.NonSystemSegment
        and kind.SegmentType & _ACCESSED
        and readable
        and _limit(segment)
        and segment.Base <= highest_base
    )


def _task(tr: HV_X64_SEGMENT_REGISTER, long_mode: bool) -> bool:
    kind = tr.Attributes
    types = (_BUSY_TSS,) if long_mode else (_BUSY_TSS, _BUSY_TSS_16)
    return (
        kind.Present
        and not kind.NonSystemSegment
        and kind.SegmentType in types
        and not tr.Selector & _TABLE_INDICATOR
        and _limit(tr)
    )


def _local_table(ldtr: HV_X64_SEGMENT_REGISTER) -> bool:
    kind = ldtr.Attributes
    if not kind.Present:
        return True
    return (
        not kind.NonSystemSegment
        and kind.SegmentType == _LDT
        and not ldtr.Selector & _TABLE_INDICATOR
        and _limit(ldtr)
    )
