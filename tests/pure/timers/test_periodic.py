# SPDX-License-Identifier: Apache-2.0
"""Periodic schedules: on the grid, never early, catching up within bounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.timers.periodic import CATCH_UP_PERIODS, SHORTEST_INTERVAL_100NS, PeriodicSchedule

MS = 10_000  # in 100 ns units
START = 123_457


def fire(schedule: PeriodicSchedule, late: int = 0) -> int:
    """Fire `late` units after the schedule says; the time it fired at."""
    now = schedule.due + late
    schedule.expired(now)
    return now


@pytest.mark.tlfs("TMR-011")
def test_on_time_expirations_lie_a_period_apart() -> None:
    schedule = PeriodicSchedule(START, MS, lazy=False)

    times = [fire(schedule) for _ in range(5)]

    assert times == [START + MS * n for n in range(1, 6)]


@pytest.mark.tlfs("TMR-011")
def test_small_delays_do_not_move_the_grid() -> None:
    schedule = PeriodicSchedule(START, MS, lazy=False)

    dues = []
    for late in (0, 300, 4000, 9999):
        dues.append(schedule.due)
        fire(schedule, late)

    assert dues == [START + MS * n for n in range(1, 5)]


@pytest.mark.tlfs("TMR-015")
def test_a_lazy_timer_drops_what_it_missed() -> None:
    schedule = PeriodicSchedule(START, MS, lazy=True)

    fire(schedule, late=1000 * MS + 5)

    assert schedule.due == START + 1002 * MS


@pytest.mark.tlfs("TMR-015")
def test_catching_up_is_bounded_and_shortens_no_further_than_to_half() -> None:
    """A VP stopped for one second with a period of 1 ms: 8 extra expirations, half a period apart, and no more."""
    schedule = PeriodicSchedule(START, MS, lazy=False)
    stopped_until = fire(schedule, late=1000 * MS)

    times = [stopped_until]
    while times[-1] < stopped_until + 20 * MS:
        times.append(fire(schedule))

    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) == MS // 2
    regular = (times[-1] - stopped_until) // MS
    assert len(gaps) - regular == CATCH_UP_PERIODS
    assert gaps[-1] == MS


@pytest.mark.tlfs("TMR-015")
def test_a_tiny_period_does_not_become_a_storm() -> None:
    schedule = PeriodicSchedule(START, 1, lazy=False)

    times = [fire(schedule) for _ in range(50)]

    assert {after - before for before, after in itertools.pairwise(times)} == {SHORTEST_INTERVAL_100NS}


def test_skip_goes_to_the_next_point_of_the_grid() -> None:
    schedule = PeriodicSchedule(START, MS, lazy=False)

    schedule.skip(START + 17 * MS + 1)

    assert schedule.due == START + 18 * MS


@pytest.mark.tlfs("TMR-011", "TMR-015")
@given(
    st.integers(1, 1 << 63),
    st.booleans(),
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=40),
)
def test_whatever_the_delays_the_rate_is_bounded(period: int, lazy: bool, delays: list[int]) -> None:
    schedule = PeriodicSchedule(START, period, lazy)
    first = schedule.due
    assert first >= START + period
    now = START
    for late in delays:
        previous = now
        assert schedule.due > previous
        now = fire(schedule, late)

    fired = len(delays)
    assert fired <= (now - START) // period + (0 if lazy else CATCH_UP_PERIODS)
    if period < SHORTEST_INTERVAL_100NS:
        assert fired <= (now - START) // SHORTEST_INTERVAL_100NS
