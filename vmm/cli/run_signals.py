# SPDX-License-Identifier: Apache-2.0
"""What ends a run from outside the guest: signals, the escape sequence, a reader of the output who left."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vmm.backend.outcome import STATUS_BAD_INPUT, Outcome, OutcomeKind
from vmm.console.line import LineEnd, PeerClosedError
from vmm.machine.events import Control

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class RunInterruptedError(Exception):
    """A signal came before there was a machine to end."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class RunSignals:
    """Catches `ENDING_SIGNALS` while it is entered: the run ends in an orderly way, status 128 + number."""

    def __init__(self) -> None:
        self._control: Control | None = None
        self._ends: tuple[LineEnd, ...] = ()
        self._before: dict[signal.Signals, Any] = {}
        self._ended = False  # by a signal
        self._over = False
        self._interruption: RunInterruptedError | None = None
        self._holding = False

    def __enter__(self) -> RunSignals:
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            # Once a signal has ended the run the process is on its way out: another one must not cut that short. The
            # first one may, behind a run that ended by itself: whoever reads the results may be slow.
            signal.signal(number, signal.SIG_IGN if self._ended else handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """A signal that comes inside takes effect at the end: what is made inside is never left half made."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self._raise_interruption()

    def attach(self, control: Control, *ends: LineEnd) -> None:
        """There is a machine now: from here on a signal ends its run."""
        self._ends, self._control = ends, control
        self._raise_interruption()

    def _raise_interruption(self) -> None:
        if self._interruption is not None:
            raise self._interruption

    def detach(self) -> None:
        """The run is over and the machine about to be closed: from here on a signal changes nothing."""
        self._over = True
        self.cancel_output()

    def cancel_output(self) -> None:
        """Whoever waits for a slow reader of the guest's output waits no longer."""
        for end in self._ends:
            end.cancel()

    def end_run(self, number: signal.Signals, detail: str) -> None:
        """End the run as signal `number` does. Errors: `RunInterruptedError` while there is no machine."""
        if self._ended or self._over:
            return
        self._ended = True
        outcome = Outcome(OutcomeKind.INTERRUPTED, 128 + number, detail)
        if self._control is not None:
            self._control.end(outcome)
            self.cancel_output()
        else:
            # Kept as well as raised: raised inside a finalizer, Python would only print it and go on.
            self._interruption = RunInterruptedError(outcome)
            if not self._holding:
                raise self._interruption

    def guarded(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """`write` as a sink for guest output: when its reader went away, the run ends instead."""

        def sink(data: bytes) -> None:
            try:
                write(data)
            except (PeerClosedError, OSError) as error:
                detail = f"the guest's output has nowhere to go: {error}"
                if self._control is not None:
                    self._control.end(Outcome(OutcomeKind.OUTPUT_CLOSED, STATUS_BAD_INPUT, detail))

        return sink

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.end_run(signal.Signals(number), f"ended by {name}")
