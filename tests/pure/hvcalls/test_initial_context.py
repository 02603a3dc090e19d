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
    TASK,
    context,
    kvm_unit_tests_context,
    opentmk_context,
    real_mode_context,
    segment,
)
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT, HV_X64_TABLE_REGISTER
from vmm.hvcalls.initial_context import settled_context
from vmm.hvcalls.register_values import Widths

WIDTHS = Widths(physical=40, virtual=48)
NOT_CANONICAL = 1 << 50


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
        {"Efer": 0x400},  # LMA without LME
        {"Efer": 0x500, "Cr0": 0x31},  # LMA without paging
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


def test_compatibility_mode_has_a_32_bit_rip() -> None:
    code32 = segment(0xC09B)

    assert settled_context(context(Cs=code32, Rip=0x10_0000), WIDTHS, real_mode=False) is not None
    assert settled_context(context(Cs=code32), WIDTHS, real_mode=False) is None


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
