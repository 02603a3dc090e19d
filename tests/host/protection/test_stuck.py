# SPDX-License-Identifier: Apache-2.0
"""Accesses at which a KVM without VT-x and SVM stays inside KVM_RUN: they are refused, or made, at the next kick."""

from __future__ import annotations

import contextlib
import signal
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.host.protection.world import DATA, GDT, KICK, PAGE, RING_SELECTORS, Registers, World, new_world
from vmm.vsm.rights import EXECUTE, NONE, READ, WRITE

pytestmark = pytest.mark.host

KICK_SECONDS = 0.02
AT = DATA + 0x40

TABLES = {
    "sgdt": ("0f0107", WRITE),
    "sidt": ("0f010f", WRITE),
    "lgdt": ("0f0117", READ),
    "lidt": ("0f011f", READ),
}
RINGS = {"sgdt": (0, 3), "sidt": (0, 3), "lgdt": (0,), "lidt": (0,)}
TABLE_CASES = [(name, ring) for name in TABLES for ring in RINGS[name]]
LOADS = {"mov ds": "8ed8", "mov es": "8ec0", "mov ss": "8ed0", "mov fs": "8ee0", "pop gs": "0fa9"}


@contextlib.contextmanager
def kicked(world: World) -> Iterator[None]:
    """What `StuckWatch` does, again and again."""
    ended, thread = threading.Event(), threading.get_ident()

    def kick() -> None:
        while not ended.wait(KICK_SECONDS):
            world.faults.look()
            world.vcpu.run.immediate_exit = True
            signal.pthread_kill(thread, KICK)

    kicker = threading.Thread(target=kick)
    kicker.start()
    try:
        yield
    finally:
        ended.set()
        kicker.join()


def put(world: World, name: str) -> bytes:
    """What a load loads is in place: a limit that is not the one before. What memory and register have at the end."""
    limit, base = register(world, name)
    limit -= 8 * name.startswith("l")
    limit_and_base = struct.pack("<HQ", limit, base)
    world.ram.write(AT, limit_and_base if name.startswith("l") else b"\xcc" * 10)
    return limit_and_base


def register(world: World, name: str) -> tuple[int, int]:
    sregs = world.vcpu.get_sregs()
    table = sregs.gdt if name.endswith("gdt") else sregs.idt
    return int(table.limit), int(table.base)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(("name", "ring"), TABLE_CASES)
def test_a_table_register_is_told_of_and_granted(name: str, ring: int) -> None:
    code, wanted = TABLES[name]
    with new_world() as world:
        world.start(bytes.fromhex(code), ring, rdi=AT)
        expected = put(world, name)
        before = Registers.of(world)
        world.restrict(DATA, NONE)

        with kicked(world):
            ended = world.run()

        told = [(one.access.gpa, one.access.wanted, one.access.instruction.hex()) for one in ended.told]
        assert told == [(AT, wanted, code)]
        assert ended.told[0].registers == before
        assert ended.vector is None
        assert world.ram.read(AT, 10) == expected == struct.pack("<HQ", *register(world, name))


@pytest.mark.parametrize(("name", "ring"), TABLE_CASES)
def test_a_table_register_in_a_page_without_execute(name: str, ring: int) -> None:
    """It may be read and written: nobody is told."""
    with new_world() as world:
        world.start(bytes.fromhex(TABLES[name][0]), ring, rdi=AT)
        expected = put(world, name)
        world.restrict(DATA, READ | WRITE)

        with kicked(world):
            ended = world.run()

        assert (ended.told, ended.vector) == ([], None)
        assert world.ram.read(AT, 10) == expected == struct.pack("<HQ", *register(world, name))


@pytest.mark.parametrize("rights", [NONE, READ, READ | WRITE, READ | EXECUTE])
@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("name", LOADS)
def test_a_segment_register_from_a_protected_table(name: str, ring: int, rights: int) -> None:
    """Its descriptor has been used already, so that the table needs no write."""
    selector = RING_SELECTORS[ring][1]
    with new_world() as world:
        world.start(bytes.fromhex(LOADS[name]), ring, rax=selector, rsp=AT)
        world.ram.write(AT, struct.pack("<Q", selector))
        world.restrict(GDT, rights)

        with kicked(world):
            ended = world.run()

        told = [(one.access.gpa, one.access.wanted) for one in ended.told]
        assert told == ([] if rights & READ else [(GDT + (selector & ~7), READ)])
        assert ended.vector is None
        assert world.vcpu.get_sregs().gdt.base == GDT


def test_a_loop_that_is_kicked_tells_nobody() -> None:
    """A busy VTL whose next instruction may do what it does."""
    loop = "48ffc9 75fb"  # dec rcx; jnz
    with new_world() as world:
        world.start(bytes.fromhex(loop), rcx=1 << 18)
        world.restrict(DATA, NONE, 2)

        with kicked(world):
            ended = world.run()

        assert (ended.told, ended.vector) == ([], None)
        assert ended.registers.general["rcx"] == 0
        assert world.ram.read(DATA, PAGE) == bytes(range(256)) * 16
