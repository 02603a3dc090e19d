# SPDX-License-Identifier: Apache-2.0
"""What a processor accesses by itself: code, page tables, descriptor tables, the stack of a handler."""

from __future__ import annotations

import struct

import pytest

from tests.host.protection.world import (
    DATA,
    END,
    GDT,
    IDT,
    MAPPED_BY_PT1,
    PAGE,
    PT1,
    STACK,
    TSS,
    Ended,
    Registers,
    World,
    new_world,
)
from vmm.vsm.rights import EXECUTE, NONE, READ, WRITE

pytestmark = pytest.mark.host

RINGS = (0, 3)
NOT_EXECUTABLE = {"---": NONE, "r--": READ, "rw-": READ | WRITE}
INVALID_OPCODE, PAGE_FAULT = 6, 14
UD2 = b"\x0f\x0b"
JUMP_RAX = b"\xff\xe0"
READ_RDI = b"\x8b\x07"
VECTOR = 0x31


@pytest.mark.tlfs("VSM-080", "VSM-077")
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("rights", NOT_EXECUTABLE.values(), ids=NOT_EXECUTABLE)
def test_a_fetch(rights: int, ring: int) -> None:
    """RIP is at the instruction that cannot be fetched; granted, it is carried out."""
    with new_world() as world:
        world.ram.write(DATA + 0x20, END)
        world.start(JUMP_RAX, ring, rax=DATA + 0x20)
        world.restrict(DATA, rights)

        ended = world.run()

        told = ended.told[0]
        assert (told.access.wanted, told.access.gpa, told.access.gva) == (EXECUTE, DATA + 0x20, DATA + 0x20)
        assert (told.access.instruction, told.access.length) == (b"", 0)
        assert told.registers.rip == DATA + 0x20
        assert len(ended.told) == 1 and ended.vector is None


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("rights", NOT_EXECUTABLE.values(), ids=NOT_EXECUTABLE)
def test_a_fetch_across_a_page(rights: int, ring: int) -> None:
    """The first byte that is refused is the second page's first."""
    with new_world() as world:
        world.start(b"\x48\xb8" + bytes(range(8)), ring, at=DATA - 5)  # mov rax, imm64
        world.restrict(DATA, rights)

        ended = world.run()

        told = ended.told[0]
        assert (told.access.wanted, told.access.gpa, told.access.gva) == (EXECUTE, DATA, DATA)
        assert told.registers.rip == DATA - 5
        assert len(ended.told) == 1 and ended.vector is None
        assert ended.registers.general["rax"] == int.from_bytes(bytes(range(8)), "little")


def test_a_fetch_that_ends_before_a_page() -> None:
    """The page behind an instruction is not its business."""
    with new_world() as world:
        world.start(b"\x90", 0, at=DATA - 3)
        world.restrict(DATA, NONE)

        assert world.run().told == []


# ---- page tables -----------------------------------------------------------------------------------------


def walk(world: World, ring: int, rights: int, entry_bits: int = 0x67) -> Ended:
    """Read what PT1 maps, with `rights` to PT1."""
    world.ram.write(PT1, struct.pack("<Q", MAPPED_BY_PT1 | entry_bits))
    world.ram.write(MAPPED_BY_PT1 + 8, b"\x55" * 4)
    world.start(READ_RDI, ring, rdi=MAPPED_BY_PT1 + 8)
    world.restrict(PT1, rights)
    return world.run()


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("ring", RINGS)
def test_a_page_table_that_may_not_be_read(ring: int) -> None:
    """A processor's walk is told as such. A KVM that emulates ring 0 walks itself, and makes a page fault of it."""
    with new_world() as world:
        ended = walk(world, ring, NONE)

        if world.hardware:
            access = ended.told[0].access
            assert (access.wanted, access.gpa, access.gva, access.page_walk) == (
                READ,
                PT1,
                MAPPED_BY_PT1 + 8,
                True,
            )
            assert ended.vector is None and ended.registers.general["rax"] == 0x55555555
        else:
            assert ended.told == [] and ended.vector == PAGE_FAULT


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("rights", [READ | EXECUTE, READ, READ | WRITE], ids=["r-x", "r--", "rw-"])
def test_a_page_table_that_may_be_read(rights: int, ring: int) -> None:
    """Its bits are set already: the walk is allowed."""
    with new_world() as world:
        ended = walk(world, ring, rights)

        assert ended.told == []
        if world.hardware or rights & EXECUTE:
            assert ended.vector is None and ended.registers.general["rax"] == 0x55555555
        else:
            assert ended.vector == PAGE_FAULT


@pytest.mark.parametrize("ring", RINGS)
def test_an_accessed_bit_that_may_not_be_set(ring: int) -> None:
    with new_world() as world:
        ended = walk(world, ring, READ | EXECUTE, entry_bits=0x07)

        if world.hardware:
            access = ended.told[0].access
            assert (access.wanted, access.gpa, access.page_walk) == (WRITE, PT1, True)
            assert ended.vector is None and ended.registers.general["rax"] == 0x55555555
        else:
            assert ended.told == [] and ended.vector == PAGE_FAULT


# ---- events ----------------------------------------------------------------------------------------------

# What delivery needs, in ring 0 and ring 3: page -> (wanted, first byte)
DELIVERY = {
    "IDT": (IDT, READ, IDT + 16 * INVALID_OPCODE),
    "GDT": (GDT, READ, GDT + 8),
    "stack": (STACK - PAGE, WRITE, STACK - 40),
}


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("what", DELIVERY)
def test_delivery_of_an_exception(what: str, ring: int) -> None:
    page, wanted, gpa = DELIVERY[what]
    with new_world() as world:
        world.start(UD2, ring)
        before = Registers.of(world)
        world.restrict(page, NONE)

        ended = world.run()

        told = ended.told[0]
        assert (told.access.wanted, told.access.gpa) == (wanted, gpa)
        assert told.registers == before
        assert len(ended.told) == 1 and ended.vector == INVALID_OPCODE


@pytest.mark.tlfs("VSM-080")
def test_the_task_state_is_needed_from_ring_3_alone() -> None:
    for ring in RINGS:
        with new_world() as world:
            world.start(UD2, ring)
            world.restrict(TSS, NONE)

            ended = world.run()

            assert [told.access.gpa for told in ended.told] == ([TSS + 4] if ring else [])
            assert ended.vector == INVALID_OPCODE


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("what", [*DELIVERY, "TSS"])
def test_delivery_through_pages_that_cannot_be_executed(what: str, ring: int) -> None:
    page = TSS if what == "TSS" else DELIVERY[what][0]
    with new_world() as world:
        world.start(UD2, ring)
        world.restrict(page, READ | WRITE)

        ended = world.run()

        assert ended.told == [] and ended.vector == INVALID_OPCODE
        # RIP and CS on the handler's stack
        assert world.ram.read(STACK - 40, 16) == struct.pack(
            "<QQ", 0x18000 if ring else 0x10000, 0x23 if ring else 8
        )


def interrupted(world: World, ring: int) -> None:
    """A vCPU that waits for VECTOR, which is on its way."""
    world.start(b"\x90\xeb\xfd", ring, rflags=0x3202)
    lapic = world.vcpu.get_lapic()
    lapic.regs[0xF1] |= 1  # SPIV: software enabled
    world.vcpu.set_lapic(lapic)
    world.vm.signal_msi(0xFEE00000, VECTOR)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("rights", [NONE, READ | WRITE], ids=["---", "rw-"])
@pytest.mark.parametrize("what", DELIVERY)
def test_delivery_of_an_interrupt(what: str, rights: int, ring: int) -> None:
    """It is not lost."""
    page, wanted, gpa = DELIVERY[what]
    if what == "IDT":
        gpa = IDT + 16 * VECTOR
    with new_world(irqchip=True) as world:
        interrupted(world, ring)
        world.restrict(page, rights)

        ended = world.run()

        expected = [(wanted, gpa)] if rights == NONE else []
        assert [(told.access.wanted, told.access.gpa) for told in ended.told] == expected
        assert ended.vector == VECTOR


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("ring", RINGS)
def test_an_exception_in_a_step(ring: int) -> None:
    """DIV by a zero in a page that can be read: the handler runs with the page out again."""
    with new_world() as world:
        world.ram.write(DATA, bytes(8))
        world.start(b"\xf0\x48\x0f\xb1\x0f" + b"\xf7\x37", ring, rdi=DATA, rdx=0, rax=1, rcx=7)
        world.restrict(DATA, READ | WRITE)

        ended = world.run()

        assert ended.told == [] and ended.vector == 0
        assert world.view.lacks(DATA // PAGE, READ)


@pytest.mark.parametrize("ring", RINGS)
def test_a_step_of_a_guest_that_steps_itself(ring: int) -> None:
    """RFLAGS.TF of its own: the #DB comes behind the instruction, once."""
    with new_world() as world:
        world.start(b"\x90", ring, rdi=DATA)
        plain = world.vcpu.get_regs().rip
        world.start(b"\xf0\x48\x01\x07", ring, rdi=DATA, rax=1, rflags=0x3102)
        world.restrict(DATA, READ | WRITE)

        ended = world.run()

        assert ended.vector == 1
        assert struct.unpack("<Q", world.ram.read(STACK - 40, 8))[0] == plain + 4


IRETQ = b"\x48\xcf"
FRAMES = {"stack": STACK - PAGE, "GDT": GDT}


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("target", RINGS)
@pytest.mark.parametrize("rights", [NONE, READ | WRITE], ids=["---", "rw-"])
@pytest.mark.parametrize("what", FRAMES)
def test_an_interrupt_return(what: str, rights: int, target: int) -> None:
    """Its frame and descriptors are read. A KVM that emulates ring 0 and cannot read one makes a #GP of that."""
    selectors = {0: (0x08, 0x10), 3: (0x23, 0x1B)}[target]
    with new_world() as world:
        world.ram.write(DATA, END)
        world.start(IRETQ, 0, rsp=STACK - 64)
        frame = (DATA, selectors[0], 0x3002, STACK - 256, selectors[1])
        world.ram.write(STACK - 64, struct.pack("<5Q", *frame))
        world.restrict(FRAMES[what], rights)

        ended = world.run()

        assert ended.vector is None and ended.registers.rsp == STACK - 256
        kinds = {(told.access.wanted, told.access.gpa & -PAGE) for told in ended.told}
        assert kinds == ({(READ, FRAMES[what])} if rights == NONE else set())
