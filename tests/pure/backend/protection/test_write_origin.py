# SPDX-License-Identifier: Apache-2.0
"""From a write that KVM has all but made back to its instruction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from tests.pure.backend.protection.processors import CODE, XMM, FakeVcpu, page_tables, processor
from vmm.backend.protection.write_origin import Origin, find
from vmm.machine.ram import MIB, GuestRam

DATA = 0x100000
PAGE = 4096


@dataclass
class Write:
    """`code` at CODE wants to write `data` at `gpa`. after: registers at the exit; before: what was different."""

    code: str
    gpa: int
    data: bytes
    after: dict[str, int]
    before: dict[str, int] = field(default_factory=dict)
    memory: bytes = b""
    ahead: str = ""
    """Code before it."""


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


CASES = {
    "mov": Write("8907", DATA, number(5, 4), {"rdi": DATA, "rax": 5}),
    "mov 64": Write("488907", DATA, number(5, 8), {"rdi": DATA, "rax": 5}),
    "mov 8": Write("8807", DATA, number(5, 1), {"rdi": DATA, "rax": 5}),
    "mov ah": Write("8827", DATA, number(5, 1), {"rdi": DATA, "rax": 0x500}),
    "mov imm": Write("c70705000000", DATA, number(5, 4), {"rdi": DATA}),
    "mov imm sign-extended": Write("48c707ffffffff", DATA, number(2**64 - 1, 8), {"rdi": DATA}),
    "mov moffs": Write("a20000100000000000", DATA, number(5, 1), {"rax": 5}),
    "displacement": Write("894710", DATA + 16, number(5, 4), {"rdi": DATA, "rax": 5}),
    "absolute": Write("4889042500001000", DATA, number(5, 8), {"rax": 5}),
    "behind a byte that looks like a prefix": Write(
        "8907", DATA, number(5, 4), {"rdi": DATA, "rax": 5}, ahead="b048"
    ),
    "across a page": Write("488907", DATA, number(5, 8)[3:], {"rdi": DATA - 3, "rax": 5}),
    "the first half": Write("488907", DATA + PAGE - 4, number(5, 4), {"rdi": DATA + PAGE - 4, "rax": 5 | 6 << 32}),
    "the second half": Write("488907", DATA, number(6, 4), {"rdi": DATA - 4, "rax": 5 | 6 << 32}),
    "push": Write("50", DATA + 8, number(5, 8), {"rsp": DATA + 8, "rax": 5}, {"rsp": DATA + 16}),
    "push imm": Write("6a05", DATA + 8, number(5, 8), {"rsp": DATA + 8}, {"rsp": DATA + 16}),
    "push rsp": Write("54", DATA + 8, number(DATA + 16, 8), {"rsp": DATA + 8}, {"rsp": DATA + 16}),
    "pushf": Write("9c", DATA + 8, number(2, 8), {"rsp": DATA + 8}, {"rsp": DATA + 16}),
    "pop": Write("8f07", DATA, number(9, 8), {"rdi": DATA, "rsp": 0x20008}, {"rsp": 0x20000}),
    "stos": Write("48ab", DATA, number(5, 8), {"rdi": DATA + 8, "rax": 5}, {"rdi": DATA}),
    "stos backwards": Write(
        "aa", DATA, number(5, 1), {"rdi": DATA - 1, "rax": 5, "rflags": 0x402}, {"rdi": DATA}
    ),
    "movs": Write(
        "a5", DATA, number(9, 4), {"rdi": DATA + 4, "rsi": 0x30004}, {"rdi": DATA, "rsi": 0x30000}
    ),
    "the last of rep stos": Write(
        "f3aa", DATA, number(5, 1), {"rdi": DATA + 1, "rax": 5, "rcx": 0}, {"rdi": DATA, "rcx": 1}
    ),
    "the only ins": Write("6c", DATA + 1, b"5", {"rdi": DATA + 2}, {"rdi": DATA + 1}),
    "ins backwards": Write(
        "f36d", DATA, number(5, 4), {"rdi": DATA - 4, "rcx": 0, "rflags": 0x402}, {"rdi": DATA, "rcx": 1}
    ),
    "the one of rep ins": Write(
        "f36d", DATA, number(5, 4), {"rdi": DATA + 4, "rcx": 0}, {"rdi": DATA, "rcx": 1}
    ),
    "rep ins of all that is left": Write(
        "f36c", DATA, bytes(8), {"rdi": DATA + 48, "rcx": 0}, {"rdi": DATA, "rcx": 48}
    ),
    "rep ins of less than one part": Write(
        "f3666d", DATA + 8, bytes(6), {"rdi": DATA + 14, "rcx": 0}, {"rdi": DATA + 8, "rcx": 3}
    ),
    "rep ins up to the end of a page": Write(
        "f36d", DATA + PAGE - 64, bytes(8), {"rdi": DATA + PAGE, "rcx": 0}, {"rdi": DATA + PAGE - 64, "rcx": 16}
    ),
    "one of rep ins into the next page": Write(
        "f36d", DATA, bytes(2), {"rdi": DATA + 2, "rcx": 0}, {"rdi": DATA - 2, "rcx": 1}
    ),
    "add": Write("0107", DATA, number(12, 4), {"rdi": DATA, "rax": 5}, memory=number(7, 4)),
    "sub": Write("2907", DATA, number(2, 4), {"rdi": DATA, "rax": 5}, memory=number(7, 4)),
    "and": Write("2107", DATA, number(5, 4), {"rdi": DATA, "rax": 5}, memory=number(7, 4)),
    "inc": Write("ff07", DATA, number(8, 4), {"rdi": DATA}, memory=number(7, 4)),
    "not": Write("f617", DATA, number(0xF8, 1), {"rdi": DATA}, memory=number(7, 1)),
    "adc with carry": Write(
        "1107", DATA, number(13, 4), {"rdi": DATA, "rax": 5}, {"rflags": 3}, memory=number(7, 4)
    ),
    "sbb without": Write(
        "1907", DATA, number(2, 4), {"rdi": DATA, "rax": 5, "rflags": 3}, {"rflags": 2}, memory=number(7, 4)
    ),
    "xadd": Write("480fc107", DATA, number(12, 8), {"rdi": DATA, "rax": 7}, {"rax": 5}, memory=number(7, 8)),
    # Without its prefix each of them would be one that writes just that, and in one page.
    "the first half of add": Write(
        "480107", DATA + PAGE - 4, number(5, 4), {"rdi": DATA + PAGE - 4, "rax": 5 | 6 << 32}
    ),
    "the first half of adc with carry": Write(
        "481107", DATA + PAGE - 4, number(6, 4), {"rdi": DATA + PAGE - 4, "rax": 5 | 6 << 32}, {"rflags": 3}
    ),
    "the first half of xadd": Write(
        "f0480fc107", DATA + PAGE - 4, number(5, 4), {"rdi": DATA + PAGE - 4, "rax": 7 << 32}
    ),
    "the second half of add": Write("480107", DATA, number(6, 4), {"rdi": DATA - 4, "rax": 5 | 6 << 32}),
    "enter": Write(
        "c8100000",
        DATA + 8,
        number(0x777, 8),
        {"rsp": DATA + 8 - 16, "rbp": DATA + 8},
        {"rsp": DATA + 16, "rbp": 0x777},
    ),
    "movups": Write("0f1107", DATA, bytes(range(8)), {"rdi": DATA}),
    "movdqa": Write("660f7f07", DATA, bytes(range(8)), {"rdi": DATA}),
}  # fmt: skip


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield ram


def search(ram: GuestRam, write: Write, rip: int | None = None) -> tuple[Origin | None, dict[str, int]]:
    raw, ahead = bytes.fromhex(write.code), bytes.fromhex(write.ahead)
    ram.write(CODE - len(ahead), ahead + raw)
    ram.write(DATA, write.memory)
    after = {"rip": CODE + len(raw) if rip is None else rip, "rsp": 0x20000, **write.after}
    cpu = processor(ram, **after)
    vcpu = cast(FakeVcpu, cpu.vcpu)
    vcpu.xsave[XMM : XMM + 16] = bytes(range(16))  # XMM0
    untouched = bytes(cpu.regs)
    found = find(cpu, ram, write.gpa, write.data)
    assert bytes(cpu.regs) == untouched
    expected = {**after, "rip": CODE, **write.before}
    return found, expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("name", CASES)
def test_the_instruction_and_its_registers(ram: GuestRam, name: str) -> None:
    write = CASES[name]

    found, expected = search(ram, write)

    assert found is not None
    assert found.instruction.raw == bytes.fromhex(write.code)
    assert {register: getattr(found.regs, register) for register in expected} == expected
    assert found.gva == write.gpa
    assert found.again is not (" half of " in name)


@pytest.mark.parametrize(("distance", "again"), [(8, True), (4, False), (-4, False), (-8, True)])
def test_a_copy_that_overlaps_itself_across_pages_is_not_made_again(
    ram: GuestRam, distance: int, again: bool
) -> None:
    """Its second half may have been written, and is read."""
    to = DATA + PAGE - 4
    write = Write("48a5", to, bytes(4), {"rdi": to + 8, "rsi": to + distance + 8}, {"rdi": to})

    found, _ = search(ram, write)

    assert found is not None and found.again is again


def test_a_repetition_under_way(ram: GuestRam) -> None:
    """RIP is at the instruction still."""
    write = Write(
        "f348ab", DATA, number(5, 8), {"rdi": DATA + 8, "rcx": 3, "rax": 5}, {"rdi": DATA, "rcx": 4}
    )

    found, expected = search(ram, write, rip=CODE)

    assert found is not None
    assert {register: getattr(found.regs, register) for register in expected} == expected


def test_ins_with_repetitions_left(ram: GuestRam) -> None:
    """As many as KVM has room for have been read."""
    write = Write("f36c", DATA, bytes(8), {"rdi": DATA + 16, "rcx": 5}, {"rdi": DATA, "rcx": 21})

    found, expected = search(ram, write, rip=CODE)

    assert found is not None and found.gva == DATA
    assert {register: getattr(found.regs, register) for register in expected} == expected


@pytest.mark.parametrize("code", ["ffd0", "e8fb0f0000", "e800000000"])
def test_a_call(ram: GuestRam, code: str) -> None:
    """RIP is at its target; the return address tells where it was."""
    raw = bytes.fromhex(code)
    target = CODE + len(raw) if code.endswith("00000000") else CODE + 0x1000
    back = number(CODE + len(raw), 8)
    write = Write(code, DATA + 8, back, {"rsp": DATA + 8, "rax": target}, {"rsp": DATA + 16})

    found, expected = search(ram, write, rip=target)

    assert found is not None and found.instruction.raw == raw
    assert {register: getattr(found.regs, register) for register in expected} == expected


def test_nothing_that_writes_this(ram: GuestRam) -> None:
    for write in (
        Write("8907", DATA, number(6, 4), {"rdi": DATA, "rax": 5}),  # other data
        Write("8907", DATA + 4, number(5, 4), {"rdi": DATA, "rax": 5}),  # another address
        Write("8907", DATA, number(5, 8), {"rdi": DATA, "rax": 5}),  # another size
        Write("8b07", DATA, number(5, 4), {"rdi": DATA, "rax": 5}),  # a read
    ):
        assert search(ram, write)[0] is None


def test_code_at_the_begin_of_a_page(ram: GuestRam) -> None:
    """The page before it is looked at as far as it is there."""
    from tests.pure.backend.protection.processors import PT

    write = CASES["mov"]
    ram.write(PT + 8 * ((CODE - PAGE) // PAGE), bytes(8))

    found, _ = search(ram, write)

    assert found is not None and found.instruction.length == 2
