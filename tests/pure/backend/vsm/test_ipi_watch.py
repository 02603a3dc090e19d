# SPDX-License-Identifier: Apache-2.0
"""VPs look for IPIs of a higher VTL while, and just after, another VP runs it; otherwise nothing ticks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmm.backend.vsm.ipi_watch import IpiWatch
from vmm.backend.vsm.waits import TICK_NS


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0
        self.deadline: int | None = None
        self.callback: Callable[[], None]

    def now_ns(self) -> int:
        return self.now

    def wall_time_ns(self) -> int:
        return 0

    def timer(self, callback: Callable[[], None]) -> Clock:
        self.callback = callback
        return self

    def arm(self, deadline_ns: int) -> None:
        self.deadline = deadline_ns

    def cancel(self) -> None:
        self.deadline = None

    @property
    def armed(self) -> int | None:
        """For when, if it is."""
        return self.deadline

    def fire(self) -> None:
        assert self.deadline is not None, "nothing is armed"
        self.now, self.deadline = self.deadline, None
        self.callback()


@dataclass
class Vtl:
    vina_enabled: bool


@dataclass
class Vp:
    index: int
    enabled: int
    vtls: dict[int, Vtl]


class Rig:
    def __init__(self, *enabled: int, vina: bool = False) -> None:
        self.clock = Clock()
        self.kicked: list[int] = []
        vps = [
            Vp(index, mask, {vtl: Vtl(vina) for vtl in range(1, mask.bit_length())})
            for index, mask in enumerate(enabled)
        ]
        kicks = [lambda index=index: self.kicked.append(index) for index in range(len(vps))]
        self.watch = IpiWatch(vps, kicks, self.clock)


def test_others_look_every_tick_while_a_vp_runs_a_higher_vtl() -> None:
    rig = Rig(0b11, 0b11, 0b11)

    rig.watch.runs(0, 1)
    assert rig.clock.deadline == TICK_NS
    rig.clock.fire()
    rig.clock.fire()

    assert rig.kicked == [1, 2, 1, 2]
    assert rig.clock.deadline == 3 * TICK_NS


def test_all_look_once_more_after_it_has_stopped() -> None:
    rig = Rig(0b11, 0b11)

    rig.watch.runs(0, 1)
    rig.watch.runs(0, 0)
    rig.clock.fire()

    assert rig.kicked == [0, 1]
    assert rig.clock.deadline is None


def test_a_vp_without_the_vtl_is_left_alone() -> None:
    rig = Rig(0b11, 0b1)

    rig.watch.runs(0, 1)
    rig.clock.fire()

    assert rig.kicked == []


def test_a_vp_in_a_vtl_looks_for_those_above() -> None:
    rig = Rig(0b111, 0b111)

    rig.watch.runs(0, 2)
    rig.watch.runs(1, 1)
    rig.clock.fire()

    assert rig.kicked == [1]


def test_nothing_ticks_with_one_processor_or_in_vtl0() -> None:
    alone, idle = Rig(0b11), Rig(0b11, 0b11)

    alone.watch.runs(0, 1)
    idle.watch.runs(0, 0)

    assert (alone.clock.deadline, idle.clock.deadline) == (None, None)


def test_ticks_begin_again_after_a_pause() -> None:
    rig = Rig(0b11, 0b11)
    rig.watch.runs(0, 1)
    rig.watch.runs(0, 0)
    rig.clock.fire()

    rig.watch.runs(1, 1)

    assert rig.clock.deadline == 2 * TICK_NS


def test_a_vtl_with_vina_looks_for_those_below_even_alone() -> None:
    rig = Rig(0b11, vina=True)

    rig.watch.runs(0, 1)
    rig.clock.fire()
    rig.clock.fire()

    assert rig.kicked == [0, 0]
