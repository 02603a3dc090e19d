# SPDX-License-Identifier: Apache-2.0
"""Exceptions that a higher VTL injects, and notifications of what a lower VTL can take."""

from __future__ import annotations

import pytest

from tests.pure.vsm.world import World
from vmm.hv.register_bits import HV_X64_PENDING_EXCEPTION_EVENT
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.actions import InjectException, NotifyDeliverable, Run, SwitchReason, SwitchVtl
from vmm.vsm.events import combined

Event = HV_X64_PENDING_EXCEPTION_EVENT
EVENT = Name.HvRegisterPendingEvent0
NOTIFY = Name.HvRegisterDeliverabilityNotifications
DE, DB, DF, GP, PF, MC = 0, 1, 8, 13, 14, 18
WITH_CODE = {DF, 10, 11, 12, GP, PF, 17, 21}


def event(vector: int, error_code: int = 0, parameter: int = 0) -> int:
    """A pending exception."""
    return Event.make(
        EventPending=1,
        DeliverErrorCode=vector in WITH_CODE,
        Vector=vector,
        ErrorCode=error_code,
        ExceptionParameter=parameter,
    )


def in_vtl1(**offer: object) -> World:
    """VTL1 of VP 0 runs."""
    world = World(**offer).enable(1)  # type: ignore[arg-type]  # any setting
    world.enter(0, 1)
    return world


@pytest.mark.tlfs("REG-013")
def test_an_exception_is_delivered_when_the_lower_vtl_runs_next() -> None:
    world = in_vtl1()
    vp = world.partition.vps[0]

    assert world.caller().set((EVENT, event(PF, 6, 0xDEAD_B000)), vtl=0) == HvStatus.SUCCESS
    assert world.caller().read(EVENT, vtl=0) == event(PF, 6, 0xDEAD_B000)
    assert vp.next_step(0, 0) == Run(0, 1)
    world.leave(0)
    assert vp.next_step(0, 0) == InjectException(0, 0, PF, 6, 0xDEAD_B000)
    assert vp.next_step(0, 0) == Run(0, 0)


@pytest.mark.tlfs("REG-013")
def test_an_entry_comes_before_an_exception_of_the_lower_vtl() -> None:
    world = in_vtl1()
    world.caller().set((EVENT, event(GP)), vtl=0)
    world.leave(0)

    assert world.partition.vps[0].next_step(0b10, 0) == SwitchVtl(0, 0, 1, SwitchReason.INTERRUPT)


def test_an_exception_on_another_vp_wakes_it() -> None:
    world = World().enable(1, vps=(0, 1))
    world.caller().start_vp(1, 0)
    world.leave(1)
    world.enter(0, 1)
    world.services.woken.clear()

    world.caller().set((EVENT, event(GP)), vp=1, vtl=0)

    assert world.services.woken == [1]
    assert world.partition.vps[1].next_step(0, 0) == InjectException(1, 0, GP, 0, 0)


def test_an_exception_can_be_taken_back() -> None:
    world = in_vtl1()
    world.caller().set((EVENT, event(GP)), vtl=0)

    world.caller().set((EVENT, 0), vtl=0)
    world.leave(0)

    assert world.partition.vps[0].next_step(0, 0) == Run(0, 0)


@pytest.mark.tlfs("REG-013")
@pytest.mark.parametrize(
    "value",
    [
        event(2),  # NMI
        event(9),
        event(15),
        event(20),  # #VE is one vendor's
        event(32),
        event(GP) & ~(1 << 8),  # without the error code it has
        event(DB) | 1 << 8,  # with one that it does not have
        event(GP, 0x1_0000),  # error codes have 16 bits
        event(GP) | 1 << 1,  # another type
    ],
)
def test_what_no_processor_can_take_is_refused(value: int) -> None:
    world = in_vtl1()

    assert world.caller().set((EVENT, value), vtl=0) == HvStatus.INVALID_REGISTER_VALUE
    assert world.caller().read(EVENT, vtl=0) == 0


@pytest.mark.tlfs("REG-013")
@pytest.mark.parametrize(
    ("first", "second", "vector"),
    [
        (GP, GP, DF),
        (DE, GP, DF),
        (PF, PF, DF),
        (PF, GP, DF),
        (GP, PF, PF),  # SDM: handled one after the other
        (DB, GP, GP),
        (GP, DB, DB),
        (MC, PF, PF),
        (DF, DB, DB),
    ],
)
def test_two_exceptions_become_what_a_processor_makes_of_them(first: int, second: int, vector: int) -> None:
    world = in_vtl1()
    world.caller().set((EVENT, event(first)), vtl=0)

    world.caller().set((EVENT, event(second)), vtl=0)

    assert Event(world.caller().read(EVENT, vtl=0)).Vector == vector


def test_a_third_fault_is_refused_instead_of_shutting_down() -> None:
    world = in_vtl1()
    world.caller().set((EVENT, event(DF)), vtl=0)

    assert world.caller().set((EVENT, event(GP)), vtl=0) == HvStatus.INVALID_VP_STATE
    assert combined(event(DF), event(PF)) is None


@pytest.mark.parametrize("vtl", [None, 1])
def test_a_vtl_cannot_inject_into_itself(vtl: int | None) -> None:
    assert in_vtl1().caller().set((EVENT, event(GP)), vtl=vtl) == HvStatus.ACCESS_DENIED


def test_vtl0_cannot_inject_into_another_vp() -> None:
    caller = World().caller()

    assert caller.set((EVENT, event(GP)), vp=1) == HvStatus.ACCESS_DENIED


# ---- deliverability ------------------------------------------------------------------------------------


@pytest.mark.tlfs("OHCL-009")
def test_notifications_are_unknown_where_nothing_fulfils_them() -> None:
    caller = in_vtl1().caller()

    assert caller.set((NOTIFY, 1), vtl=0) == HvStatus.INVALID_PARAMETER
    assert caller.get(NOTIFY, vtl=0) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("OHCL-009")
def test_each_notification_is_given_once() -> None:
    world = in_vtl1(deliverability=True)
    vp = world.partition.vps[0]
    world.caller().set((NOTIFY, 0b11 | 1 << 49), vtl=0)  # NMI, interrupt, SINT 1

    assert vp.deliverable(0, nmi=False, priority=None, sints=0) is None
    assert vp.deliverable(0, nmi=True, priority=None, sints=0b11) == NotifyDeliverable(
        0, 1, 0, True, False, 0b10
    )
    assert world.caller().read(NOTIFY, vtl=0) == 0b10
    assert vp.deliverable(0, nmi=True, priority=0, sints=0b11) == NotifyDeliverable(0, 1, 0, False, True, 0)
    assert vp.deliverable(0, nmi=True, priority=0, sints=0b11) is None


@pytest.mark.tlfs("OHCL-009")
@pytest.mark.parametrize(
    ("wanted", "priority", "due"), [(0, 15, True), (3, 2, True), (3, 3, False), (3, 4, False)]
)
def test_an_interrupt_is_announced_when_its_priority_can_be_taken(
    wanted: int, priority: int, due: bool
) -> None:
    world = in_vtl1(deliverability=True)
    world.caller().set((NOTIFY, 0b10 | wanted << 2), vtl=0)

    notify = world.partition.vps[0].deliverable(0, nmi=False, priority=priority, sints=0)

    assert (notify is not None) is due


def test_a_vtl_is_not_notified_of_itself() -> None:
    assert in_vtl1(deliverability=True).caller().set((NOTIFY, 1)) == HvStatus.ACCESS_DENIED
