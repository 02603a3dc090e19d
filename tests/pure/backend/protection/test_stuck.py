# SPDX-License-Identifier: Apache-2.0
"""Which processors are kicked because they may be stuck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from tests.pure.devices.fakes import FakeClock
from vmm.backend.protection.stuck import LOOK_NS, StuckWatch
from vmm.backend.vp import VirtualProcessor


@dataclass
class Processor:
    """Of a VP, what the watch uses."""

    index: int
    run_time: int = 0
    kicks: int = 0

    def run_time_ns(self) -> int:
        return self.run_time

    def kick(self) -> None:
        self.kicks += 1


@dataclass
class Vtl:
    """runs: it is the one that the VP runs."""

    runs: bool = True
    looks: int = 0

    def look(self) -> bool:
        self.looks += self.runs
        return self.runs


class Setting:
    """Two VPs with two VTLs each, of which VTL0 runs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.restricts = True
        self.watch = StuckWatch(self.clock, lambda: self.restricts)
        self.processors = [Processor(0), Processor(1)]
        self.vtls = {(vp, vtl): Vtl(runs=vtl == 0) for vp in (0, 1) for vtl in (0, 1)}
        for (vp, vtl), stuck in self.vtls.items():
            self.watch.watch(cast("VirtualProcessor", self.processors[vp]), vtl, stuck)

    def pass_time(self, *busy: int) -> None:
        """From one look to the next."""
        for vp in busy:
            self.processors[vp].run_time += LOOK_NS
        self.clock.advance(LOOK_NS)

    @property
    def kicks(self) -> list[int]:
        return [processor.kicks for processor in self.processors]


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_a_busy_processor_is_kicked_in_the_vtl_that_runs(setting: Setting) -> None:
    setting.watch.rights_changed()
    setting.pass_time(0)  # the first look learns how long they have run

    setting.pass_time(0)
    setting.pass_time(0)

    assert setting.kicks == [2, 0]
    assert {key: vtl.looks for key, vtl in setting.vtls.items()} == {
        (0, 0): 2,
        (0, 1): 0,
        (1, 0): 0,
        (1, 1): 0,
    }


def test_nobody_is_looked_at_without_restrictions(setting: Setting) -> None:
    setting.restricts = False
    setting.watch.rights_changed()

    for _ in range(3):
        setting.pass_time(0, 1)

    assert setting.kicks == [0, 0]
    assert setting.clock.next_deadline_ns() is None


def test_it_ends_with_the_last_restriction(setting: Setting) -> None:
    setting.watch.rights_changed()
    setting.pass_time(1)
    setting.pass_time(1)
    setting.restricts = False
    setting.pass_time(1)
    setting.pass_time(1)

    assert setting.kicks == [0, 2]
    assert setting.clock.next_deadline_ns() is None


def test_changes_of_rights_do_not_put_it_off(setting: Setting) -> None:
    """A guest that changes rights all the time is looked at as well."""
    setting.watch.rights_changed()
    for _ in range(8):
        for processor in setting.processors:
            processor.run_time += LOOK_NS
        setting.clock.advance(LOOK_NS // 2)
        setting.watch.rights_changed()

    assert min(setting.kicks) >= 3


def test_a_vtl_that_is_gone_is_not_asked(setting: Setting) -> None:
    for vtl in setting.vtls.values():
        vtl.runs = True
    setting.watch.forget_higher()
    setting.watch.rights_changed()

    for _ in range(3):
        setting.pass_time(0, 1)

    assert [setting.vtls[vp, 1].looks for vp in (0, 1)] == [0, 0]
    assert [setting.vtls[vp, 0].looks for vp in (0, 1)] == [2, 2]
