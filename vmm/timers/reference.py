# SPDX-License-Identifier: Apache-2.0
"""Partition reference time: 100 ns units since the partition was made (TLFS 12.4).

Guests compute this time from their TSC and compare it with the counter, to the unit. So where the guest's TSC
can be read, it is the only source: counter, page and timers use one formula,

    time = (tsc * scale >> 64) + offset,    scale = 10^7 * 2^64 / tsc_hz

in the same integer arithmetic as the guest. Without a TSC to read, the machine's clock is the source and the page
says "invalid" (sequence 0), which sends guests to the counter.

Pause: the TSC may run on while the machine stands. `resume` chooses an offset that makes time go on where it
stopped, under a new sequence number. One formula serves the whole partition, so all VPs and VTLs agree.

Implements: TMR-001, TMR-003
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from vmm.hv.constants import HV_REFERENCE_TIME_UNIT_NS
from vmm.outside import Clock

UNITS_PER_SECOND: Final = 10_000_000
SEQUENCE_INVALID: Final = 0
# Older documents and guests take all ones as "invalid" too, so the count goes from 1 up to the number before it.
SEQUENCE_LAST: Final = 0xFFFF_FFFE


class GuestTsc(Protocol):
    """The time stamp counter as the guest's processors read it. All VPs and VTLs read the same (VSM-067)."""

    hz: int
    """Its frequency. Above 10 MHz: the scale of a slower one does not fit 64 bits."""

    def read(self) -> int:
        """What RDTSC would give a guest now, 64 bits. Called often and from any thread; must not call back."""


class TscFormula(NamedTuple):
    """What the reference TSC page says. `sequence` 0: do not use it."""

    sequence: int
    scale: int
    offset: int

    def at(self, tsc: int) -> int:
        """Reference time at this TSC value."""
        return (tsc * self.scale >> 64) + self.offset


NO_FORMULA: Final = TscFormula(SEQUENCE_INVALID, 0, 0)


def tsc_scale(tsc_hz: int) -> int:
    """The 64-bit fixed point factor from TSC ticks to 100 ns. `ValueError` for 10 MHz and less."""
    if tsc_hz <= UNITS_PER_SECOND:
        raise ValueError(
            f"a TSC of {tsc_hz} Hz is too slow for the reference TSC page, which needs more than 10 MHz: "
            "run without a guest TSC, so that time comes from the machine's clock"
        )
    return (UNITS_PER_SECOND << 64) // tsc_hz


class ReferenceTime:
    """Reference time of one partition. Thread-safe; made paused at 0, as the machine's clock is.

    `now` takes no lock: the state is one tuple that is replaced whole. The lock only orders pause and resume; it
    is not held while the pages are told.
    """

    def __init__(self, clock: Clock, tsc: GuestTsc | None = None) -> None:
        """clock: guest time, for timers, and the source without `tsc`. tsc: `ValueError` when it is too slow."""
        self._clock = clock
        self._tsc = tsc
        self._lock = threading.Lock()
        self._pages: list[Callable[[TscFormula], None]] = []
        # (formula, time at which it stands or None while it runs)
        self._state: tuple[TscFormula, int | None] = (NO_FORMULA, 0)
        if tsc is not None:
            self._state = (TscFormula(1, tsc_scale(tsc.hz), 0), 0)

    @property
    def formula(self) -> TscFormula:
        """What the reference TSC page should say now."""
        return self._state[0]

    def now(self) -> int:
        """Reference time in 100 ns. Never goes back; a guest's two reads differ, an exit lasting far over 100 ns."""
        tsc = self._tsc
        if tsc is None:
            return self._clock.now_ns() // HV_REFERENCE_TIME_UNIT_NS
        formula, standing = self._state
        if standing is not None:
            return standing
        return formula.at(tsc.read())

    def clock_deadline_ns(self, time: int, latest_ns: int) -> int:
        """When, on the machine's clock, reference time `time` comes: in the past if it has come, at most
        `latest_ns` from now.

        The two clocks drift, so whoever wakes up then looks at `now` again.
        """
        wait_ns = (time - self.now()) * HV_REFERENCE_TIME_UNIT_NS
        return self._clock.now_ns() + min(wait_ns, latest_ns)

    def pause(self) -> None:
        """Let time stand. The VPs have stopped. Harmless when it stands already."""
        with self._lock:
            formula, standing = self._state
            if standing is None:
                self._state = (formula, self.now())

    def resume(self) -> None:
        """Let time go on where it stood; tell the pages. The VPs do not run yet. Harmless when it runs."""
        with self._lock:
            formula, standing = self._state
            if standing is None:
                return
            if self._tsc is None:
                self._state = (formula, None)
                return
            scale = tsc_scale(self._tsc.hz)  # a machine restored on another host may have another TSC
            sequence = formula.sequence + 1 if formula.sequence < SEQUENCE_LAST else 1
            formula = TscFormula(sequence, scale, 0)
            formula = formula._replace(offset=standing - formula.at(self._tsc.read()))
            self._state = (formula, None)
            pages = list(self._pages)
        for page in pages:
            page(formula)

    def on_new_formula(self, page: Callable[[TscFormula], None]) -> None:
        """Have `page` called with the formula at each `resume`."""
        with self._lock:
            self._pages.append(page)

    def forget(self, page: Callable[[TscFormula], None]) -> None:
        """Undo `on_new_formula`. Harmless when it was not called."""
        with self._lock:
            self._pages = [other for other in self._pages if other != page]
