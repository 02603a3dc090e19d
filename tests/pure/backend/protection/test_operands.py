# SPDX-License-Identifier: Apache-2.0
"""What instructions access: many encodings against what the manuals say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pure.backend.protection.operands_rig import D, R, S, W, of
from tests.pure.backend.protection.processors import CODE, XMM, processor
from vmm.backend.protection.decoded import decode
from vmm.backend.protection.operands import operands
from vmm.machine.ram import MIB, GuestRam


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
