# SPDX-License-Identifier: Apache-2.0
"""HvRegisterDeliverabilityNotifications: a higher VTL hears of what a lower one can take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.vsm.world import World
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.actions import NotifyDeliverable

NOTIFY = Name.HvRegisterDeliverabilityNotifications


def in_vtl1(**offer: Any) -> World:
    """VTL1 of VP 0 runs."""
    world = World(**offer).enable(1)
    world.enter(0, 1)
    return world


def test_notifications_are_unknown_where_nothing_fulfils_them() -> None:
    caller = in_vtl1().caller()

    assert caller.set((NOTIFY, 1), vtl=0) == HvStatus.INVALID_PARAMETER
    assert caller.get(NOTIFY, vtl=0) == HvStatus.INVALID_PARAMETER


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
