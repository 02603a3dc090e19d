# SPDX-License-Identifier: Apache-2.0
"""Waiting for events of inactive VTLs in the kernel: a sentry for each vCPU of a VTL above the one that runs.

A sentry costs its VP a change of threads when the VTL is called. So it is not posted behind every return, but once the
VP has run the lower VTL for `POST_AFTER_NS`, or `WORTH` times as long as the last recall took. Until then the VP looks,
as on other hosts; a VP that switches more often finds its interrupts at each return. From then on nothing ticks.

VINA, which is about interrupts of lower VTLs that RFLAGS.IF lets through, ticks as on other hosts: the kernel's wait
leaves RFLAGS.IF aside, and would come back at once for one that is held off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from kvmapi import Vcpu
from vmm.backend.vsm.sentry import Sentry
from vmm.backend.vsm.waits import TICK_NS, Kick, WatchedVp
from vmm.outside import Clock

POST_AFTER_NS: Final = TICK_NS // 2
WORTH: Final = 10


class KernelWait:
    """A machine's (`vmm.backend.vsm.waits.VtlWaits`)."""

    def __init__(
        self,
        vps: Sequence[WatchedVp],
        kicks: Sequence[Kick],
        stay_out: Sequence[Callable[[Vcpu, bool], None]],
        clock: Clock,
    ) -> None:
        """By VP: what makes its thread look, and `vmm.backend.vp.VirtualProcessor.ask_to_stay_out`."""
        self._vps = vps
        self._kicks = kicks
        self._stay_out = stay_out
        self._clock = clock
        self._timer = clock.timer(self._tick)
        self._lock = threading.Lock()
        self._running = [0] * len(vps)
        self._guarded = [False] * len(vps)
        """Its sentries are posted."""
        self._false_alarm = [0] * len(vps)
        """Bit N: an event of VTL N that was none for us; its sentry stays home until VTL N has run."""
        self._since_ns = [0] * len(vps)
        """When the VP has begun to run what it runs."""
        self._recall_ns = [0] * len(vps)
        """How long the last recall took."""
        self._switched = [False] * len(vps)
        """It has looked since the last tick, when it came back to what it runs."""
        self._ticking = False
        self._sentries: list[dict[int, Sentry]] = [{} for _ in vps]

    # ---- the VP's thread -----------------------------------------------------------------------------

    def runs(self, vp: int, vtl: int) -> None:
        """See `VtlWaits`."""
        with self._lock:
            self._running[vp] = vtl
            self._switched[vp] = True
            self._since_ns[vp] = self._clock.now_ns()
            self._false_alarm[vp] &= ~(1 << vtl)
            if not self._ticking and self._wants_look(vp):
                self._start_ticking()

    def post(self, vp: int, vcpus: dict[int, Vcpu]) -> None:
        """See `VtlWaits`."""
        if len(self._vps) == 1:
            return  # nobody can send
        ran_ns = self._clock.now_ns() - self._since_ns[vp]
        if ran_ns < max(POST_AFTER_NS, WORTH * self._recall_ns[vp]):
            return
        sentries, false_alarm = self._sentries[vp], self._false_alarm[vp]
        for vtl, vcpu in vcpus.items():
            if false_alarm >> vtl & 1:
                continue
            sentry = sentries.get(vtl)
            if sentry is None:
                sentry = sentries[vtl] = Sentry(
                    vcpu, f"vp-{vp}-vtl{vtl}", self._kicks[vp], self._stay_out[vp]
                )
            sentry.post()
        with self._lock:
            self._guarded[vp] = not false_alarm

    def recall(self, vp: int) -> int:
        """See `VtlWaits`."""
        events, begin_ns = 0, self._clock.now_ns()
        for vtl, sentry in self._sentries[vp].items():
            if sentry.recall():
                events |= 1 << vtl
        if self._guarded[vp]:
            self._recall_ns[vp] = self._clock.now_ns() - begin_ns
            with self._lock:
                self._guarded[vp] = False
                if not self._ticking and self._wants_look(vp):
                    self._start_ticking()
        return events

    def false_alarm(self, vp: int, vtls: int) -> None:
        """See `VtlWaits`."""
        with self._lock:
            self._false_alarm[vp] |= vtls

    # ---- others --------------------------------------------------------------------------------------

    def forget(self, vp: int) -> None:
        """See `VtlWaits`."""
        for sentry in self._sentries[vp].values():
            sentry.end()
        self._sentries[vp].clear()

    def reset(self) -> None:
        """See `VtlWaits`."""
        with self._lock:
            for vp in range(len(self._vps)):
                self._running[vp], self._guarded[vp], self._false_alarm[vp] = 0, False, 0
                self._since_ns[vp] = self._recall_ns[vp] = 0

    def close(self) -> None:
        """See `VtlWaits`."""
        for vp in range(len(self._vps)):
            self.forget(vp)

    def _tick(self) -> None:
        """On the timer's thread."""
        with self._lock:
            wanting = [vp for vp in range(len(self._vps)) if self._wants_look(vp)]
            looking = [vp for vp in wanting if not self._switched[vp] or self._tells_below(vp)]
            self._switched = [False] * len(self._vps)
            if wanting:
                self._start_ticking()
            else:
                self._ticking = False
        for vp in looking:
            self._kicks[vp]()

    def _start_ticking(self) -> None:
        self._ticking = True
        self._timer.arm(self._clock.now_ns() + POST_AFTER_NS)

    def _wants_look(self, vp: int) -> bool:
        """Whether the VP is to look at the next tick. With the lock held."""
        if self._tells_below(vp):
            return True
        if self._guarded[vp] or len(self._vps) == 1 or not self._vps[vp].enabled >> self._running[vp] + 1:
            return False
        return not self._false_alarm[vp] or any(self._running)

    def _tells_below(self, vp: int) -> bool:
        """Whether what runs wants to hear of interrupts for VTLs below it."""
        vtl = self._running[vp]
        state = self._vps[vp].vtls.get(vtl)  # None: it has been reset meanwhile
        return vtl > 0 and state is not None and state.vina_enabled
