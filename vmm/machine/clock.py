# SPDX-License-Identifier: Apache-2.0
"""Guest time and the timer thread (`vmm.outside.Clock`).

Guest time is the host's monotonic clock less the time the machine spent paused. All timers of the board share
one thread; it sleeps until the earliest deadline.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from vmm.backend import host_thread

# A guest may arm a timer again and again before it fires; each time leaves a stale entry behind. From this many
# on they are swept out, so the queue stays within twice the number of timers or this, whichever is more.
QUEUE_SWEEP_ENTRIES = 64


class GuestClock:
    """Guest time in nanoseconds, starting at 0 in the paused state. Thread-safe."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        """on_error: told of an exception that a timer's callback raised (a defect of ours)."""
        self._condition = threading.Condition()
        # (guest time gathered up to the last pause, host time since when it runs or None): one tuple,
        # replaced whole, so that readers need no lock.
        self._epoch: tuple[int, int | None] = (0, None)
        self._queue: list[tuple[int, int, ClockTimer]] = []  # (deadline, order, timer), stale ones included
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._calling = False  # the timer thread is in a callback
        self._on_error = on_error

    def now_ns(self) -> int:
        """Nanoseconds of guest time; stands still while paused, never goes back."""
        elapsed_ns, since_ns = self._epoch
        return elapsed_ns if since_ns is None else elapsed_ns + time.monotonic_ns() - since_ns

    def wall_time_ns(self) -> int:
        """The host's wall clock, nanoseconds since 1970-01-01 UTC."""
        return time.time_ns()

    def timer(self, callback: Callable[[], None]) -> ClockTimer:
        """A one-shot timer; `callback` runs on the timer thread with no lock held."""
        return ClockTimer(self, callback)

    def resume(self) -> None:
        """Let guest time run. Harmless when it runs already."""
        with self._condition:
            elapsed_ns, since_ns = self._epoch
            if since_ns is None:
                self._epoch = (elapsed_ns, time.monotonic_ns())
                self._condition.notify_all()

    def pause(self) -> None:
        """Stop guest time and wait for a callback that is running, unless called by it.

        Afterwards no callback runs until `resume`. Harmless when the time stands already.
        """
        with self._condition:
            self._epoch = (self.now_ns(), None)
            self._condition.notify_all()
            if self._thread is not threading.current_thread():
                self._condition.wait_for(lambda: not self._calling)

    def close(self) -> None:
        """End the timer thread. Idempotent; timers armed later never fire."""
        with self._condition:
            self._closed = True
            self._queue.clear()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def arm(self, timer: ClockTimer, deadline_ns: int) -> None:
        """Queue `timer` (called by `ClockTimer.arm`)."""
        with self._condition:
            if self._closed:
                return
            if len(self._queue) >= QUEUE_SWEEP_ENTRIES:
                self._queue = [entry for entry in self._queue if entry[2].order == entry[1]]
                heapq.heapify(self._queue)
            timer.order = next(self._order)
            heapq.heappush(self._queue, (deadline_ns, timer.order, timer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vmm-timers", daemon=True)
                self._thread.start()
            elif self._queue[0][2] is timer:
                self._condition.notify_all()

    def _run(self) -> None:
        host_thread.tell_name()
        while (timer := self._next_due()) is not None:
            try:
                timer.callback()
            except Exception as error:
                self._on_error(error)

    def _next_due(self) -> ClockTimer | None:
        """Wait for the next timer that is due and still armed for that deadline; None at close."""
        with self._condition:
            self._calling = False
            self._condition.notify_all()
            while not self._closed:
                if not self._queue or self._epoch[1] is None:
                    self._condition.wait()
                    continue
                deadline_ns, order, timer = self._queue[0]
                if timer.order != order:  # cancelled or armed anew
                    heapq.heappop(self._queue)
                    continue
                wait_ns = deadline_ns - self.now_ns()
                if wait_ns > 0:
                    self._condition.wait(wait_ns / 1e9)
                    continue
                heapq.heappop(self._queue)
                timer.order = None
                self._calling = True
                return timer
            return None


class ClockTimer:
    """A one-shot timer of a `GuestClock` (`vmm.outside.Timer`)."""

    def __init__(self, clock: GuestClock, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.order: int | None = None  # which of the clock's queue entries is the live one
        self._clock = clock

    def arm(self, deadline_ns: int) -> None:
        """See `vmm.outside.Timer`."""
        self._clock.arm(self, deadline_ns)

    def cancel(self) -> None:
        """See `vmm.outside.Timer`."""
        self.order = None
