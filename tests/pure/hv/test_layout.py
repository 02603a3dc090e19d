# SPDX-License-Identifier: Apache-2.0
"""Structures: bytes to values and back, and declarations that are refused. (No __future__ annotations here.)"""

import inspect
import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.hv import inputs, messages, outputs, vp_context, vp_pages
from vmm.hv.bits import Bits, bit, bits
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.layout import I64, U8, U16, U32, U64, Layout, padding, raw, rsvdz


class Flags(Bits, size=1):
    On = bit(0)
    Rest = bits(1, 7)


class Inner(Layout):
    Small: U16
    Flag: Flags
    RsvdZ: bytes = rsvdz(1)


class Outer(Layout, element=("Items", U64)):
    Number: U32
    Part: Inner
    Pad: bytes = padding(7)
    Byte: U8
    Signed: I64
    Data: bytes = raw(4)
    Tail: bytes = rsvdz(4)


EXAMPLE = bytes.fromhex("78563412 3412 01 00 00000000000000 7f feffffffffffffff 61626364 00000000")


def test_unpack_reads_every_field() -> None:
    value = Outer.unpack(EXAMPLE)

    assert value.Number == 0x12345678
    assert value.Part == Inner(Small=0x1234, Flag=Flags(1))
    assert value.Part.Flag.On
    assert value.Byte == 0x7F
    assert value.Signed == -2
    assert value.Data == b"abcd"


def test_unpack_at_an_offset() -> None:
    assert Outer.unpack(memoryview(b"\xff" * 3 + EXAMPLE), 3) == Outer.unpack(EXAMPLE)


def test_pack_gives_the_bytes_back() -> None:
    assert Outer.unpack(EXAMPLE).pack() == EXAMPLE


def test_construction_leaves_reserved_bytes_zero() -> None:
    value = Outer(1, Inner(2, Flags(0)), Byte=3, Signed=-1, Data=b"abcd")

    assert value.pack() == struct.pack("<IHBB7sBq4s4s", 1, 2, 0, 0, b"", 3, -1, b"abcd", b"")


def test_a_plain_number_becomes_its_word() -> None:
    assert Inner(Small=1, Flag=1).Flag.On  # type: ignore[arg-type]  # an int where the word is declared


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Small": 1}, "Inner needs Flag"),
        ({"Small": 1, "Flag": 0, "Other": 2}, "Inner has no field Other"),
    ],
)
def test_construction_names_what_is_wrong(values: dict[str, int], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Inner(**values)  # type: ignore[arg-type]  # the mistake under test


def test_too_many_values_are_refused() -> None:
    with pytest.raises(TypeError, match="has 2 fields, got 3"):
        Inner(1, Flags(0), b"")  # type: ignore[call-arg]  # the mistake under test


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Outer.unpack(EXAMPLE).Number = 1  # type: ignore[misc]  # the mistake under test


def test_replace_changes_one_field() -> None:
    value = Outer.unpack(EXAMPLE)

    changed = value.replace(Byte=1)

    assert changed.pack() == EXAMPLE[:15] + b"\x01" + EXAMPLE[16:]
    assert value.Byte == 0x7F


def test_reserved_bytes_that_must_be_zero_are_noticed() -> None:
    assert Outer.unpack(EXAMPLE).rsvdz_is_zero()
    assert not Outer.unpack(EXAMPLE[:-1] + b"\x01").rsvdz_is_zero()


def test_padding_is_not_looked_at() -> None:
    assert Outer.unpack(EXAMPLE[:8] + b"\xff" * 7 + EXAMPLE[15:]).rsvdz_is_zero()


def test_reserved_bytes_of_a_nested_structure_count() -> None:
    assert not Outer.unpack(EXAMPLE[:7] + b"\x01" + EXAMPLE[8:]).rsvdz_is_zero()


def test_reserved_bits_of_a_word_count() -> None:
    block = bytearray(
        inputs.HV_INPUT_GET_VP_REGISTERS(PartitionId=0, VpIndex=0, InputVtl=HV_INPUT_VTL(0)).pack()
    )
    block[12] = 0x20  # bit 5 of InputVtl

    assert not inputs.HV_INPUT_GET_VP_REGISTERS.unpack(block).rsvdz_is_zero()


def test_structures_of_different_types_differ() -> None:
    assert outputs.HV_BOOT_ZEROED_RANGE(1, 2) != (1, 2)
    assert outputs.HV_BOOT_ZEROED_RANGE(1, 2) == outputs.HV_BOOT_ZEROED_RANGE(1, 2)
    assert len({outputs.HV_BOOT_ZEROED_RANGE(1, 2), outputs.HV_BOOT_ZEROED_RANGE(1, 2)}) == 1


def test_a_structure_prints_its_values() -> None:
    assert str(Outer.unpack(EXAMPLE)) == (
        "Outer(Number=0x12345678, Part=Inner(Small=0x1234, Flag=Flags(On)), Byte=0x7f, Signed=-2, Data=61626364)"
    )


def test_offsets() -> None:
    assert (Outer.offset_of("Byte"), Outer.offset_of("Items"), Outer.SIZE) == (15, 32, 32)
    with pytest.raises(KeyError, match="no field Missing"):
        Outer.offset_of("Missing")


def test_short_data_is_an_error_of_the_caller() -> None:
    with pytest.raises(struct.error):
        Outer.unpack(EXAMPLE[:-1])


def test_a_misaligned_number_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Crooked\.Word at offset 1 is not aligned to its 4 bytes"):

        class Crooked(Layout):
            Byte: U8
            Word: U32


def test_a_field_without_a_type_of_memory_is_refused() -> None:
    with pytest.raises(TypeError, match="is no field type"):

        class Loose(Layout):
            Number: int


def all_layouts() -> list[type[Layout]]:
    modules: list[ModuleType] = [inputs, messages, outputs, vp_context, vp_pages]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Layout) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("layout", all_layouts(), ids=lambda layout: layout.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_any_bytes_come_back_as_they_were(layout: type[Layout], data: st.DataObject) -> None:
    original = data.draw(st.binary(min_size=layout.SIZE, max_size=layout.SIZE))

    assert layout.unpack(original).pack() == original
    assert layout.__name__ in str(layout.unpack(original))
