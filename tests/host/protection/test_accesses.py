# SPDX-License-Identifier: Apache-2.0
"""Every kind of access, from both rings: refused with nothing of it done, granted and repeated, or allowed."""

from __future__ import annotations

import functools

import pytest

from tests.host.protection.programs import PROGRAMS, Program
from tests.host.protection.world import (
    CODE,
    DATA,
    LIBRARY,
    PAGE,
    USER_CODE,
    Ended,
    Registers,
    World,
    new_world,
)
from vmm.vsm.rights import EXECUTE, NONE, READ, WRITE

pytestmark = pytest.mark.host

RINGS = (0, 3)
INVALID_OPCODE = 6
CASES = [pytest.param(name, ring, id=f"{name}-ring{ring}") for name in PROGRAMS for ring in RINGS]


def prepare(world: World, program: Program, ring: int) -> None:
    world.ram.write(LIBRARY, b"\xe6\xe7")
    world.ram.write(DATA + 0x200, LIBRARY.to_bytes(8, "little"))  # for RET
    if program.code == "ff17":  # call mem
        world.ram.write(DATA + 8, LIBRARY.to_bytes(8, "little"))
    world.start(program.raw, ring, **program.registers)


@functools.cache
def unrestricted(name: str, ring: int) -> tuple[Ended, bytes]:
    """The program without any restriction."""
    with new_world() as world:
        prepare(world, PROGRAMS[name], ring)
        return world.run(), world.memory_image()


def run_with(rights: int, name: str, ring: int, *, grant: bool = True) -> tuple[Ended, bytes, Registers, int]:
    """The program with `rights` to DATA; registers before it, and how many steps it took."""
    with new_world(grant=grant) as world:
        prepare(world, PROGRAMS[name], ring)
        before = Registers.of(world)
        assert world.restrict(DATA, rights) == 0
        ended = world.run()
        assert world.faults.inexact == 0
        return ended, world.memory_image(), before, world.stepper.steps


def same(ended: Ended, image: bytes, name: str, ring: int) -> None:
    expected, expected_image = unrestricted(name, ring)
    assert (ended.vector, ended.registers) == (expected.vector, expected.registers)
    assert image == expected_image


def check_told(ended: Ended, before: Registers, name: str, ring: int) -> None:
    program = PROGRAMS[name]
    first = ended.told[0]
    access = first.access
    assert (access.wanted, access.gpa, access.gva) == (program.wanted, program.gpa, program.gpa)
    assert access.instruction == program.raw[: program.length] and access.length == program.length
    assert not access.page_walk
    assert first.registers.rip == (USER_CODE if ring else CODE)
    if not program.code.startswith("f3"):
        if ring == 0 and program.wanted == WRITE:
            # An emulator has set the flags that the instruction sets when it is repeated.
            first.registers.rflags = before.rflags
        if ring == 0 and name == "leave":
            first.registers.rsp = before.rsp  # likewise, before it reads
        assert first.registers == before


@pytest.mark.parametrize(("name", "ring"), CASES)
def test_it_is_an_instruction(name: str, ring: int) -> None:
    """So that the tests below, which ask little of a #UD, cannot succeed because everything is one."""
    vector = unrestricted(name, ring)[0].vector

    assert vector is None or (PROGRAMS[name].needs_avx and vector == INVALID_OPCODE)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(("name", "ring"), CASES)
def test_refused_then_granted(name: str, ring: int) -> None:
    """VTL1 is told exactly, with all as before; when it gives the page back, the instruction does as it always does."""
    ended, image, before, _ = run_with(NONE, name, ring)

    if unrestricted(name, ring)[0].vector != INVALID_OPCODE:
        check_told(ended, before, name, ring)
        assert len(ended.told) == 1
    same(ended, image, name, ring)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(("name", "ring"), CASES)
def test_refused_for_good(name: str, ring: int) -> None:
    """Nothing in memory has changed, of an element that is not on the page only what came before it."""
    with new_world(grant=False) as world:
        program = PROGRAMS[name]
        prepare(world, program, ring)
        world.restrict(DATA, NONE)
        before = world.ram.read(DATA, PAGE)
        around = world.memory_image()
        ended = world.run()
        assert world.ram.read(DATA, PAGE) == before
        undefined = unrestricted(name, ring)[0].vector == INVALID_OPCODE  # its frame is on the stack
        assert undefined or (ended.vector is None and len(ended.told) == 1)
        if not undefined and not program.code.startswith("f3") and "write across" not in name:
            assert world.memory_image() == around


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("rights", [READ, READ | EXECUTE], ids=["r--", "r-x"])
@pytest.mark.parametrize(("name", "ring"), CASES)
def test_a_page_that_can_only_be_read(name: str, ring: int, rights: int) -> None:
    """Reads go through; writes are refused, told exactly and repeated."""
    program = PROGRAMS[name]
    ended, image, before, _ = run_with(rights, name, ring)

    if program.wanted == READ:
        assert ended.told == []
    elif (
        unrestricted(name, ring)[0].vector != INVALID_OPCODE
    ):  # a processor has #UD first, the VMM may tell first
        check_told(ended, before, name, ring)
    same(ended, image, name, ring)


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize(("name", "ring"), CASES)
def test_a_page_that_can_be_read_and_written(name: str, ring: int) -> None:
    """Nobody is told; what it takes to deny execution cannot be seen."""
    ended, image, _, _ = run_with(READ | WRITE, name, ring)

    assert ended.told == []
    same(ended, image, name, ring)
