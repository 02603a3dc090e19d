# SPDX-License-Identifier: Apache-2.0
"""Which initial contexts a processor can start with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hvcalls.contexts import (
    CODE64,
    DATA,
    FLAT,
    LOCAL_TABLE,
    TASK,
    context,
    kvm_unit_tests_context,
    opentmk_context,
    protected_mode,
    real_mode_context,
    segment,
)
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT, HV_X64_TABLE_REGISTER
from vmm.hvcalls.initial_context import settled_context
from vmm.hvcalls.register_values import Widths

WIDTHS = Widths(physical=40, virtual=48)
NOT_CANONICAL = 1 << 50
PAGING, PCIDE = 1 << 31, 1 << 17


@pytest.mark.tlfs("VSM-035")
@pytest.mark.parametrize("make", [context, opentmk_context, kvm_unit_tests_context])
def test_what_guests_pass_is_accepted(make: Any) -> None:
    assert settled_context(make(), WIDTHS, real_mode=False) is not None


@pytest.mark.tlfs("VP-005")
def test_lma_follows_lme_and_paging() -> None:
    settled = settled_context(context(Efer=0x100), WIDTHS, real_mode=False)

    assert settled is not None
    assert settled.Efer == 0x500
    assert settled == context(Efer=0x500)  # and nothing else changes


@pytest.mark.parametrize(
    "change",
    [
        {"Cr4": 0x680},  # long mode without PAE
        {"Cr0": 0x8001_0032},  # paging without protection
        {"Cr3": 1 << 40},
        {"Rip": NOT_CANONICAL},
        {"Rflags": 1 << 3},
        {"Rflags": 2 | 1 << 17},  # virtual-8086 mode
        {"MsrCrPat": 2},
        {"Cs": segment(CODE64 | 1 << 14)},  # both 64-bit and 32-bit
        {"Cs": segment(DATA)},
        {"Cs": segment(CODE64 & ~0x80)},  # not present
        {"Cs": segment(CODE64 | 3 << 5)},  # its privilege is not SS's
        {"Cs": segment(CODE64, base=1 << 32)},
        {"Cs": segment(CODE64 | 1 << 8)},  # a reserved attribute
        {"Ss": segment(CODE64)},
        {"Ds": segment(0xC092)},  # not accessed
        {"Es": segment(0xC083)},  # a system segment
        {"Fs": segment(DATA, base=NOT_CANONICAL)},
        {"Gs": segment(0xC099)},  # execute-only
        {"Ds": segment(DATA, limit=0xFFFF_F000)},  # no multiple of a page, less one
        {"Ds": segment(0x4093, limit=FLAT)},  # without granularity
        {"Tr": segment(0, limit=0)},
        {"Tr": segment(0x89, limit=0x67)},  # an available TSS
        {"Tr": segment(0x83, limit=0x67)},  # a 16-bit one
        {"Tr": segment(TASK, limit=0x67, selector=4)},  # from the LDT
        {"Ldtr": segment(TASK, limit=0)},
        {"Ss": segment(DATA, base=1 << 32)},
        {"Ss": segment(0xC091)},  # cannot be written
        {"Ss": segment(0xC083)},  # a system segment
        {"Ss": segment(0x4093, limit=FLAT)},  # without granularity
        {"Ds": segment(DATA, base=1 << 32)},
        {"Es": segment(DATA, base=1 << 32)},
        {"Gs": segment(DATA, base=NOT_CANONICAL)},
        {"Cs": segment(0xA08B)},  # a system segment
        {"Cs": segment(CODE64, limit=0xFFFF_F000)},
        {"Cs": segment(CODE64 | 4 | 1 << 5)},  # conforming, and its privilege is lower than SS's
        {"Tr": segment(0x9B, limit=0x67)},  # no system segment
        {"Tr": segment(0x0B, limit=0x67)},  # not present
        {"Tr": segment(TASK, limit=1 << 20)},  # without granularity
        {"Tr": segment(TASK, limit=0x67, base=NOT_CANONICAL)},
        {"Ldtr": segment(0x92, limit=0)},  # no system segment
        {"Ldtr": segment(LOCAL_TABLE, limit=0, selector=4)},  # from an LDT
        {"Ldtr": segment(LOCAL_TABLE, limit=1 << 20)},  # without granularity
        {"Ldtr": segment(LOCAL_TABLE, limit=0, base=NOT_CANONICAL)},
        {"Idtr": HV_X64_TABLE_REGISTER(Limit=0, Base=NOT_CANONICAL)},
        {"Gdtr": HV_X64_TABLE_REGISTER(Limit=0, Base=NOT_CANONICAL)},
    ],
    ids=str,
)
@pytest.mark.tlfs("VP-003")
def test_a_state_that_no_processor_has_is_refused(change: dict[str, Any]) -> None:
    assert settled_context(context(**change), WIDTHS, real_mode=True) is None


def test_real_mode_only_where_it_is_allowed() -> None:
    assert settled_context(real_mode_context(), WIDTHS, real_mode=True) == real_mode_context()
    assert settled_context(real_mode_context(), WIDTHS, real_mode=False) is None


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize(
    "change",
    [
        {"Rflags": 2 | 1 << 17},  # virtual-8086 mode needs protection (SDM volume 3, 27.3.1.4)
        {"Efer": 0x400},
        {"Efer": 0x500},
        {"Cr4": PCIDE},
        {"Rip": NOT_CANONICAL},
    ],
    ids=str,
)
def test_real_mode_that_no_processor_has_is_refused(change: dict[str, Any]) -> None:
    assert settled_context(real_mode_context().replace(**change), WIDTHS, real_mode=True) is None


@pytest.mark.parametrize("paging", [0, PAGING])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"Tr": segment(0x83, limit=0x67)},  # a 16-bit task
        {"Cs": segment(0xC09F)},  # conforming
        {"Cs": segment(0xC09D, limit=FLAT)},  # conforming, execute-only
        {"Cs": segment(0xC099)},  # execute-only
        {"Cs": segment(0xC09F), "Ss": segment(DATA | 3 << 5)},  # conforming, of a higher privilege than SS
        {"Cs": segment(0xC09B | 3 << 5), "Ss": segment(DATA | 3 << 5)},
        {"Cs": segment(0x409B, limit=0xF_FFFF)},  # the longest limit without granularity
        {"Ss": segment(0xC097, limit=0xFFF)},  # expand-down
        {"Ds": segment(0xC09B)},  # code that can be read
        {"Ds": segment(0, limit=0, base=1 << 32)},  # absent: nothing of it counts
        {"Ss": segment(0, limit=0x1234_5678)},
        {"Efer": 1},  # SCE
    ],
    ids=str,
)
def test_protected_mode_of_32_bits_is_accepted(change: dict[str, Any], paging: int) -> None:
    made = protected_mode(**change)
    made = made.replace(Cr0=made.Cr0 | paging)

    assert settled_context(made, WIDTHS, real_mode=False) == made


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize(
    "change",
    [
        {"Efer": 0x400},  # LMA without LME and paging
        {"Efer": 0x400, "Cr0": PAGING | 0x31},  # LMA without LME
        {"Efer": 0x500},  # LMA without paging
        {"Rflags": 2 | 1 << 17},  # virtual-8086 mode
        {"Rip": 1 << 32},
        {"Cr4": PCIDE},  # of long mode only (SDM volume 3, 27.3.1.1)
        {"Cs": segment(DATA)},
        {"Cs": segment(0xC09B | 3 << 5)},  # its privilege is not SS's
        {"Tr": segment(0x81, limit=0x67)},  # an available 16-bit task
        {"Tr": segment(0x87, limit=0x67)},  # an interrupt gate
    ],
    ids=str,
)
def test_protected_mode_that_no_processor_has_is_refused(change: dict[str, Any]) -> None:
    assert settled_context(protected_mode(**change), WIDTHS, real_mode=True) is None


def test_process_context_identifiers_need_long_mode() -> None:
    assert settled_context(context(Cr4=0x6A0 | PCIDE), WIDTHS, real_mode=False) is not None


def test_compatibility_mode_has_a_32_bit_rip() -> None:
    code32 = segment(0xC09B)

    assert settled_context(context(Cs=code32, Rip=0xFFFF_FFFF), WIDTHS, real_mode=False) is not None
    assert settled_context(context(Cs=code32, Rip=1 << 32), WIDTHS, real_mode=False) is None


def test_addresses_are_as_wide_as_the_paging_mode_makes_them() -> None:
    wide = Widths(physical=40, virtual=57)
    la57 = 1 << 12

    assert settled_context(context(Rip=NOT_CANONICAL), wide, real_mode=False) is None
    assert settled_context(context(Rip=NOT_CANONICAL, Cr4=0x6A0 | la57), wide, real_mode=False) is not None
    assert settled_context(context(Rip=NOT_CANONICAL, Cr4=0x6A0 | la57), WIDTHS, real_mode=False) is None


@given(block=st.binary(min_size=HV_INITIAL_VP_CONTEXT.SIZE, max_size=HV_INITIAL_VP_CONTEXT.SIZE))
def test_any_bytes_get_an_answer(block: bytes) -> None:
    settled = settled_context(HV_INITIAL_VP_CONTEXT.unpack(block), WIDTHS, real_mode=True)

    assert settled is None or settled_context(settled, WIDTHS, real_mode=True) == settled
