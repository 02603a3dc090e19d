# SPDX-License-Identifier: Apache-2.0
"""Writes of instructions that emulated ring 0 has carried out but for them, and that cannot be made again."""

from __future__ import annotations

import struct

import pytest

from tests.host.protection.world import CODE, DATA, PAGE, VTL0, VTL1, World, new_world
from vmm.backend.vp import BEFORE_ENTRY
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import ALL, EXECUTE, READ, WRITE

pytestmark = pytest.mark.host

OLD = int.from_bytes(bytes(range(8)), "little")
XADD = b"\x48\x0f\xc1\x3f"  # xadd [rdi], rdi
CMPXCHG = b"\x0f\xb1\x08"  # cmpxchg [rax], ecx


@pytest.mark.tlfs("VSM-080")
def test_the_address_of_an_xadd_is_found_though_it_is_overwritten() -> None:
    with new_world() as world:
        world.start(XADD, 0, rdi=DATA)
        world.restrict(DATA, READ | EXECUTE)

        ended = world.run()

        told = [(each.access.wanted, each.access.gpa, each.registers.rip) for each in ended.told]
        assert told == [(WRITE, DATA, CODE)]
        assert ended.told[0].registers.general["rdi"] == DATA
        assert ended.registers.general["rdi"] == OLD
        assert struct.unpack("<Q", world.ram.read(DATA, 8)) == (OLD + DATA,)


class Lasting(World):
    """Its VTL1 gives the page back when it is asked the third time, or writes RIP."""

    def __init__(self, world: World, *, rip: int | None = None) -> None:
        self.world, self.rip = world, rip

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        assert (vtl, owner) == (VTL0, VTL1)
        told = self.world.told
        World.memory(self.world, vp, vtl, owner, access)
        if self.rip is not None:
            regs = self.world.vcpu.get_regs()
            regs.rip = self.rip
            self.world.vcpu.set_regs(regs)
            self.world.vcpu.run.regs.rip = self.rip
        if len(told) < 3:
            self.world.restrict(access.gpa & -PAGE, READ | EXECUTE)


def with_owner(world: World, owner: Lasting) -> None:
    world.faults._intercepts = owner


@pytest.mark.tlfs("VSM-080")
def test_a_write_whose_instruction_is_not_found_is_made_when_it_may_be() -> None:
    """CMPXCHG that does not match has put what it found into RAX, which was its address; it writes what was there."""
    with new_world() as world:
        world.start(CMPXCHG, 0, rax=DATA, rcx=5)
        world.restrict(DATA, READ | EXECUTE)
        with_owner(world, Lasting(world))

        ended = world.run()

        if world.hardware:
            assert world.faults.inexact == 0
            return
        assert world.faults.inexact == 1
        told = [(each.access.wanted, each.access.gpa, each.access.instruction) for each in ended.told]
        assert told == [(WRITE, DATA, b"")] * 3
        assert [each.registers.rip for each in ended.told] == [CODE + len(CMPXCHG)] * 3
        assert world.ram.read(DATA, 8) == bytes(range(8))
        assert BEFORE_ENTRY not in world.processor.handlers


@pytest.mark.tlfs("VSM-080")
def test_it_is_forgotten_where_the_higher_vtl_sends_the_guest_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_world() as world:
        world.start(CMPXCHG + b"\x90", 0, rax=DATA, rcx=5)
        world.restrict(DATA, READ | EXECUTE)
        with_owner(world, Lasting(world, rip=CODE + len(CMPXCHG) + 1))
        written = world.rightful.write
        writes: list[int] = []

        def write(gpa: int, data: bytes) -> None:
            writes.append(gpa)
            written(gpa, data)

        monkeypatch.setattr(world.rightful, "write", write)

        ended = world.run()

        assert len(ended.told) == 1
        assert ended.registers.rip > CODE + len(CMPXCHG)
        if world.hardware:
            assert world.faults.inexact == 0
            assert writes == []
        else:
            # The page was asked for once, by KVM's exit, and nothing was written when it was allowed.
            assert writes == [DATA] and world.rights[DATA // PAGE] != ALL
