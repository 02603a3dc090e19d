# SPDX-License-Identifier: Apache-2.0
"""HvRegisterVsmVpSecureConfigVtlN and HvRegisterVsmVpWaitForTlbLock."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.vsm.world import World
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.actions import Run, SwitchVtl, WaitForTlbLock

VTL0 = Name.HvRegisterVsmVpSecureConfigVtl0
VTL1 = Name.HvRegisterVsmVpSecureConfigVtl1
WAIT = Name.HvRegisterVsmVpWaitForTlbLock
MBEC, LOCKED = 1, 2


def two_vps(maximum_vtl: int = 1, **offer: Any) -> World:
    """VPs 0 and 1 with all VTLs; VP 0 runs the highest, VP 1 runs VTL0."""
    world = World(maximum_vtl=maximum_vtl, **offer)
    world.enable(*range(1, maximum_vtl + 1), vps=(0, 1))
    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    while world.partition.vps[1].active:
        world.leave(1)
    world.enter(0, maximum_vtl)
    world.services.woken.clear()
    return world


@pytest.mark.tlfs("VSM-014")
def test_each_owner_has_a_register_for_each_lower_vtl_on_each_vp() -> None:
    world = two_vps(2)
    places = [(vp, owner, name) for vp in (0, 1) for owner, name in ((1, VTL0), (2, VTL0), (2, VTL1))]

    for set_here in places:
        vp, owner, name = set_here
        assert world.caller().set((name, LOCKED), vp=vp, vtl=owner) == HvStatus.SUCCESS
        locked = [place for place in places if world.caller().read(place[2], vp=place[0], vtl=place[1])]
        assert locked == [set_here]
        assert world.caller().set((name, 0), vp=vp, vtl=owner) == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-140", "VSM-142")
def test_a_lock_on_another_vp_blocks_flushes_there_and_nowhere_else() -> None:
    world = two_vps()
    locks = world.partition.tlb_locks

    assert world.caller().set((VTL0, LOCKED), vp=1, vtl=1) == HvStatus.SUCCESS
    assert world.caller().read(VTL0, vp=1, vtl=1) == LOCKED
    assert locks.blocks(0, 0b10)
    assert locks.blocks(0, 0b11)
    assert not locks.blocks(0, 0b01)
    assert not locks.blocks(1, 0b11)


@pytest.mark.tlfs("VSM-141")
def test_writing_zero_unlocks() -> None:
    world = two_vps()
    world.caller().set((VTL0, LOCKED), vp=1)

    assert world.caller().set((VTL0, 0), vp=1) == HvStatus.SUCCESS
    assert not world.partition.tlb_locks.blocks(0, 0b11)


@pytest.mark.tlfs("VSM-056", "VSM-141")
def test_a_return_unlocks_what_the_vp_holds() -> None:
    world = two_vps()
    world.caller().set((VTL0, LOCKED))
    world.caller().set((VTL0, LOCKED), vp=1)

    world.caller().vtl_return()

    assert not world.partition.tlb_locks.blocks(0, 0b01)
    assert world.partition.tlb_locks.blocks(0, 0b10)  # VP 1's own
    world.enter(0, 1)
    assert world.caller().read(VTL0) == 0


@pytest.mark.tlfs("VP-021")
def test_a_lock_taken_for_a_translation_goes_with_the_return() -> None:
    """TlbFlushInhibit, as OpenVMM has it (VP-025)."""
    world = two_vps()

    world.partition.tlb_locks.take(0, 1, 0)

    assert world.partition.tlb_locks.blocks(0, 0b01)
    assert not world.partition.tlb_locks.blocks(0, 0b10)
    assert world.caller().read(VTL0) == LOCKED
    world.caller().vtl_return()
    assert not world.partition.tlb_locks.blocks(0, 0b11)


@pytest.mark.tlfs("VSM-144")
def test_a_vp_waits_for_a_lock_on_itself_that_another_vp_set() -> None:
    world = two_vps()
    world.caller().set((VTL0, LOCKED), vp=1)

    assert world.partition.tlb_locks.blocks(0, 1 << 1)  # VP 1 flushes its own


@pytest.mark.tlfs("VSM-143")
def test_locks_of_two_owners_are_counted_apart() -> None:
    world = two_vps(2)
    world.caller().set((VTL0, LOCKED), vtl=2)
    world.caller().set((VTL0, LOCKED), vtl=1)

    world.caller().set((VTL0, 0), vtl=2)
    assert world.partition.tlb_locks.blocks(0, 1)
    world.caller().set((VTL0, 0), vtl=1)
    assert not world.partition.tlb_locks.blocks(0, 1)


@pytest.mark.tlfs("VSM-143")
def test_a_return_frees_only_the_returning_vtl_s_locks() -> None:
    world = two_vps(2)
    world.caller().set((VTL0, LOCKED), vtl=1)
    world.caller().set((VTL0, LOCKED), vtl=2)

    world.caller().vtl_return()

    assert world.partition.tlb_locks.blocks(0, 1)


@pytest.mark.tlfs("VSM-015")
@pytest.mark.parametrize(("name", "vtl"), [(VTL0, 0), (VTL1, 0), (VTL1, 1)])
def test_the_owner_must_be_above_the_configured_vtl(name: Name, vtl: int) -> None:
    world = two_vps()

    assert world.caller().set((name, LOCKED), vtl=vtl) == HvStatus.ACCESS_DENIED
    assert world.caller().get(name, vtl=vtl) == HvStatus.ACCESS_DENIED


def test_a_vtl_that_the_vp_does_not_have_cannot_be_configured() -> None:
    world = World(maximum_vtl=2).enable(2)
    world.enter(0, 2)

    assert world.caller().set((VTL1, LOCKED)) == HvStatus.INVALID_VTL_STATE


@pytest.mark.tlfs("VSM-016")
@pytest.mark.parametrize("value", [MBEC, 4, 8, 1 << 63])
def test_bits_that_are_not_offered_are_refused(value: int) -> None:
    world = two_vps()

    assert world.caller().set((VTL0, value)) == HvStatus.INVALID_REGISTER_VALUE


@pytest.mark.tlfs("VSM-003", "VSM-016")
def test_mbec_of_a_vp_shows_in_its_status() -> None:
    world = World(maximum_vtl=2, mbec_vtls=0b110)
    assert world.caller().enable_partition_vtl(1, flags=1) == HvStatus.SUCCESS
    assert world.caller().enable_vp_vtl(0, 1) == HvStatus.SUCCESS
    world.enter(0, 1)
    world.enable(2)
    world.enter(0, 2)

    assert world.caller().set((VTL1, MBEC)) == HvStatus.SUCCESS
    world.leave(0)
    world.enter(0, 1)

    assert world.caller().read(Name.HvRegisterVsmVpStatus) == 0x7_0000 | 1 << 4 | 1


# ---- waiting -------------------------------------------------------------------------------------------


def waiting() -> World:
    """VP 1 holds VTL0's TLB locked; VTL2 of VP 0 has its VTL0 wait for that and returns to it."""
    world = two_vps(2)
    world.caller().set((VTL0, LOCKED), vp=1, vtl=1)
    world.caller().set((VTL0, LOCKED), vp=1, vtl=2)
    assert world.caller().set((WAIT, 1), vtl=0) == HvStatus.SUCCESS
    world.caller().vtl_return()
    return world


@pytest.mark.tlfs("VSM-018", "VSM-145")
def test_a_vtl_waits_for_every_lock_that_was_held() -> None:
    world = waiting()
    vp = world.partition.vps[0]
    assert vp.next_step(0, 0) == WaitForTlbLock(0, 0)

    world.partition.tlb_locks.configure(1, 1, 0, 0)
    assert vp.next_step(0, 0) == WaitForTlbLock(0, 0)
    assert world.services.woken == []
    world.partition.tlb_locks.configure(1, 2, 0, 0)

    assert vp.next_step(0, 0) == Run(0, 0)
    assert world.services.woken == [0]


@pytest.mark.tlfs("VSM-018")
def test_a_waiting_vp_still_enters_higher_vtls() -> None:
    step = waiting().partition.vps[0].next_step(0b10, 0)

    assert isinstance(step, SwitchVtl)
    assert step.target == 1


@pytest.mark.tlfs("VSM-018")
def test_locks_taken_later_are_not_waited_for() -> None:
    world = two_vps(2)
    world.caller().set((WAIT, 1), vtl=0)
    world.caller().set((VTL0, LOCKED), vp=1, vtl=1)
    world.caller().vtl_return()

    assert world.partition.vps[0].next_step(0, 0) == Run(0, 0)


@pytest.mark.tlfs("VSM-018")
def test_the_own_vp_s_locks_are_not_waited_for() -> None:
    world = two_vps(2)
    world.caller().set((VTL0, LOCKED), vtl=1)
    world.caller().set((WAIT, 1), vtl=0)

    assert world.caller().read(WAIT, vtl=0) == 0


@pytest.mark.tlfs("VSM-018")
def test_waiting_can_be_taken_back() -> None:
    world = two_vps(2)
    world.caller().set((VTL0, LOCKED), vp=1, vtl=1)
    world.caller().set((WAIT, 1), vtl=0)
    assert world.caller().read(WAIT, vtl=0) == 1

    assert world.caller().set((WAIT, 0), vtl=0) == HvStatus.SUCCESS
    assert world.caller().read(WAIT, vtl=0) == 0


@pytest.mark.parametrize(
    ("value", "target", "status"),
    [
        (1, {"vtl": 2}, HvStatus.ACCESS_DENIED),  # itself
        (1, {"vtl": 0, "vp": 1}, HvStatus.INVALID_VP_INDEX),  # it cannot hold another VP back
        (2, {"vtl": 0}, HvStatus.INVALID_REGISTER_VALUE),
    ],
)
def test_waiting_mistakes(value: int, target: dict[str, int], status: HvStatus) -> None:
    assert two_vps(2).caller().set((WAIT, value), **target) == status
