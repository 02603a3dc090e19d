# SPDX-License-Identifier: Apache-2.0
"""HvCallStartVirtualProcessor, INIT and SIPI, and DenyLowerVtlStartup over all of them."""

from __future__ import annotations

import pytest

from tests.pure.vsm.world import SETTLED_CONTEXT, World
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN
from vmm.vsm.actions import Run, SwitchReason, SwitchVtl, WaitForStartup

DENY = 0x7E  # DenyLowerVtlStartup, ZeroMemoryOnReset, default mask RWX


def denying() -> World:
    """VTL1 on VP 0 alone; it denies startup."""
    world = World().enable(1)
    world.enter(0, 1)
    assert world.caller().set((Name.HvRegisterVsmPartitionConfig, DENY)) == HvStatus.SUCCESS
    world.leave(0)
    return world


@pytest.mark.tlfs("VP-001", "VP-002")
def test_a_vp_starts_with_the_context_given() -> None:
    world = World()
    vp = world.partition.vps[1]
    assert vp.next_step(0, 0) == WaitForStartup(1)

    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    assert vp.next_step(0, 0) == Run(1, 0)
    assert world.services.contexts[1, 0] == SETTLED_CONTEXT
    assert world.services.woken == [1]


@pytest.mark.tlfs("VP-003")
def test_a_vp_that_runs_is_not_started_again() -> None:
    world = World()
    world.caller().start_vp(1, 0)

    assert world.caller().start_vp(1, 0) == HvStatus.INVALID_VP_STATE


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize(
    ("vp", "vtl", "status"),
    [
        (0, 0, HvStatus.INVALID_VP_INDEX),  # the caller
        (2, 0, HvStatus.INVALID_VP_INDEX),
        (1, 1, HvStatus.ACCESS_DENIED),  # above the caller
    ],
)
def test_start_mistakes(vp: int, vtl: int, status: HvStatus) -> None:
    world = World().enable(1)

    assert world.caller().start_vp(vp, vtl) == status
    assert not world.partition.vps[1].started


@pytest.mark.tlfs("VP-003")
def test_a_vtl_that_the_vp_does_not_have_is_not_started() -> None:
    world = World().enable(1)
    world.enter(0, 1)

    assert world.caller().start_vp(1, 1) == HvStatus.INVALID_VTL_STATE


@pytest.mark.tlfs("VP-004")
def test_the_highest_vtl_runs_first_and_returns_into_the_one_that_was_started() -> None:
    world = World(maximum_vtl=2).enable(1, 2, vps=(0, 1))
    vp = world.partition.vps[1]

    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    assert vp.next_step(0, 0) == Run(1, 2)
    assert world.caller(1).vtl_return() == SwitchVtl(1, 2, 1, SwitchReason.RETURN)
    assert world.caller(1).vtl_return() == SwitchVtl(1, 1, 0, SwitchReason.RETURN)
    assert vp.next_step(0, 0) == Run(1, 0)


@pytest.mark.tlfs("VP-002")
def test_a_higher_vtl_can_be_started_before_vtl0() -> None:
    world = World().enable(1, vps=(0, 1))
    world.enter(0, 1)
    vp = world.partition.vps[1]

    assert world.caller().start_vp(1, 1) == HvStatus.SUCCESS
    assert vp.next_step(0, 0) == Run(1, 1)
    world.caller(1).vtl_return()
    assert vp.next_step(0, 0) == WaitForStartup(1)  # VTL0
    assert vp.next_step(0b10, 0) == SwitchVtl(1, 0, 1, SwitchReason.INTERRUPT)  # VTL1 lives on
    assert world.caller().start_vp(1, 1) == HvStatus.INVALID_VP_STATE
    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    assert vp.next_step(0, 0) == Run(1, 1)  # still in its handler
    world.caller(1).vtl_return()
    assert vp.next_step(0, 0) == Run(1, 0)


@pytest.mark.tlfs("VP-002", "VSM-129")
def test_the_end_of_s3_leaves_vtl0_to_be_started_again() -> None:
    """INIT and SIPI are dropped there: without the hypercall nobody could start it. VTL1 is as it was."""
    world = World().enable(1, vps=(0, 1))
    world.caller().start_vp(1, 0)
    vp = world.partition.vps[1]
    world.caller(1).vtl_return()
    assert vp.next_step(0, 0) == Run(1, 0)

    world.partition.wake()

    assert vp.next_step(0, 0) == WaitForStartup(1)
    assert not world.partition.accepts_startup_signal(1, 0)
    assert vp.next_step(0b10, 0) == SwitchVtl(1, 0, 1, SwitchReason.INTERRUPT)
    world.caller(1).vtl_return()
    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    assert vp.next_step(0, 0) == Run(1, 0)
    assert world.partition.vps[0].next_step(0, 0) == Run(0, 0)


def test_the_end_of_s3_in_vtl1() -> None:
    """It goes on there, and returns to a VTL0 that waits."""
    world = World().enable(1, vps=(0, 1))
    world.caller().start_vp(1, 0)
    vp = world.partition.vps[1]

    world.partition.wake()

    assert vp.next_step(0, 0) == Run(1, 1)
    world.caller(1).vtl_return()
    assert vp.next_step(0, 0) == WaitForStartup(1)


@pytest.mark.tlfs("VP-002")
def test_the_end_of_s3_of_a_vp_with_vtl0_alone() -> None:
    world = World()
    world.caller().start_vp(1, 0)

    world.partition.wake()

    assert world.partition.vps[1].next_step(0, 0) == WaitForStartup(1)
    assert world.partition.accepts_startup_signal(1, 0)
    world.partition.signalled(1, waits=False)
    assert world.partition.vps[1].next_step(0, 0) == Run(1, 0)


def test_a_backend_that_needs_time_starts_nothing_yet() -> None:
    world = World()
    world.services.answer = AGAIN

    assert world.caller().start_vp(1, 0) == -1
    assert world.partition.vps[1].next_step(0, 0) == WaitForStartup(1)


@pytest.mark.tlfs("VSM-011")
def test_denied_startup_reaches_every_vp_and_every_way() -> None:
    """VP 1 does not have VTL1: INIT and SIPI would reach it otherwise."""
    world = denying()
    partition = world.partition

    assert world.caller().start_vp(1, 0) == HvStatus.ACCESS_DENIED
    assert not partition.accepts_startup_signal(1, 0)
    assert not partition.vps[1].started


@pytest.mark.tlfs("VSM-011")
def test_the_vtl_that_denies_starts_itself() -> None:
    world = denying()
    world.enter(0, 1)

    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-011")
def test_a_denial_can_be_taken_back() -> None:
    world = denying()
    world.enter(0, 1)
    world.services.woken.clear()
    world.caller().set((Name.HvRegisterVsmPartitionConfig, DENY & ~0x40))
    world.leave(0)

    assert world.partition.accepts_startup_signal(1, 0)
    assert world.services.woken == [0, 1]  # to hear again
    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS


def test_init_and_sipi_start_vtl0_of_a_vp() -> None:
    partition = World().partition
    vp = partition.vps[1]
    assert partition.accepts_startup_signal(1, 0)

    partition.signalled(1, waits=True)
    assert vp.next_step(0, 0) == WaitForStartup(1)
    partition.signalled(1, waits=False)
    assert vp.next_step(0, 0) == Run(1, 0)
    partition.signalled(1, waits=False)
    assert vp.next_step(0, 0) == Run(1, 0)
    partition.signalled(1, waits=True)
    assert vp.next_step(0, 0) == WaitForStartup(1)


def test_init_never_leaves_the_boot_vp_waiting() -> None:
    """It begins anew by itself."""
    partition = World().partition

    partition.signalled(0, waits=True)

    assert partition.vps[0].next_step(0, 0) == Run(0, 0)


@pytest.mark.tlfs("VSM-129", "IMP-006")
def test_init_and_sipi_to_a_vp_with_a_higher_vtl_are_dropped() -> None:
    partition = World(vps=3).enable(1, vps=(0, 1)).partition

    assert [partition.accepts_startup_signal(vp, 0) for vp in range(3)] == [False, False, True]


@pytest.mark.tlfs("VP-002", "VSM-129")
@pytest.mark.parametrize("vp", [0, 1])
def test_init_and_sipi_do_not_reach_higher_vtls(vp: int) -> None:
    """Nor one that VP 1 does not have yet: its local APIC is made before the VTL is enabled."""
    assert not World().enable(1).partition.accepts_startup_signal(vp, 1)
