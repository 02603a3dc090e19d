# SPDX-License-Identifier: Apache-2.0
"""`StuckWatch`: finds processors that a KVM without VT-x and SVM keeps at one instruction for want of a page.

Its emulator tries again by itself, without an exit, where it cannot reach what SGDT and SIDT write, LIDT and LGDT read,
or the descriptor of a segment register's load. From outside that is a processor that does not stop. So one that was
busy since the last look is kicked, and before it goes on the instruction at RIP is looked up: if it may not do what it
is about to, it is refused now, as it would be when KVM told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from vmm.backend.vp import VirtualProcessor
from vmm.outside import Clock

LOOK_NS: Final = 50_000_000
"""Nanoseconds of guest time between two looks."""

_BUSY_NS: Final = LOOK_NS // 8  # of processor time; a host shared with others may not leave a stuck one more


class Stuck(Protocol):
    """A VTL of a VP that may be stuck."""

    def look(self) -> bool:
        """Have the instruction at RIP looked up at the next kick. False: it cannot be stuck. Any thread."""


class StuckWatch:
    """One machine's. Thread-safe: what threads share is replaced whole."""

    def __init__(self, clock: Clock, restricts: Callable[[], bool]) -> None:
        """restricts: whether any VTL has fewer than all rights; while none has, nothing is looked at."""
        self._clock = clock
        self._restricts = restricts
        self._watched: dict[tuple[int, int], tuple[VirtualProcessor, Stuck]] = {}
        self._run_times: dict[int, int] = {}
        self._timer = clock.timer(self._tick)
        self._armed = False

    def watch(self, processor: VirtualProcessor, vtl: int, stuck: Stuck) -> None:
        """Watch a VTL of a VP, in the place of an earlier one."""
        self._watched = {**self._watched, (processor.index, vtl): (processor, stuck)}

    def forget_higher(self) -> None:
        """The VTLs above 0 are gone."""
        self._watched = {key: value for key, value in self._watched.items() if key[1] == 0}

    def rights_changed(self) -> None:
        """Begin to look, if there is a reason."""
        if not self._armed and self._restricts():
            self._armed = True
            self._timer.arm(self._clock.now_ns() + LOOK_NS)

    def _tick(self) -> None:
        self._armed = False
        busy = set()
        for processor, _ in self._watched.values():
            run_time = processor.run_time_ns()
            if run_time - self._run_times.get(processor.index, run_time) >= _BUSY_NS:
                busy.add(processor.index)
        for processor, stuck in self._watched.values():
            self._run_times[processor.index] = processor.run_time_ns()
            if processor.index in busy and stuck.look():
                processor.kick()
        self.rights_changed()
