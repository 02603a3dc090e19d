# SPDX-License-Identifier: Apache-2.0
"""Words with named bits: reading, making, printing, and descriptions that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.hv.bits import BitField, Bits, bit, bits, reserved, rsvdp, rsvdz
from vmm.hv.open_enum import OpenIntEnum


class Mode(OpenIntEnum):
    IDLE = 0
    RUN = 2


class Word(Bits, size=4):
    Low = bits(0, 8)
    On = bit(8)
    Kept = rsvdp(9, 7)
    State = bits(16, 4, Mode)
    Zero = rsvdz(20, 4)
    Nobody = reserved(24, 8)


def test_fields_read_their_bits() -> None:
    word = Word(0x0F02_01AB)

    assert (word.Low, word.On, word.State) == (0xAB, True, 2)


def test_a_flag_is_a_truth_value() -> None:
    assert Word(0x100).On is True
    assert Word(0).On is False


def test_the_class_gives_the_description() -> None:
    field = Word.State

    assert isinstance(field, BitField)
    assert (field.owner, field.name, field.mask, field.span) == (Word, "State", 0xF0000, "19:16")


def test_reserved_masks() -> None:
    assert Word.RSVDZ_MASK == 0x00F0_0000
    assert Word.RSVDP_MASK == 0x0000_FE00


def test_make_sets_fields_and_leaves_the_rest_zero() -> None:
    assert Word.make(Low=0xAB, On=True, State=Mode.RUN) == 0x0002_01AB


def test_replace_leaves_the_value_it_is_called_on() -> None:
    word = Word(0xAB)

    assert (word.replace(On=True), word) == (0x1AB, 0xAB)


@pytest.mark.parametrize("value", [256, -1])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="Low is 8 bits wide"):
        Word.make(Low=value)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="no field Nothing"):
        Word.make(Nothing=1)


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="read-only"):
        Word(0).Low = 1
    with pytest.raises(AttributeError):
        Word(0).Other = 1  # type: ignore[attr-defined]  # the mistake under test


def test_a_word_prints_what_is_set() -> None:
    assert repr(Word(0x0002_01AB)) == "Word(Low=0xab, On, State=RUN)"
    assert str(Word(0x0005_0000)) == "Word(State=5)"
    assert str(Word(0)) == "Word(0)"


@given(st.integers(0, 2**32 - 1))
def test_fields_make_up_the_whole_word(number: int) -> None:
    word = Word(number)

    assert sum((word & field.mask) >> field.low << field.low for field in Word.FIELDS) == number
    assert Word.make(**{field.name: (word & field.mask) >> field.low for field in Word.FIELDS}) == number


def test_a_gap_between_fields_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Gap\.High begins at bit 8; the field before it ends at bit 3"):
        type("Gap", (Bits,), {"Low": bits(0, 4), "High": bits(8, 56)})


def test_overlapping_fields_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Overlap\.High begins at bit 4"):
        type("Overlap", (Bits,), {"Low": bits(0, 8), "High": bits(4, 60)})


def test_a_description_shorter_than_the_word_is_refused() -> None:
    with pytest.raises(TypeError, match="describes 8 bits, its size is 8 bytes"):
        type("Short", (Bits,), {"Low": bits(0, 8)})
