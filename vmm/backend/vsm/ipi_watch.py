# SPDX-License-Identifier: Apache-2.0
"""IPIs that a VTL above 0 sends itself on other VPs, straight through the kernel's local APICs.

No exit tells of them. But only a VP that runs that VTL can send one: while one does, the VPs that have the VTL and do
not run it are brought out of the guest every `TICK_NS` to look at their local APICs, and once more when it has
stopped. Where no VP runs a VTL above 0 nothing ticks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from vmm.outside import Clock
from vmm.vsm.vp import VsmVp

TICK_NS: Final = 1_000_000
"""How late such an IPI may be. A look costs its VP an exit and an ioctl for each VTL."""


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
        """The VP runs `vtl` from now on."""
        if len(self._vps) == 1:
            return
        with self._lock:
            self._running[vp] = vtl
            if vtl and not self._ticking:
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
            if vp.enabled >> running[vp.index] + 1:
                self._kicks[vp.index]()
