# SPDX-License-Identifier: Apache-2.0
"""What ends a run from outside the guest: signals, the escape sequence, a reader of the output who left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from vmm.backend.outcome import STATUS_BAD_INPUT, Outcome, OutcomeKind
from vmm.console.line import LineEnd, PeerClosedError
from vmm.machine.events import Control

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunInterruptedError(Exception):
    """A signal came before there was a machine to end."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class RunSignals:
    """Catches `ENDING_SIGNALS` while it is entered: the run ends in an orderly way, status 128 + number."""

    def __init__(self) -> None:
        self._control: Control | None = None
        self._end: LineEnd | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._ended = False

    def __enter__(self) -> RunSignals:
        for number in ENDING_SIGNALS:
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            # Once a signal has ended the run the process is on its way out: another one must not cut that short.
            signal.signal(number, signal.SIG_IGN if self._ended else handler)

    def attach(self, control: Control, end: LineEnd) -> None:
        """There is a machine now: from here on a signal ends its run."""
        self._end, self._control = end, control

    def detach(self) -> None:
        """The run is over and the machine about to be closed: from here on a signal changes nothing."""
        self._ended = True

    def end_run(self, number: signal.Signals, detail: str) -> None:
        """End the run as signal `number` does. Errors: `RunInterruptedError` while there is no machine."""
        if self._ended:
            return
        self._ended = True
        outcome = Outcome(OutcomeKind.INTERRUPTED, 128 + number, detail)
        if self._control is None or self._end is None:
            raise RunInterruptedError(outcome)
        self._control.end(outcome)
        self._end.cancel()  # a VP may be waiting for a slow reader of its output

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
