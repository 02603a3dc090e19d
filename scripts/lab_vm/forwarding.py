# SPDX-License-Identifier: Apache-2.0
"""Signals that would end the lab go to the commands inside; a second one ends the machines."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from scripts.lab_vm.lab import Run

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def forward_signals(runs: Sequence[Run]) -> None:
    """From now on, in the main thread. The handlers stay: the program ends with its runs."""

    def forward(number: int, _frame: FrameType | None) -> None:
        for run in runs:
            run.signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
