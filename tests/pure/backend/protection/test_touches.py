# SPDX-License-Identifier: Apache-2.0
"""Everything that a processor touches for an instruction or an event, in its order."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.pure.backend.protection.processors import (
    CODE,
    GDT,
    IDT,
    PD,
    PDPT,
    PML4,
    PT,
    TSS,
    page_tables,
    processor,
)
from vmm.backend.protection.touches import Touch, Touches, idt_pages, of_event, of_instruction
from vmm.machine.ram import MIB, GuestRam
from vmm.vsm.rights import EXECUTE, READ, WRITE

PAGE = 4096
DATA = 0x100000
PAGE_FAULT = 14


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield ram


def data(touches: Touches) -> list[tuple[int, int, int]]:
    """What is no page walk."""
    return [(each.wanted, each.gpa, each.size) for each in touches.touches if not each.page_walk]


def walks(touches: Touches, gva: int) -> list[tuple[int, int]]:
    return [(each.wanted, each.gpa) for each in touches.touches if each.page_walk and each.gva == gva]


def path(gva: int) -> list[int]:
    """Where the entries of a walk lie."""
    return [PML4, PDPT, PD, PT + 8 * (gva // PAGE)]


def test_the_fetch_comes_first_and_is_as_long_as_the_instruction(ram: GuestRam) -> None:
    ram.write(CODE, b"\x48\x8b\x07")

    found = of_instruction(processor(ram, rdi=DATA + 8), ram)

    assert data(found) == [(EXECUTE, CODE, 3), (READ, DATA + 8, 8)]
    assert found.instruction is not None and found.instruction.raw == b"\x48\x8b\x07" and found.fault is None
    assert walks(found, CODE) == [(READ, at) for at in path(CODE)]
    assert walks(found, DATA + 8) == [(READ, at) for at in path(DATA)]


def test_bits_that_a_walk_sets(ram: GuestRam) -> None:
    """Accessed and dirty bits are writes to the tables. Nothing is written here."""
    page_tables(ram, bits=0x07)
    ram.write(CODE, b"\x89\x07")
    before = ram.read(0, 0x10000)

    found = of_instruction(processor(ram, rdi=DATA), ram)

    assert [touch for touch in found.touches if touch.wanted == WRITE and touch.page_walk] == [
        Touch(PT + 8 * (CODE // PAGE), 1, WRITE, CODE, page_walk=True),
        Touch(PT + 8 * (DATA // PAGE), 1, WRITE, DATA, page_walk=True),
    ]
    assert ram.read(0, 0x10000) == before


def test_an_operand_across_a_page(ram: GuestRam) -> None:
    """Both walks, then both parts."""
    ram.write(CODE, b"\x48\x89\x07")

    found = of_instruction(processor(ram, rdi=DATA + PAGE - 3), ram)

    assert data(found) == [(EXECUTE, CODE, 3), (WRITE, DATA + PAGE - 3, 3), (WRITE, DATA + PAGE, 5)]


def test_an_instruction_across_a_page(ram: GuestRam) -> None:
    at = DATA + PAGE - 2
    ram.write(at, b"\x48\xb8" + bytes(8))

    found = of_instruction(processor(ram, rip=at), ram)

    assert data(found) == [(EXECUTE, at, 2), (EXECUTE, DATA + PAGE, 8)]


def test_an_instruction_that_ends_with_its_page(ram: GuestRam) -> None:
    """What lies behind is not touched."""
    at = DATA + PAGE - 1
    ram.write(at, b"\x90\x0f")

    assert data(of_instruction(processor(ram, rip=at), ram)) == [(EXECUTE, at, 1)]


def test_a_page_that_is_not_there(ram: GuestRam) -> None:
    """The instruction raises #PF: its walk is touched, the page is not."""
    ram.write(CODE, b"\x8b\x07")
    ram.write(PT + 8 * (DATA // PAGE), bytes(8))

    found = of_instruction(processor(ram, rdi=DATA), ram)

    assert data(found) == [(EXECUTE, CODE, 2)]
    assert found.fault is not None and found.fault.vector == PAGE_FAULT and found.fault.cr2 == DATA
    assert walks(found, DATA) == [(READ, at) for at in path(DATA)]


def test_a_device_is_touched_too(ram: GuestRam) -> None:
    """That it is no RAM is somebody else's business."""
    ram.write(CODE, b"\x8b\x07")
    ram.write(PT + 8 * (DATA // PAGE), struct.pack("<Q", 0xFEE00067))

    assert data(of_instruction(processor(ram, rdi=DATA), ram))[-1] == (READ, 0xFEE00000, 4)


def test_bytes_that_are_no_instruction(ram: GuestRam) -> None:
    ram.write(CODE, b"\x06" * 15)

    found = of_instruction(processor(ram), ram)

    assert found.instruction is None and [kind for kind, _, _ in data(found)] == [EXECUTE]


def tables(ram: GuestRam, handler: int = 0x8000) -> None:
    code, stack_data = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
    ram.write(GDT, struct.pack("<3Q", 0, code, stack_data))
    ram.write(TSS + 4, struct.pack("<Q", 0x30000))
    for vector in range(256):
        ram.write(IDT + 16 * vector, struct.pack("<HHBBHII", handler, 8, 0, 0xEE, 0, 0, 0))


@pytest.mark.parametrize("error_code", [None, 4])
def test_an_event_in_ring_0(ram: GuestRam, error_code: int | None) -> None:
    """The gate, the code segment, and the frame on the stack in use."""
    tables(ram)
    size = 40 if error_code is None else 48

    found = of_event(processor(ram, rsp=0x28000), ram, PAGE_FAULT, error_code)

    assert data(found) == [
        (READ, IDT + 16 * PAGE_FAULT, 16),
        (READ, GDT + 8, 8),
        (WRITE, 0x28000 - size, size),
    ]


def test_an_event_in_ring_3(ram: GuestRam) -> None:
    """The TSS has the stack."""
    tables(ram)

    found = of_event(processor(ram, ring=3), ram, 6, None)

    assert data(found) == [
        (READ, IDT + 16 * 6, 16),
        (READ, GDT + 8, 8),
        (READ, TSS + 4, 8),
        (WRITE, 0x30000 - 40, 40),
    ]


def test_a_software_interrupt(ram: GuestRam) -> None:
    """Its delivery is part of the instruction."""
    tables(ram)
    ram.write(CODE, b"\xcd\x80")

    found = of_instruction(processor(ram, rsp=0x28000), ram)

    assert data(found) == [
        (EXECUTE, CODE, 2),
        (READ, IDT + 16 * 0x80, 16),
        (READ, GDT + 8, 8),
        (WRITE, 0x28000 - 40, 40),
    ]


def test_nothing_of_a_processor_is_changed(ram: GuestRam) -> None:
    tables(ram)
    cpu = processor(ram, ring=3)
    before = bytes(cpu.regs), bytes(cpu.sregs), ram.read(0, 0x40000)

    of_event(cpu, ram, 6, None)
    of_instruction(cpu, ram)

    assert (bytes(cpu.regs), bytes(cpu.sregs), ram.read(0, 0x40000)) == before


def test_pages_of_the_idt(ram: GuestRam) -> None:
    cpu = processor(ram)
    assert idt_pages(cpu, ram) == {IDT // PAGE}
    cpu.sregs.idt.base = IDT + 0x800
    assert idt_pages(cpu, ram) == {IDT // PAGE, IDT // PAGE + 1}


@pytest.mark.parametrize("at", [0xA0000, 0xA0000 - 1], ids=["all of it", "behind the end of RAM"])
def test_an_instruction_in_a_device_s_memory_has_no_bytes(ram: GuestRam, at: int) -> None:
    ram.write(0xA0000 - 1, b"\x48")

    found = of_instruction(processor(ram, rip=at), ram)

    assert found.instruction is None and found.fault is None
    assert (EXECUTE, at, 1 if at < 0xA0000 else 15) in data(found)
