# SPDX-License-Identifier: Apache-2.0
"""Values that registers can hold (TLFS 7.10.1; SDM volume 3, chapter 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.hv.registers import HvRegisterName as Register
from vmm.hvcalls.register_values import Widths, settled

WIDTHS = Widths(physical=40, virtual=48)
ET = 1 << 4
REFUSED = [
    (Register.HvX64RegisterCr0, 1 << 31, "PG without PE"),
    (Register.HvX64RegisterCr0, 1 | 1 << 29, "NW without CD"),
    (Register.HvX64RegisterCr0, 1 | 1 << 32, "the high half"),
    (Register.HvX64RegisterCr3, 1 << 40, "beyond the physical addresses"),
    (Register.HvX64RegisterCr4, 1 << 15, "an undefined bit"),
    (Register.HvX64RegisterCr4, 1 << 19, "an undefined bit"),
    (Register.HvX64RegisterCr4, 1 << 26, "an undefined bit"),
    (Register.HvX64RegisterCr4, 1 << 63, "an undefined bit"),
    (Register.HvX64RegisterCr8, 16, "four bits are there"),
    (Register.HvX64RegisterEfer, 1 << 1, "an undefined bit"),
    (Register.HvX64RegisterPat, 0x0002, "there is no type 2"),
    (Register.HvX64RegisterRflags, 1 << 3, "an undefined bit"),
    (Register.HvX64RegisterRflags, 1 << 22, "an undefined bit"),
    (Register.HvX64RegisterDr6, 1 << 32, "the high half"),
    (Register.HvX64RegisterDr7, 1 << 63, "the high half"),
    (Register.HvX64RegisterSfmask, 1 << 32, "the high half"),
    (Register.HvX64RegisterTscAux, 1 << 32, "the high half"),
    (Register.HvX64RegisterLstar, 1 << 47, "not canonical"),
    (Register.HvX64RegisterKernelGsBase, 0xFFFE_0000_0000_0000, "not canonical"),
    (Register.HvX64RegisterFs, 1 << 48, "base not canonical"),
    (Register.HvX64RegisterGdtr, 1 << 64 + 50, "base not canonical"),
    (Register.HvX64RegisterCs, 1 << 112 + 8, "a reserved attribute"),
    (Register.HvX64RegisterApicBase, 1 << 41, "beyond the physical addresses"),
    (Register.HvX64RegisterRbx, 1 << 64, "wider than the register"),
    (Register.HvRegisterVpIndex, 1 << 32, "wider than the register"),
]
ACCEPTED = [
    (Register.HvX64RegisterCr0, 1, 1 | ET),  # ET is fixed
    (Register.HvX64RegisterCr0, 1 | 1 << 6, 1 | ET),  # a reserved bit of the low half is ignored
    (Register.HvX64RegisterCr0, 1 | 3 << 29, 1 | ET | 3 << 29),
    (Register.HvX64RegisterCr3, 0xFF_FFFF_F018, 0xFF_FFFF_F018),
    (Register.HvX64RegisterEfer, 0xD01, 0xD01),
    (Register.HvX64RegisterPat, 0x0007_0406_0007_0406, 0x0007_0406_0007_0406),
    (Register.HvX64RegisterPat, 0, 0),  # guests pass it
    (Register.HvX64RegisterRflags, 0x200, 0x202),  # bit 1 is fixed
    (Register.HvX64RegisterLstar, 0xFFFF_8000_0000_0000, 0xFFFF_8000_0000_0000),
    (Register.HvX64RegisterRsp, 1 << 60, 1 << 60),  # any number goes into RSP
    (Register.HvX64RegisterXmm0, 1 << 127, 1 << 127),
    (Register.HvX64RegisterCs, 0xA09B << 112, 0xA09B << 112),
]


@pytest.mark.tlfs("REG-012")
@pytest.mark.parametrize(("register", "value", "why"), REFUSED, ids=lambda value: str(value))
def test_a_value_that_no_processor_holds_is_refused(register: Register, value: int, why: str) -> None:
    assert settled(register, value, WIDTHS) is None


@pytest.mark.tlfs("REG-012")
@pytest.mark.parametrize(("register", "value", "held"), ACCEPTED, ids=lambda value: str(value))
def test_fixed_bits_are_put_right(register: Register, value: int, held: int) -> None:
    assert settled(register, value, WIDTHS) == held


@given(register=st.sampled_from(list(Register)), value=st.integers(0, (1 << 128) - 1))
def test_what_is_held_is_held_again(register: Register, value: int) -> None:
    held = settled(register, value & register.value_type.value_mask, WIDTHS)

    assert held is None or settled(register, held, WIDTHS) == held


def test_an_unknown_register_has_no_rule() -> None:
    assert settled(0x7777_7777, 5, WIDTHS) == 5
