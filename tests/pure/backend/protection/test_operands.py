# SPDX-License-Identifier: Apache-2.0
"""What instructions access: many encodings against what the manuals say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pure.backend.protection.processors import CODE, GDT, TSS, XMM, fake_of, page_tables, processor
from vmm.backend.protection.decoded import decode
from vmm.backend.protection.operands import operands
from vmm.machine.ram import MIB, GuestRam
from vmm.vsm.rights import READ, WRITE

D, S = 0x100100, 0x20000  # where RDI points, and the stack
R, W = READ, WRITE


@pytest.fixture(scope="module")
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        yield ram


# Instruction in 64-bit mode with RDI = D, RSP = S, RBX = 0x10, RCX = 3, RSI = D + 0x40, RBP = S + 0x80, RAX = 5
# -> (wanted, address, size) in the processor's order.
CASES: dict[str, list[tuple[int, int, int]]] = {
    # one operand in memory
    "8b07": [(R, D, 4)],
    "668b07": [(R, D, 2)],
    "488b07": [(R, D, 8)],
    "8a07": [(R, D, 1)],
    "8907": [(W, D, 4)],
    "c70701000000": [(W, D, 4)],
    "48c70701000000": [(W, D, 8)],
    "c60701": [(W, D, 1)],
    "0fb607": [(R, D, 1)],
    "0fbf07": [(R, D, 2)],
    "486307": [(R, D, 4)],
    "8b4710": [(R, D + 0x10, 4)],
    "8b87f0ffffff": [(R, D - 0x10, 4)],
    "8b041f": [(R, D + 0x10, 4)],
    "8b04df": [(R, D + 0x80, 4)],
    "8b442408": [(R, S + 8, 4)],
    "8b042500001000": [(R, 0x100000, 4)],
    "8b05f6000000": [(R, CODE + 6 + 0xF6, 4)],
    "678b07": [(R, D, 4)],
    "a00001100000000000": [(R, 0x100100, 1)],
    "48a30001100000000000": [(W, 0x100100, 8)],
    "0107": [(W, D, 4)],
    "0307": [(R, D, 4)],
    "1107": [(W, D, 4)],
    "2907": [(W, D, 4)],
    "2107": [(W, D, 4)],
    "0907": [(W, D, 4)],
    "3107": [(W, D, 4)],
    "830701": [(W, D, 4)],
    "833f01": [(R, D, 4)],
    "3907": [(R, D, 4)],
    "3b07": [(R, D, 4)],
    "8507": [(R, D, 4)],
    "f60701": [(R, D, 1)],
    "f717": [(W, D, 4)],
    "f71f": [(W, D, 4)],
    "f727": [(R, D, 4)],
    "f72f": [(R, D, 4)],
    "f737": [(R, D, 4)],
    "f73f": [(R, D, 4)],
    "0faf07": [(R, D, 4)],
    "6b0705": [(R, D, 4)],
    "ff07": [(W, D, 4)],
    "fe0f": [(W, D, 1)],
    "d107": [(W, D, 4)],
    "c10705": [(W, D, 4)],
    "d327": [(W, D, 4)],
    "d33f": [(W, D, 4)],
    "0fa40703": [(W, D, 4)],
    "0fad07": [(W, D, 4)],
    "0fbc07": [(R, D, 4)],
    "f30fb807": [(R, D, 4)],
    "0f4407": [(R, D, 4)],
    "0f9407": [(W, D, 1)],
    "8707": [(W, D, 4)],
    "0fc107": [(W, D, 4)],
    "0fb10f": [(W, D, 4)],
    "0fc70f": [(W, D, 8)],
    "480fc70f": [(W, D, 16)],
    "f0830701": [(W, D, 4)],
    "0fba2703": [(R, D, 4)],
    "0fba2f03": [(W, D, 4)],
    "0fa30f": [(R, D, 4)],
    "0fab0f": [(W, D, 4)],
    "0fc307": [(W, D, 4)],
    "0f38f007": [(R, D, 4)],
    "0f38f107": [(W, D, 4)],
    "8c1f": [(W, D, 2)],
    "0f0107": [(W, D, 10)],
    "0f011f": [(R, D, 10)],
    "0f0127": [(W, D, 2)],
    "0f0137": [(R, D, 2)],
    "0fae3f": [(R, D, 1)],
    "0fae17": [(R, D, 4)],
    "0fae1f": [(W, D, 4)],
    "0fae07": [(W, D, 512)],
    "0fae0f": [(R, D, 512)],
    "480fae07": [(W, D, 512)],
    "0fae27": [(W, D, 416), (W, D + 512, 8), (W, D + 576, 256)],
    "0fae37": [(W, D, 416), (W, D + 512, 8), (W, D + 576, 256)],
    "0fc727": [(W, D, 416), (W, D + 512, 16), (W, D + 576, 256)],
    "ff27": [(R, D, 8)],
    # none
    "8d07": [],
    "0f1f07": [],
    "0f1807": [],
    "0f0d0f": [],
    "0f013f": [],
    "90": [],
    "0fa2": [],
    # the stack
    "50": [(W, S - 8, 8)],
    "6650": [(W, S - 2, 2)],
    "6a01": [(W, S - 8, 8)],
    "ff37": [(R, D, 8), (W, S - 8, 8)],
    "ff3424": [(R, S, 8), (W, S - 8, 8)],
    "58": [(R, S, 8)],
    "8f07": [(R, S, 8), (W, D, 8)],
    "8f0424": [(R, S, 8), (W, S + 8, 8)],
    "9c": [(W, S - 8, 8)],
    "9d": [(R, S, 8)],
    "e800000000": [(W, S - 8, 8)],
    "ffd0": [(W, S - 8, 8)],
    "ff17": [(R, D, 8), (W, S - 8, 8)],
    "c3": [(R, S, 8)],
    "c20800": [(R, S, 8)],
    "c9": [(R, S + 0x80, 8)],
    "c8100000": [(W, S - 8, 8)],
    "c8100002": [(W, S - 8, 8), (R, S + 0x78, 8), (W, S - 16, 8), (W, S - 24, 8)],
    # strings
    "a4": [(R, D + 0x40, 1), (W, D, 1)],
    "48a5": [(R, D + 0x40, 8), (W, D, 8)],
    "f3a4": [(R, D + 0x40, 1), (W, D, 1)],
    "aa": [(W, D, 1)],
    "f348ab": [(W, D, 8)],
    "ac": [(R, D + 0x40, 1)],
    "ae": [(R, D, 1)],
    "a6": [(R, D + 0x40, 1), (R, D, 1)],
    "6c": [(W, D, 1)],
    "6e": [(R, D + 0x40, 1)],
    "d7": [(R, 0x15, 1)],
    # x87
    "d907": [(R, D, 4)],
    "dd07": [(R, D, 8)],
    "db2f": [(R, D, 10)],
    "df07": [(R, D, 2)],
    "df2f": [(R, D, 8)],
    "d807": [(R, D, 4)],
    "da07": [(R, D, 4)],
    "d917": [(W, D, 4)],
    "d91f": [(W, D, 4)],
    "dd1f": [(W, D, 8)],
    "db3f": [(W, D, 10)],
    "df1f": [(W, D, 2)],
    "dd0f": [(W, D, 8)],
    "d92f": [(R, D, 2)],
    "d93f": [(W, D, 2)],
    "d927": [(R, D, 28)],
    "d937": [(W, D, 28)],
    "dd27": [(R, D, 108)],
    "dd37": [(W, D, 108)],
    "dd3f": [(W, D, 2)],
    # MMX, SSE
    "0f6f07": [(R, D, 8)],
    "0f7f07": [(W, D, 8)],
    "0fe707": [(W, D, 8)],
    "0f7e07": [(W, D, 4)],
    "0f1007": [(R, D, 16)],
    "0f1107": [(W, D, 16)],
    "0f2807": [(R, D, 16)],
    "0f2907": [(W, D, 16)],
    "0f2b07": [(W, D, 16)],
    "0f1207": [(R, D, 8)],
    "0f1307": [(W, D, 8)],
    "0f1607": [(R, D, 8)],
    "0f1707": [(W, D, 8)],
    "f30f1007": [(R, D, 4)],
    "f30f1107": [(W, D, 4)],
    "f20f1007": [(R, D, 8)],
    "f20f1107": [(W, D, 8)],
    "660f6f07": [(R, D, 16)],
    "660f7f07": [(W, D, 16)],
    "f30f6f07": [(R, D, 16)],
    "f30f7f07": [(W, D, 16)],
    "660fd607": [(W, D, 8)],
    "f30f7e07": [(R, D, 8)],
    "660f7e07": [(W, D, 4)],
    "66480f7e07": [(W, D, 8)],
    "660fe707": [(W, D, 16)],
    "660f5807": [(R, D, 16)],
    "660f3a140701": [(W, D, 1)],
    "660f3a160701": [(W, D, 4)],
    "660f3a170701": [(W, D, 4)],
    "660f3a200701": [(R, D, 1)],
    "660ff7c1": [(W, D, 16)],
    "0ff7c1": [(W, D, 8)],
    # AVX
    "c5fc1007": [(R, D, 32)],
    "c5fc1107": [(W, D, 32)],
    "c5f81107": [(W, D, 16)],
    "c5fe6f07": [(R, D, 32)],
    "c5fe7f07": [(W, D, 32)],
    "c5f9d607": [(W, D, 8)],
    "c4e37d190701": [(W, D, 16)],
    "c4e379140701": [(W, D, 1)],
    "c4e2792e07": [(W, D, 16)],
    "c4e2792c07": [(R, D, 16)],
    "c4e27d1807": [(R, D, 4)],
    "c5f82b07": [(W, D, 16)],
    "62f17c481007": [(R, D, 64)],
    "62f17c481107": [(W, D, 64)],
    # by RAX, beside operands
    "0f01fc": [(W, 0, 64)],
    "0f01c8": [(R, 5, 1)],
    "0f01fa": [(R, 5, 1)],
    "f30faef0": [(R, 5, 1)],
    "660f38f80f": [(R, D, 64), (W, 3, 64)],  # movdir64b rcx, [rdi]
    "0f38f907": [(W, D, 4)],
    # selectors beyond the GDT, which has eight descriptors: an exception, before anything is read
    "8ee0": [],
    "8e27": [(R, D, 2)],
    "0fb407": [(R, D, 6)],
    "480fb207": [(R, D, 10)],
    "660fb507": [(R, D, 4)],
    "0f00d8": [],
    "0f0017": [(R, D, 2)],
}


def of(
    ram: GuestRam, code: str, *, bits: int = 64, state: dict[int, bytes] | None = None, **registers: int
) -> list[tuple[int, int, int]]:
    """What an instruction accesses. state: what is in the XSAVE area, by offset."""
    cpu = processor(ram, bits=bits, **registers)
    for at, data in (state or {}).items():
        fake_of(cpu).put_state(at, data)
    decoded = decode(bytes.fromhex(code) + bytes(15), CODE, bits)
    assert decoded is not None
    return [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)]


ALL_CHOSEN = {32: b"\xff" * 128, XMM: b"\xff" * 256, 576: b"\xff" * 256, 1088: b"\xff" * 64}
"""Each vector and mask register has all bits set."""


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("code", CASES)
def test_in_64_bit_mode(ram: GuestRam, code: str) -> None:
    found = of(ram, code, state=ALL_CHOSEN, rdi=D, rsi=D + 0x40, rbx=0x10, rcx=3, rbp=S + 0x80, rax=5, rsp=S)

    assert found == CASES[code]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("8b07", [(R, 0x3000 + 0x500, 4)]),
        ("668b07", [(R, 0x3000 + 0x500, 2)]),
        ("678b07", [(R, 0x3000 + 0x10, 4)]),  # [bx]
        ("268b07", [(R, 0x7000 + 0x500, 4)]),
        ("50", [(W, 0x5000 + 0x8000 - 4, 4)]),
        ("6650", [(W, 0x5000 + 0x8000 - 2, 2)]),
        ("8b45fc", [(R, 0x5000 + 0x7FFC, 4)]),
        ("c3", [(R, 0x5000 + 0x8000, 4)]),
        ("a4", [(R, 0x3000 + 0x600, 1), (W, 0x7000 + 0x500, 1)]),
        ("64a4", [(R, 0x9000 + 0x600, 1), (W, 0x7000 + 0x500, 1)]),
        ("60", [(W, 0x5000 + 0x8000 - 4 * count, 4) for count in range(1, 9)]),
        ("61", [(R, 0x5000 + 0x8000 + 4 * count, 4) for count in range(8)]),
    ],
)
def test_in_32_bit_mode(ram: GuestRam, code: str, expected: list[tuple[int, int, int]]) -> None:
    cpu = processor(
        ram,
        bits=32,
        rdi=0x500,
        rsi=0x600,
        rbx=0x10,
        rsp=0x8000,
        rbp=0x8000,
        ds_base=0x3000,
        ss_base=0x5000,
        es_base=0x7000,
        fs_base=0x9000,
    )
    decoded = decode(bytes.fromhex(code) + bytes(15), CODE, 32)
    assert decoded is not None

    assert [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)] == expected


def test_a_segment_of_64_bit_mode_that_has_a_base(ram: GuestRam) -> None:
    cpu = processor(ram, rdi=D, gs_base=0x1000, ds_base=0x5000)
    for code, address in (("658b07", D + 0x1000), ("3e8b07", D)):
        decoded = decode(bytes.fromhex(code), CODE, 64)
        assert decoded is not None
        assert [operand.gva for operand in operands(cpu, decoded)] == [address]


def test_a_repetition_that_is_over_accesses_nothing(ram: GuestRam) -> None:
    cpu = processor(ram, rdi=D, rsi=D, rcx=0)
    decoded = decode(bytes.fromhex("f3a4"), CODE, 64)
    assert decoded is not None
    assert list(operands(cpu, decoded)) == []


@pytest.mark.parametrize(
    ("bit", "address"), [(0, D), (31, D), (32, D + 4), (100, D + 12), (-1, D - 4), (-33, D - 8)]
)
def test_a_bit_far_away(ram: GuestRam, bit: int, address: int) -> None:
    """BTS with a register reaches beyond its operand, backwards too."""
    cpu = processor(ram, rdi=D, rcx=bit & 0xFFFF_FFFF)
    decoded = decode(bytes.fromhex("0fab0f"), CODE, 64)
    assert decoded is not None
    assert [operand.gva for operand in operands(cpu, decoded)] == [address]


def test_an_interrupt_return_reads_descriptors(ram: GuestRam) -> None:
    frame = (CODE, 0x23, 2, 0x28000, 0x1B)
    ram.write(S, b"".join(value.to_bytes(8, "little") for value in frame))
    page_tables(ram)
    cpu = processor(ram, rsp=S)
    decoded = decode(bytes.fromhex("48cf"), CODE, 64)
    assert decoded is not None

    found = [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)]

    assert found == [(R, S + 8 * index, 8) for index in range(5)] + [(R, GDT + 0x20, 8), (R, GDT + 0x18, 8)]


# ---- far pointers and descriptors ------------------------------------------------------------------------

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


# ---- masks and addresses in vectors ----------------------------------------------------------------------


def vector(*values: int, size: int = 4) -> bytes:
    return b"".join(value.to_bytes(size, "little", signed=True) for value in values)


def masks(value: int) -> dict[int, bytes]:
    """Mask register 1."""
    return {1088 + 8: value.to_bytes(8, "little")}


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "mask", "expected"),
    [
        ("62f17c491007", 0xFFFF, [(R, D, 64)]),  # vmovups zmm0{k1}, [rdi]
        ("62f17c491007", 0x0000, []),
        ("62f17c491007", 0xF0000, []),  # it has 16 elements
        ("62f17c491107", 0x8003, [(W, D, 8), (W, D + 60, 4)]),
        ("62f1fd491107", 0x81, [(W, D, 8), (W, D + 56, 8)]),  # vmovupd
        ("62f17f296f07", 0x6, [(R, D + 1, 2)]),  # vmovdqu8 ymm0{k1}, [rdi]
        ("62f1ff296f07", 0x6, [(R, D + 2, 4)]),  # vmovdqu16
        ("62f17c595807", 0x2, [(R, D, 4)]),  # vaddps zmm0{k1}, zmm0, [rdi]{1to16}
        ("62f17c595807", 0x0, []),
        ("62f17e095807", 0x1, [(R, D, 4)]),  # vaddss
        ("62f17e095807", 0xE, []),
        ("62f27d498a07", 0x8421, [(W, D, 16)]),  # vcompressps [rdi]{k1}, zmm0: no gaps
        ("62f2fd498807", 0x81, [(R, D, 16)]),  # vexpandpd
        ("62f27e493107", 0x101, [(W, D, 1), (W, D + 8, 1)]),  # vpmovdb [rdi]{k1}, zmm0
        ("62f27d493107", 0x101, [(R, D, 1), (R, D + 8, 1)]),  # vpmovzxbd zmm0{k1}, [rdi]
        ("62f17c495a07", 0x81, [(R, D, 4), (R, D + 28, 4)]),  # vcvtps2pd zmm0{k1}, [rdi]
        ("62f37d491d0700", 0x3, [(W, D, 4)]),  # vcvtps2ph [rdi]{k1}, zmm0
        ("62f27d491a07", 0x41, [(R, D, 4), (R, D + 8, 4)]),  # vbroadcastf32x4: four elements, four times
        ("62f27d481807", 0x0, [(R, D, 4)]),  # vbroadcastss zmm0, [rdi], without a mask
        ("62f27d491807", 0x80, [(R, D, 4)]),
        ("62f37d491b0701", 0x81, [(W, D, 32)]),  # vextractf32x8 [rdi]{k1}, zmm0, 1
        ("62f17d49723711", 0x4, [(R, D + 8, 4)]),  # vpslld zmm0{k1}, [rdi], 17
        ("62f17d49f207", 0x4, [(R, D, 16)]),  # vpslld zmm0{k1}, zmm0, [rdi]: the count
        ("62f27d490007", 0x1, [(R, D, 64)]),  # vpshufb moves elements: all are read
    ],
)
def test_a_mask_register(ram: GuestRam, code: str, mask: int, expected: list[tuple[int, int, int]]) -> None:
    assert of(ram, code, rdi=D, state=masks(mask)) == expected


def test_whole_is_without_the_mask(ram: GuestRam) -> None:
    cpu = processor(ram, rdi=D)
    decoded = decode(bytes.fromhex("62f17c491007"), CODE, 64)
    assert decoded is not None

    assert [(each.gva, each.size) for each in operands(cpu, decoded, whole=True)] == [(D, 64)]


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "mask", "expected"),
    [
        ("c4e2712c07", vector(0, -1, -1, 0), [(R, D + 4, 8)]),  # vmaskmovps xmm0, xmm1, [rdi]
        ("c4e2712e07", vector(-1, 0, 0, -1), [(W, D, 4), (W, D + 12, 4)]),
        ("c4e2712d07", vector(0, -1, size=8), [(R, D + 8, 8)]),  # vmaskmovpd
        ("c4e2f18e07", vector(0, 0, size=8), []),  # vpmaskmovq
        ("660ff7c1", vector(*[0, -128] * 8, size=1), [(W, D + at, 1) for at in range(1, 16, 2)]),
        ("65660ff7c1", vector(*[0] * 15, -1, size=1), [(W, D + 0x1000 + 15, 1)]),  # in GS
    ],
)
def test_a_mask_in_a_vector(
    ram: GuestRam, code: str, mask: bytes, expected: list[tuple[int, int, int]]
) -> None:
    assert of(ram, code, rdi=D, state={XMM + 16: mask}, gs_base=0x1000) == expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "state", "expected"),
    [
        (
            "c4e26992048f",  # vgatherdps xmm0, [rdi+xmm1*4], xmm2
            {XMM + 16: vector(0, 3, -1, 9), XMM + 32: vector(-1, 0, -1, -1)},
            [(R, D, 4), (R, D - 4, 4), (R, D + 36, 4)],
        ),
        (
            "c4e2e99304cf",  # vgatherqpd xmm0, [rdi+xmm1*8], xmm2
            {XMM + 16: vector(5, -2, size=8), XMM + 32: vector(-1, -1, size=8)},
            [(R, D + 40, 8), (R, D - 16, 8)],
        ),
        (
            "c4e26993048f",  # vgatherqps xmm0, [rdi+xmm1*4], xmm2: two elements, of four
            {XMM + 16: vector(5, -2, size=8), XMM + 32: vector(-1, -1, -1, -1)},
            [(R, D + 20, 4), (R, D - 8, 4)],
        ),
        (
            "62f2fd4992040f",  # vgatherdpd zmm0{k1}, [rdi+ymm1]
            {XMM + 16: vector(1, 2, 3, 4), 576 + 16: vector(5, 6, 7, 8), **masks(0xFF82)},
            [(R, D + 2, 8), (R, D + 8, 8)],
        ),
        (
            "62f27d49a2048f",  # vscatterdps [rdi+zmm1*4]{k1}, zmm0
            {1152 + 32: vector(0, 0, 0, 0, 0, 0, 0, 99), **masks(0x8001)},
            [(W, D, 4), (W, D + 396, 4)],
        ),
        (
            "62f27d41a0048f",  # vpscatterdd [rdi+zmm17*4]{k1}, zmm0
            {1664 + 64: vector(7), **masks(0x1)},
            [(W, D + 28, 4)],
        ),
        ("62f27d49c60c8f", masks(0xFFFF), []),  # vgatherpf0dps, which never faults
    ],
)
def test_gathers_and_scatters(
    ram: GuestRam, code: str, state: dict[int, bytes], expected: list[tuple[int, int, int]]
) -> None:
    assert of(ram, code, rdi=D, state=state) == expected


# ---- XSAVE and its like ----------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "asked", "expected"),
    [
        ("0fae27", 4, [(W, D + 24, 8), (W, D + 512, 8), (W, D + 576, 256)]),  # MXCSR belongs to AVX too
        ("0fae27", 1, [(W, D, 416), (W, D + 512, 8)]),
        ("0fae27", 0xE0, [(W, D + 512, 8), (W, D + 1088, 64), (W, D + 1152, 512), (W, D + 1664, 1024)]),
        ("0fae37", 0xE0, [(W, D + 512, 8), (W, D + 1088, 64)]),  # the others are in their initial state
        ("0fc727", 0xE0, [(W, D + 512, 16), (W, D + 576, 64)]),
        ("0fc727", 0xE4, [(W, D + 512, 16), (W, D + 576 + 256, 64)]),
        ("0fae27", 0x18, [(W, D + 512, 8)]),  # not enabled
    ],
)
def test_xsave_writes_what_is_asked_for(
    ram: GuestRam, code: str, asked: int, expected: list[tuple[int, int, int]]
) -> None:
    cpu = processor(ram, rdi=D, rax=asked)
    fake_of(cpu).xcr0 = 0xE7
    fake_of(cpu).put_state(512, b"\x23")
    fake_of(cpu).xsave[512] = 0x23  # in use: x87, SSE, masks
    decoded = decode(bytes.fromhex(code), CODE, 64)
    assert decoded is not None

    assert [(each.wanted, each.gva, each.size) for each in operands(cpu, decoded)] == expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("there", "layout", "expected"),
    [
        (7, 0, [(R, D, 416), (R, D + 576, 256)]),
        (4, 0, [(R, D + 24, 8), (R, D + 576, 256)]),
        (0, 0, [(R, D + 24, 8)]),
        (0x20, 1 << 63 | 0x24, [(R, D + 576 + 256, 64)]),
        (0x24, 1 << 63 | 0x24, [(R, D + 576, 256), (R, D + 576 + 256, 64)]),
    ],
)
def test_xrstor_reads_what_the_header_says(
    ram: GuestRam, there: int, layout: int, expected: list[tuple[int, int, int]]
) -> None:
    page_tables(ram)
    ram.write(D + 512, there.to_bytes(8, "little") + layout.to_bytes(8, "little") + bytes(48))
    cpu = processor(ram, rdi=D, rax=0xE7)
    fake_of(cpu).xcr0 = 0xE7
    decoded = decode(bytes.fromhex("0fae2f"), CODE, 64)
    assert decoded is not None

    found = [(each.wanted, each.gva, each.size) for each in operands(cpu, decoded)]

    assert found == [(R, D + 512, 24), *expected]


@pytest.mark.parametrize(("code", "size"), [("66dd37", 94), ("66d927", 14), ("dd37", 108), ("d927", 28)])
def test_x87_state_in_16_bits_is_smaller(ram: GuestRam, code: str, size: int) -> None:
    ((_, _, found),) = of(ram, code, rdi=D)
    assert found == size
