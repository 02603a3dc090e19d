# SPDX-License-Identifier: Apache-2.0
"""Runs guests, several at a time, each in a process of its own, in one thread.

One loop waits for all children's output, their end, the next deadline and signals. SIGINT, SIGTERM and SIGHUP
end the children in an orderly way and then the run; a second one ends them at once.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from vmm.guesttest.child import Child, EndedBy
from vmm.guesttest.config import ConfigError
from vmm.guesttest.guests import Collection, Guest
from vmm.guesttest.images import GuestImage
from vmm.guesttest.qemu_options import UnsupportedError
from vmm.guesttest.targets import Target
from vmm.guesttest.verdict import (
    DONE_LINE,
    HOST_ERROR,
    INTERRUPTED,
    TIME_LIMIT,
    Ending,
    Judgement,
    Verdict,
    judge,
)

DEFAULT_TIMEOUT_S = 90.0  # kvm-unit-tests' own
START_GRACE_S = 10.0  # for a target that ends runs itself: its start-up and its own ending, on a busy host
TICK_S = 0.5  # between two updates of a progress display
WAKEUP_BYTES = 64  # one per signal
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class GuestResult:
    """What became of one guest. console, errors: bounded copies of what guest and program printed."""

    guest: Guest
    judgement: Judgement
    ending: Ending
    seconds: float = 0.0
    command: tuple[str, ...] = ()
    console: bytes = b""
    errors: bytes = b""

    @property
    def verdict(self) -> Verdict:
        """Its verdict."""
        return self.judgement.verdict


class Observer(Protocol):
    """Is told how a run goes on."""

    def started(self, guest: Guest) -> None:
        """`guest` runs now."""

    def finished(self, result: GuestResult) -> None:
        """A guest has its verdict."""

    def tick(self) -> None:
        """Time has passed."""


class Silent:
    """An observer that does nothing."""

    def started(self, guest: Guest) -> None:
        """Nothing."""

    def finished(self, result: GuestResult) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""


class Everyone:
    """An observer that tells several others."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def started(self, guest: Guest) -> None:
        """`guest` runs now."""
        for observer in self._observers:
            observer.started(guest)

    def finished(self, result: GuestResult) -> None:
        """A guest has its verdict."""
        for observer in self._observers:
            observer.finished(result)

    def tick(self) -> None:
        """Time has passed."""
        for observer in self._observers:
            observer.tick()


@dataclass
class _Running:
    guest: Guest
    child: Child
    result_path: Path
    command: tuple[str, ...]
    weight: int


class Runner:
    """Runs guests on one target.

    jobs: guests at a time; None: as many as the host's processors can carry, counting each guest's CPUs.
    timeout_s: limit for every guest, whatever its entry says (0: none); None: the entry's, or 90 s, times `patience`.
    patience: tells how many times as long as its limit says a guest may take on this host (`host_speed`); asked once,
    before the first guest with such a limit starts.
    cpus: what each guest weighs when the user has given a number of CPUs.
    """

    def __init__(
        self,
        target: Target,
        *,
        jobs: int | None = None,
        timeout_s: float | None = None,
        patience: Callable[[], float] | None = None,
        cpus: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._target = target
        self._jobs = jobs
        self._capacity = jobs or len(os.sched_getaffinity(0))
        self._timeout_s = timeout_s
        self._patience = patience
        self._factor: float | None = None
        self._cpus = cpus
        self._observer: Observer = observer or Silent()
        self._selector = selectors.DefaultSelector()
        self._running: dict[Guest, _Running] = {}
        self._results: dict[Guest, GuestResult] = {}
        self._collection = Collection()
        self._folder = Path()
        self._number = 0
        self.stopped_by: signal.Signals | None = None

    def run(self, collection: Collection) -> list[GuestResult]:
        """Run the guests; their results, in the collection's order. Call once.

        After a signal (`stopped_by`) the guests that did not end are in the results as interrupted.
        """
        self._collection = collection
        self._settle_blocked(collection)
        pending = [guest for guest in collection.guests if guest not in self._results]
        with tempfile.TemporaryDirectory(prefix="vmm-test-") as folder, self._selector, self._signals():
            self._folder = Path(folder)
            try:
                while pending or self._running:
                    if self.stopped_by is None:
                        self._start_what_fits(pending)
                    else:
                        self._interrupt_all(pending)
                    if self._running:
                        self._wait()
            finally:
                for running in self._running.values():
                    running.child.close()
        return [self._results[guest] for guest in collection.guests]

    def _settle_blocked(self, collection: Collection) -> None:
        for guest, reason in collection.skipped.items():
            self._settle(
                GuestResult(guest, Judgement(Verdict.SKIP, reason), Ending("not-run", detail=reason))
            )
        for guest, reason in collection.unsupported.items():
            judgement = Judgement(Verdict.UNSUPPORTED, reason)
            self._settle(GuestResult(guest, judgement, Ending("not-run", detail=reason)))

    def _settle(self, result: GuestResult) -> None:
        self._results[result.guest] = result
        self._observer.finished(result)

    def _start_what_fits(self, pending: list[Guest]) -> None:
        for guest in list(pending):
            weight = self._weight(guest)
            if (
                self._running
                and sum(running.weight for running in self._running.values()) + weight > self._capacity
            ):
                continue
            pending.remove(guest)
            self._start(guest, weight)

    def _weight(self, guest: Guest) -> int:
        if self._jobs is not None:
            return 1
        return min(self._cpus or self._collection.cpus.get(guest, 1), self._capacity)

    def _start(self, guest: Guest, weight: int) -> None:
        self._number += 1
        result_path = self._folder / f"{self._number}.json"
        limit_s = self.limit_s(guest)
        try:
            if not guest.image.is_file():
                raise FileNotFoundError(f"{guest.image}: no such file (not built?)")
            command = self._target.command(guest, result_path, limit_s)
            grace_s = START_GRACE_S if limit_s and self._target.own_time_limit else 0.0
            child = Child(command, limit_s + grace_s, self._target.is_stuck)
        except UnsupportedError as error:
            ending = Ending("not-run", detail=str(error))
            self._settle(GuestResult(guest, Judgement(Verdict.UNSUPPORTED, str(error)), ending))
            return
        except (OSError, ConfigError) as error:
            ending = Ending(HOST_ERROR, detail=str(error))
            self._settle(GuestResult(guest, Judgement(Verdict.ERROR, str(error)), ending))
            return
        self._running[guest] = running = _Running(guest, child, result_path, tuple(command), weight)
        for fd, handle in (
            (child.output_fd, self._on_output),
            (child.errors_fd, self._on_errors),
            (child.exit_fd, self._on_exit),
        ):
            self._selector.register(fd, selectors.EVENT_READ, (handle, running))
        self._observer.started(guest)

    def limit_s(self, guest: Guest) -> float:
        """The time limit of `guest` in seconds, 0 for none."""
        if self._timeout_s is not None:
            return self._timeout_s
        if self._factor is None:
            self._factor = self._patience() if self._patience is not None else 1.0
        return self._factor * (DEFAULT_TIMEOUT_S if guest.timeout_s is None else guest.timeout_s)

    def _wait(self) -> None:
        deadlines = [
            at for running in self._running.values() if (at := running.child.next_deadline) is not None
        ]
        until = min([*deadlines, time.monotonic() + TICK_S])
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            if key.data is None:  # a signal; its handler has left a note
                os.read(key.fd, WAKEUP_BYTES)
                continue
            handle, running = key.data
            if running.guest in self._running:
                handle(running)
        now = time.monotonic()
        for running in self._running.values():
            running.child.on_time(now)
        self._observer.tick()

    def _on_output(self, running: _Running) -> None:
        if not running.child.on_output():
            self._selector.unregister(running.child.output_fd)

    def _on_errors(self, running: _Running) -> None:
        if not running.child.on_errors():
            self._selector.unregister(running.child.errors_fd)

    def _on_exit(self, running: _Running) -> None:
        child = running.child
        child.on_exit()
        for fd in (child.output_fd, child.errors_fd, child.exit_fd):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        del self._running[running.guest]
        child.close()
        ending = self._ending(running)
        running.result_path.unlink(missing_ok=True)
        judgement = judge(ending, child.console, GuestImage(running.guest.image))
        self._settle(
            GuestResult(
                running.guest,
                judgement,
                ending,
                child.ended - child.started,
                running.command,
                child.console.log.content(),
                child.errors.content(),
            )
        )

    def _ending(self, running: _Running) -> Ending:
        child = running.child
        match child.ended_by:
            case EndedBy.TIME_LIMIT:
                return Ending(TIME_LIMIT, detail=f"no end within {self.limit_s(running.guest):g} s")
            case EndedBy.DONE_LINE:
                return Ending(
                    DONE_LINE, child.console.done_code, f"the guest said DONE: {child.console.done_code}"
                )
            case EndedBy.STOPPED:
                name = self.stopped_by.name if self.stopped_by else "the runner"
                return Ending(INTERRUPTED, detail=f"interrupted by {name}")
        assert child.returncode is not None
        return self._target.ending(child.returncode, child.errors.content(), running.result_path)

    def _interrupt_all(self, pending: list[Guest]) -> None:
        assert self.stopped_by is not None
        for running in self._running.values():
            running.child.stop(EndedBy.STOPPED)
        for guest in pending:
            reason = f"not run: interrupted by {self.stopped_by.name}"
            self._settle(
                GuestResult(guest, Judgement(Verdict.ERROR, reason), Ending(INTERRUPTED, detail=reason))
            )
        pending.clear()

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            return
        for running in list(self._running.values()):
            running.child.kill()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Catch `ENDING_SIGNALS`; one of them wakes the loop. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        receiver, sender = socket.socketpair()
        with receiver, sender:
            receiver.setblocking(False)
            sender.setblocking(False)
            self._selector.register(receiver, selectors.EVENT_READ, None)
            wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            heeded = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            before = {number: signal.signal(number, self._caught) for number in heeded}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)


def summary_of(results: Sequence[GuestResult]) -> dict[Verdict, int]:
    """How many guests got each verdict, in the order of `Verdict`, without the verdicts nobody got."""
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return {verdict: count for verdict, count in counts.items() if count}
