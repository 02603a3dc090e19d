# SPDX-License-Identifier: Apache-2.0
"""What far pointers and selectors access: descriptors, and the stack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pure.backend.protection.operands_rig import D, R, S, W, of
from tests.pure.backend.protection.processors import CODE, GDT, TSS, page_tables, processor
from vmm.backend.protection.decoded import decode
from vmm.backend.protection.operands import operands
from vmm.machine.ram import MIB, GuestRam


@pytest.fixture(scope="module")
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        yield ram


def test_an_interrupt_return_reads_descriptors(ram: GuestRam) -> None:
    frame = (CODE, 0x23, 2, 0x28000, 0x1B)
    ram.write(S, b"".join(value.to_bytes(8, "little") for value in frame))
    page_tables(ram)
    cpu = processor(ram, rsp=S)
    decoded = decode(bytes.fromhex("48cf"), CODE, 64)
    assert decoded is not None

    found = [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)]

    assert found == [(R, S + 8 * index, 8) for index in range(5)] + [(R, GDT + 0x20, 8), (R, GDT + 0x18, 8)]


CODE_SEGMENT, DATA_SEGMENT, NOT_ACCESSED, GATE, RING_0 = 0x8, 0x10, 0x20, 0x28, 0x38
ACCESSED_CODE, ACCESSED_DATA, FRESH_DATA = 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF92000000FFFF


@pytest.fixture
def tables(ram: GuestRam) -> GuestRam:
    """A GDT with descriptors that have been loaded and one that has not, and a call gate to ring 0."""
    page_tables(ram)
    gate = CODE_SEGMENT << 16 | 0x8C << 40 | 3 << 45
    for selector, raw in (
        (CODE_SEGMENT, ACCESSED_CODE),
        (DATA_SEGMENT, ACCESSED_DATA),
        (NOT_ACCESSED, FRESH_DATA),
        (GATE, gate),
    ):
        ram.write(GDT + selector, raw.to_bytes(8, "little"))
    return ram


def read_of(selector: int, size: int = 8) -> tuple[int, int, int]:
    return (R, GDT + selector, size)


ACCESSED_BIT = (W, GDT + NOT_ACCESSED + 5, 1)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "selector", "expected"),
    [
        ("8ed8", DATA_SEGMENT, [read_of(DATA_SEGMENT)]),
        ("8ed8", NOT_ACCESSED, [read_of(NOT_ACCESSED), ACCESSED_BIT]),
        ("8ed8", 0, []),
        ("8ed8", 3, []),
        ("0f00d8", NOT_ACCESSED, [read_of(NOT_ACCESSED, 16), (W, GDT + NOT_ACCESSED + 5, 1)]),  # ltr
        ("0f00d0", DATA_SEGMENT, [read_of(DATA_SEGMENT, 16)]),  # lldt
        ("0f00e0", NOT_ACCESSED, [read_of(NOT_ACCESSED)]),  # verr loads nothing
        ("0f02c0", NOT_ACCESSED, [read_of(NOT_ACCESSED)]),  # lar
        ("0f03c0", DATA_SEGMENT, [read_of(DATA_SEGMENT)]),  # lsl
    ],
)
def test_a_selector_in_a_register(
    tables: GuestRam, code: str, selector: int, expected: list[tuple[int, int, int]]
) -> None:
    assert of(tables, code, rax=selector) == expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "at"), [("8e1f", 0), ("0fb407", 4), ("480fb207", 8), ("0f002f", 0), ("0f0007", None)]
)
def test_a_selector_in_memory(tables: GuestRam, code: str, at: int | None) -> None:
    """MOV DS, LFS, LSS, VERW; SLDT names none."""
    tables.write(D, bytes(16))
    if at is not None:
        tables.write(D + at, DATA_SEGMENT.to_bytes(2, "little"))

    found = of(tables, code, rdi=D)

    assert found[1:] == ([read_of(DATA_SEGMENT)] if at is not None else [])


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(("prefix", "width"), [("66", 2), ("", 4), ("48", 8)])
def test_a_far_call_pushes_twice(tables: GuestRam, prefix: str, width: int) -> None:
    """CS, then RIP, as wide as its operands, which are not those of a near call."""
    tables.write(D, bytes(width) + CODE_SEGMENT.to_bytes(2, "little"))

    call = of(tables, prefix + "ff1f", rdi=D, rsp=S)
    jump = of(tables, prefix + "ff2f", rdi=D, rsp=S)

    assert jump == [(R, D, width + 2), read_of(CODE_SEGMENT)]
    assert call == [*jump, (W, S - width, width), (W, S - 2 * width, width)]


@pytest.mark.tlfs("VSM-080")
def test_a_far_call_of_32_bit_code(tables: GuestRam) -> None:
    found = of(tables, "9a000000000800", bits=32, rsp=0x8000)

    assert found == [read_of(CODE_SEGMENT), (W, 0x7FFC, 4), (W, 0x7FF8, 4)]


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("ring", [0, 3])
def test_a_call_through_a_gate(tables: GuestRam, ring: int) -> None:
    """From ring 3 the frame lies on the stack that the TSS names for ring 0."""
    tables.write(D, bytes(4) + GATE.to_bytes(2, "little"))
    tables.write(TSS + 4, (0x28000).to_bytes(8, "little"))
    cpu = processor(tables, ring=ring, rdi=D, rsp=S)
    decoded = decode(bytes.fromhex("ff1f"), CODE, 64)
    assert decoded is not None

    found = [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)]

    gate = [(R, D, 6), read_of(GATE), (R, GDT + GATE + 8, 8), read_of(CODE_SEGMENT)]
    frame = [(W, S - 8, 8), (W, S - 16, 8)]
    if ring:
        frame = [(R, TSS + 4, 8), (W, 0x28000 - 32, 32)]
    assert found == gate + frame


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "frame", "expected"),
    [
        ("cb", (CODE, CODE_SEGMENT), [(R, S, 4), (R, S + 4, 4), read_of(CODE_SEGMENT)]),
        (
            "ca0800",
            (CODE, CODE_SEGMENT | 3, 0, 0, 0x28000, DATA_SEGMENT | 3),
            [
                *((R, S + at, 4) for at in (0, 4, 16, 20)),
                read_of(CODE_SEGMENT),
                read_of(DATA_SEGMENT),
            ],
        ),
    ],
)
def test_a_far_return(
    tables: GuestRam, code: str, frame: tuple[int, ...], expected: list[tuple[int, int, int]]
) -> None:
    tables.write(S, b"".join(value.to_bytes(4, "little") for value in frame))

    assert of(tables, code, rsp=S) == expected


def test_in_real_mode_a_selector_names_no_descriptor(tables: GuestRam) -> None:
    assert of(tables, "8ed8", bits=16, rax=DATA_SEGMENT) == []
