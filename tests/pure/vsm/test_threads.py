# SPDX-License-Identifier: Apache-2.0
"""VPs that act at the same time: what only one may do, one does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.pure.vsm.protected import Told
from tests.pure.vsm.test_memory import PAGE, Ram
from tests.pure.vsm.world import CONTEXT, World
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hypercall.outside import AccessInterceptedError
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.memory import VtlMemory
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.vtl import TLB_LOCKED

ROUNDS = 30
THREADS = 4


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(work: Callable[[int], int]) -> list[int]:
    """Each thread's result of `work(its number)`, begun together."""
    results = [-2] * THREADS
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> None:
        barrier.wait(10)
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_one_of_many_enables_a_vtl() -> None:
    for _ in range(ROUNDS):
        world = World(vps=THREADS + 1).enable(1, vps=tuple(range(THREADS)))

        results = at_once(lambda vp: world.partition.enable_vp_vtl(vp, 1, THREADS, 1, CONTEXT))  # noqa: B023  # ends here

        assert sorted(results) == [HvStatus.SUCCESS] + [HvStatus.VTL_ALREADY_ENABLED] * (THREADS - 1)


def test_one_of_many_enables_a_vtl_for_the_partition() -> None:
    for _ in range(ROUNDS):
        partition = World().partition

        results = at_once(lambda _: int(partition.enable_partition_vtl(0, 1, 0)))  # noqa: B023  # ends here

        assert sorted(results) == [HvStatus.SUCCESS] + [HvStatus.INVALID_VTL_STATE] * (THREADS - 1)


def test_locks_that_come_and_go_leave_none_behind() -> None:
    """Each VP locks and frees the TLB of each, and returns in between: afterwards registers and locks agree."""
    world = World(vps=THREADS).enable(1, vps=tuple(range(THREADS)))
    locks = world.partition.tlb_locks

    def work(own: int) -> int:
        for step in range(ROUNDS * 5):
            vp = (own + step) % THREADS
            locks.configure(vp, 1, 0, TLB_LOCKED if step % 3 else 0)
            locks.release(own, 1)
            locks.wait(own, 0, bool(step % 2))
        return 0

    at_once(work)

    for vp in world.partition.vps:
        held = bool(vp.vtls[1].secure_config.get(0, 0) & TLB_LOCKED)
        assert locks.blocks(0, 1 << vp.index) is held
        locks.release(vp.index, 1)
    assert not locks.blocks(0, (1 << THREADS) - 1)
    assert all(not vp.vtls[0].waits_for for vp in world.partition.vps)


@pytest.mark.tlfs("VSM-081", "VSM-083")
def test_a_page_that_was_taken_is_changed_and_seen_by_nobody_any_more() -> None:
    """The owner takes a page, keeps a secret in it for a while, wipes it and gives it back; others use it meanwhile."""
    page, secret, size = 5, b"\xaa" * 64, 64
    ram = Ram()
    rights = MemoryProtections(ram.ranges(), Told())
    done = threading.Event()

    def use(number: int) -> int:
        memory, refused = VtlMemory(ram, rights, 0), 0
        while not done.is_set():
            try:
                memory.write(page * PAGE, bytes((number,)) * size)
                assert secret not in memory.read(page * PAGE, size)
            except AccessInterceptedError:
                refused += 1
        return refused

    def own() -> int:
        for _ in range(20 * ROUNDS):
            assert rights.modify(1, 0, 0, [page]) == (HvStatus.SUCCESS, 1)
            ram.write(page * PAGE, secret)
            for _ in range(20):
                assert ram.read(page * PAGE, size) == secret
            ram.write(page * PAGE, bytes(size))
            assert rights.modify(1, 0, 0xF, [page]) == (HvStatus.SUCCESS, 1)
        done.set()
        return 0

    def work(number: int) -> int:
        try:
            return use(number) if number else own()
        finally:
            done.set()

    results = at_once(work)

    assert results[0] == 0 and -2 not in results


@pytest.mark.tlfs("VSM-011")
def test_who_looks_for_a_denied_start_is_not_disturbed_by_a_config_that_comes() -> None:
    """A VP on its way into the guest looks, while another one sets the first config of a VTL."""
    world = World(maximum_vtl=2).enable(1, 2)
    world.enter(0, 2)
    caller, config = world.caller(), HvRegisterName.HvRegisterVsmPartitionConfig
    caller.set((config, CONFIG_AT_RESET), vtl=1)
    looking = iter(world.partition.configs.items())

    assert caller.set((config, CONFIG_AT_RESET), vtl=2) == HvStatus.SUCCESS

    assert [vtl for vtl, _ in looking] == [1]
    assert set(world.partition.configs) == {1, 2}
