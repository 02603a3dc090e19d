# SPDX-License-Identifier: Apache-2.0
"""A reset leaves a partition as it was at power-on."""

from __future__ import annotations

import pytest

from tests.pure.vsm.world import World
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.actions import Run, WaitForStartup
from vmm.vsm.partition import ResetPlan

CONFIG = Name.HvRegisterVsmPartitionConfig


def busy() -> World:
    """Everything that can be set is set."""
    world = World(maximum_vtl=2).enable(1, 2, vps=(0, 1))
    world.caller().start_vp(1, 0)
    world.enter(0, 2)
    caller = world.caller()
    for vtl in (1, 2):
        assert caller.set((CONFIG, 0x5F), vtl=vtl) == HvStatus.SUCCESS
        assert caller.set((Name.HvRegisterVsmVina, 0x130), vtl=vtl) == HvStatus.SUCCESS
    for register, value, vp in (
        (Name.HvRegisterVsmVpSecureConfigVtl0, 2, 1),
        (Name.GuestVsmPartitionConfig, 0, 0),
    ):
        assert caller.set((register, value), vp=vp) == HvStatus.SUCCESS
    assert caller.set((Name.HvRegisterVsmVpWaitForTlbLock, 1), vtl=0) == HvStatus.SUCCESS
    return world


@pytest.mark.tlfs("VSM-021", "VSM-039")
def test_only_vtl0_of_the_boot_vp_runs_after_a_reset() -> None:
    world = busy()

    plan = world.partition.reset()

    assert plan.dropped == ((0, 1), (0, 2), (1, 1), (1, 2))
    caller = world.caller()
    assert caller.vtl == 0
    assert caller.read(Name.HvRegisterVsmPartitionStatus) == 0x2_0001
    assert caller.read(Name.HvRegisterVsmVpStatus) == 0x1_0000
    assert world.partition.vps[0].next_step(0b111, 0) == Run(0, 0)  # no lock to wait for
    assert world.partition.vps[1].next_step(0b111, 0) == WaitForStartup(1)
    assert not world.partition.tlb_locks.blocks(0, 0b11)
    assert world.partition.vp_mask(1) == 0


@pytest.mark.tlfs("VSM-039")
def test_a_guest_can_do_all_of_it_again() -> None:
    world = busy()
    world.partition.reset()
    assert not world.partition.start_denied(1, 0)

    world.enable(1, vps=(0, 1))

    world.enter(0, 1)
    assert world.caller().read(CONFIG) == 0x3E  # as at first: protection off, mask RWX, zero memory
    assert world.caller().read(Name.HvRegisterVsmVina) == 0
    assert world.caller().read(Name.HvRegisterVsmVpSecureConfigVtl0, vp=1) == 0


@pytest.mark.tlfs("VSM-010")
@pytest.mark.parametrize(
    ("setting", "zero"),
    [(None, True), (0x3E, True), (0x1E, False)],  # ZeroMemoryOnReset is bit 5
)
def test_memory_is_zeroed_unless_the_higher_vtl_keeps_it(setting: int | None, zero: bool) -> None:
    world = World().enable(1)
    world.enter(0, 1)
    if setting is not None:
        world.caller().set((CONFIG, setting))

    assert world.partition.reset().zero_memory is zero


def test_a_guest_without_vsm_keeps_its_memory() -> None:
    assert World().partition.reset() == ResetPlan((), False)
