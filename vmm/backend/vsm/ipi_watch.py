# SPDX-License-Identifier: Apache-2.0
"""Waiting for interrupts of VTLs that do not run, on any KVM: their VP looks at its local APICs.

A look comes every `TICK_NS`, and once more behind the last stop of a VTL above 0. Where no VP runs one nothing ticks,
and with one processor only VINA does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kvmapi import Vcpu
from vmm.backend.vsm.waits import TICK_NS, Kick, WatchedVp
from vmm.outside import Clock


class IpiWatch:
    """A machine's (`vmm.backend.vsm.waits.VtlWaits`)."""

    def __init__(self, vps: Sequence[WatchedVp], kicks: Sequence[Kick], clock: Clock) -> None:
        """kicks: by VP, what makes its thread look."""
        self._vps = vps
        self._kicks = kicks
        self._clock = clock
        self._timer = clock.timer(self._tick)
        self._lock = threading.Lock()
        self._running = [0] * len(vps)
        self._ticking = False

    def reset(self) -> None:
        """See `VtlWaits`."""
        with self._lock:
            self._running = [0] * len(self._vps)

    def runs(self, vp: int, vtl: int) -> None:
        """See `VtlWaits`."""
        with self._lock:
            self._running[vp] = vtl
            if vtl and not self._ticking and (len(self._vps) > 1 or self._tells_below(vp, vtl)):
                self._ticking = True
                self._timer.arm(self._clock.now_ns() + TICK_NS)

    def post(self, vp: int, vcpus: dict[int, Vcpu]) -> None:
        """See `VtlWaits`."""

    def recall(self, vp: int) -> int:
        """See `VtlWaits`."""
        return 0

    def false_alarm(self, vp: int, vtls: int) -> None:
        """See `VtlWaits`."""

    def forget(self, vp: int) -> None:
        """See `VtlWaits`."""

    def close(self) -> None:
        """See `VtlWaits`."""

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
