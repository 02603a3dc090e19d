# SPDX-License-Identifier: Apache-2.0
"""When a periodic timer expires next (TLFS 12.1: never early; late ones catch up or skip, never burst).

Expirations lie on a grid `start + n * period`. After a late one:

- lazy timer: the missed periods are dropped, the next expiration is the next point of the grid.
- other timers: up to `CATCH_UP_PERIODS` of the missed ones are made up for by extra expirations half a period
  after the last, the rest is dropped. So the rate at most doubles, and only for that many periods.

A guest may ask for a period of 100 ns. The host would do nothing but fire it, so expirations are at least
`SHORTEST_INTERVAL_100NS` apart and the points of the grid between them are skipped.

Implements: TMR-015
"""

from __future__ import annotations

from typing import Final

CATCH_UP_PERIODS: Final = 8
"""Missed periods that a timer may still make up for. A guest paused for long must not be flooded."""

SHORTEST_INTERVAL_100NS: Final = 2_000
"""200 us, what KVM allows its local APIC timer (min_timer_period_us); one expiration costs the host some 20 us."""


class PeriodicSchedule:
    """The expirations of one running periodic timer. Times and periods in 100 ns units.

    Not thread-safe: its timer's lock covers it.
    """

    __slots__ = ("_backlog", "_lazy", "_period", "_start", "due")

    def __init__(self, now: int, period: int, lazy: bool) -> None:
        """The first expiration is one period from `now`. period: at least 1."""
        self._start = now
        self._period = period
        self._lazy = lazy
        self._backlog = 0
        self.due = self._grid_after(now, SHORTEST_INTERVAL_100NS)
        """The next expiration."""

    def expired(self, now: int) -> None:
        """The timer fired at `now`, not before `due`: move `due` on."""
        if not self._lazy:
            missed = (now - self.due) // self._interval
            self._backlog = min(self._backlog + missed, CATCH_UP_PERIODS)
        self.due = self._grid_after(now, SHORTEST_INTERVAL_100NS)
        early = now + max(self._period // 2, SHORTEST_INTERVAL_100NS)
        if self._backlog and early < self.due:
            self._backlog -= 1
            self.due = early

    def skip(self, now: int) -> None:
        """The guest was busy with the last expiration until `now`: drop what it missed meanwhile."""
        self.due = self._grid_after(now, 1)

    @property
    def _interval(self) -> int:
        return max(self._period, SHORTEST_INTERVAL_100NS)

    def _grid_after(self, now: int, distance: int) -> int:
        """The first point of the grid after `now`, `distance` away where the period itself is shorter."""
        earliest = now + (distance if self._period < distance else 1)
        return self._start + -(-(earliest - self._start) // self._period) * self._period
