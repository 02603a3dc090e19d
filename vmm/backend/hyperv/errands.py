# SPDX-License-Identifier: Apache-2.0
"""What one VP needs of another one's vCPU, done on that one's own thread.

A vCPU's ioctls wait while it is in `KVM_RUN`, and its registers change there. So the asking VP leaves an errand and
kicks the other one, which carries it out on its way into the guest again. While it waits, it carries out those that are
left for itself: two VPs may ask each other. It waits up to `PATIENCE_S`, then asks its guest to make the call again,
so that its interrupts are served; the repeated call finds the answer.

Before it is repeated, an interrupt handler of the guest, or a higher VTL, may make such a call as well. So an errand is
known by the vCPU and the stack it was asked on, and several are kept: none is done twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kvmapi import Vcpu
from vmm.backend.vp import VirtualProcessor

T = TypeVar("T")

PATIENCE_S: Final = 0.001
"""How long a call may wait. Longer than a kick takes; an interrupt of the caller's may be this late."""

KEPT: Final = 16
"""Calls of a VP that are to be repeated: as many handlers as can interrupt each other, in two VTLs."""

_Asker = tuple[Vcpu, int]
"""The vCPU that a VP ran, and its stack pointer: an interrupt handler has another one than what it interrupts."""


@dataclass(slots=True, eq=False)
class _Errand:
    target: int
    request: Hashable
    work: Callable[[], Any]
    done: bool = False
    result: Any = None
    error: Exception | None = None

    def carry_out(self) -> None:
        try:
            self.result = self.work()
        except Exception as error:  # it is the asker's to deal with
            self.error = error


class Errands:
    """A machine's. Thread-safe; see the package for threads."""

    def __init__(self, processors: Sequence[VirtualProcessor]) -> None:
        self._processors = processors
        self.before_work: Callable[[int], object] = lambda vp: None
        """Called on the VP's thread before it does something for a VP."""
        self._changed = threading.Condition()
        self._asked: list[dict[_Asker, _Errand]] = [{} for _ in processors]
        """By caller: what was asked for and nobody has seen the answer of, the oldest first."""
        self._left: list[deque[_Errand]] = [deque() for _ in processors]

    def ask(self, caller: int, target: int, request: Hashable, work: Callable[[], T]) -> T | None:
        """What `work`, done on `target`'s thread, returns; None: not yet, `caller` is to ask again.

        Called on `caller`'s thread. request: what tells this errand from others of the caller. An exception of
        `work` is raised here.
        """
        if caller == target:
            self.before_work(caller)
            return work()
        asker, errand = self._find(caller, target, request, work)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with self._changed:
                if errand.done:
                    del self._asked[caller][asker]
                    break
                own = self._take(caller)
                if own is None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(left)
                    continue
            self.before_work(caller)
            self._carry_out(own)
        if errand.error is not None:
            raise errand.error
        result: T = errand.result
        return result

    def after_kick(self, vp: int) -> None:
        """The VP is on its way into the guest again: do what it was asked for."""
        while self._left[vp]:
            with self._changed:
                errand = self._take(vp)
            if errand is not None:
                self.before_work(vp)
                self._carry_out(errand)

    def reset(self) -> None:
        """Forget what nobody waits for any more. All VPs are frozen."""
        with self._changed:
            for asked in self._asked:
                asked.clear()
            for left in self._left:
                left.clear()

    def forget(self, vcpus: Collection[Vcpu]) -> None:
        """What was asked for on these is asked for no more: they have a new state. All VPs are frozen."""
        with self._changed:
            for caller, asked in enumerate(self._asked):
                for asker in [asker for asker in asked if asker[0] in vcpus]:
                    self._give_up(caller, asker)

    def _find(
        self, caller: int, target: int, request: Hashable, work: Callable[[], Any]
    ) -> tuple[_Asker, _Errand]:
        """The caller's errand, asked for before or left now."""
        vcpu = self._processors[caller].vcpu
        asker: _Asker = vcpu, vcpu.run.regs.rsp
        asked = self._asked[caller]
        with self._changed:
            errand = asked.get(asker)
            if errand is not None:
                if (errand.target, errand.request) == (target, request):
                    return asker, errand
                self._give_up(caller, asker)
            elif len(asked) >= KEPT:
                self._give_up(caller, next(iter(asked)))
            errand = asked[asker] = _Errand(target, request, work)
            self._left[target].append(errand)
            self._changed.notify_all()  # the target may be waiting itself
        self._processors[target].kick()
        return asker, errand

    def _give_up(self, caller: int, asker: _Asker) -> None:
        """Nobody will repeat this call: what it asks for is not done, if it has not been. With the lock held."""
        errand = self._asked[caller].pop(asker)
        if not errand.done and errand in self._left[errand.target]:
            self._left[errand.target].remove(errand)

    def _take(self, vp: int) -> _Errand | None:
        """The oldest errand left for `vp`. With the lock held."""
        left = self._left[vp]
        return left.popleft() if left else None

    def _carry_out(self, errand: _Errand) -> None:
        errand.carry_out()
        with self._changed:
            errand.done = True
            self._changed.notify_all()
