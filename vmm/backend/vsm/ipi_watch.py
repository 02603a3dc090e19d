# SPDX-License-Identifier: Apache-2.0
"""Interrupts of which no exit tells, for VTLs that do not run: their VP has to look at its local APICs.

| from | to | looked for |
|---|---|---|
| a VTL above 0, by IPI | the same VTL of another VP, which runs a lower one | while some VP runs such a VTL |
| anything | a VTL below the one that runs, if that has VINA enabled | while it runs |

A look comes every `TICK_NS`, and once more behind the last stop of a VTL above 0. Where no VP runs one nothing ticks,
and with one processor only VINA does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from vmm.outside import Clock
from vmm.vsm.vp import VsmVp

TICK_NS: Final = 1_000_000
"""How late such an interrupt may be. A look costs its VP an exit and an ioctl for each VTL."""


class IpiWatch:
    """A machine's. `runs` is the VP's thread's."""

    def __init__(self, vps: Sequence[VsmVp], kicks: Sequence[Callable[[], None]], clock: Clock) -> None:
        """kicks: by VP, what makes its thread look."""
        self._vps = vps
        self._kicks = kicks
        self._clock = clock
        self._timer = clock.timer(self._tick)
        self._lock = threading.Lock()
        self._running = [0] * len(vps)
        self._ticking = False

    def reset(self) -> None:
        """All VPs are frozen and run VTL0."""
        with self._lock:
            self._running = [0] * len(self._vps)

    def runs(self, vp: int, vtl: int) -> None:
        """The VP runs `vtl` from now on, or has changed its VINA."""
        with self._lock:
            self._running[vp] = vtl
            if vtl and not self._ticking and (len(self._vps) > 1 or self._tells_below(vp, vtl)):
                self._ticking = True
                self._timer.arm(self._clock.now_ns() + TICK_NS)

    def _tick(self) -> None:
        """On the timer's thread: the last tick is the one behind the last VTL's stop."""
        with self._lock:
            running = list(self._running)
            if any(running):
                self._timer.arm(self._clock.now_ns() + TICK_NS)
            else:
                self._ticking = False
        for vp in self._vps:
            vtl = running[vp.index]
            if vp.enabled >> vtl + 1 or (vtl and self._tells_below(vp.index, vtl)):
                self._kicks[vp.index]()

    def _tells_below(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` wants to hear of interrupts for VTLs below it."""
        state = self._vps[vp].vtls.get(vtl)  # None: it has been reset meanwhile
        return state is not None and state.vina_enabled
