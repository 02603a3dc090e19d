# SPDX-License-Identifier: Apache-2.0
"""Which signals end a run, and what they do behind it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from vmm.backend.outcome import OutcomeKind
from vmm.cli.run_signals import ENDING_SIGNALS, RunSignals
from vmm.machine.events import Control, End


def before(number: int, frame: FrameType | None) -> None:
    """The handlers that were there."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    outside = {number: signal.signal(number, before) for number in ENDING_SIGNALS}
    yield
    for number, handler in outside.items():
        signal.signal(number, handler)


def handlers() -> set[object]:
    return {signal.getsignal(number) for number in ENDING_SIGNALS}


def test_behind_a_run_that_ended_by_itself_signals_do_what_they_did() -> None:
    with RunSignals() as signals:
        signals.attach(Control())
        signals.detach()

    assert handlers() == {before}


def test_a_signal_behind_the_end_changes_nothing() -> None:
    control = Control()
    with RunSignals() as signals:
        signals.attach(control)
        signals.detach()
        signal.raise_signal(signal.SIGTERM)

    assert handlers() == {before}
    assert control.events.empty()


def test_behind_a_signal_that_ended_the_run_further_ones_are_ignored() -> None:
    control = Control()
    with RunSignals() as signals:
        signals.attach(control)
        signal.raise_signal(signal.SIGTERM)
        signals.detach()

    assert handlers() == {signal.SIG_IGN}
    event = control.events.get_nowait()
    assert isinstance(event, End)
    assert (event.outcome.kind, event.outcome.status) == (OutcomeKind.INTERRUPTED, 128 + signal.SIGTERM)


def test_a_run_that_failed_before_it_began_leaves_them_as_they_were() -> None:
    with pytest.raises(ValueError, match="no such kernel"), RunSignals():
        raise ValueError("no such kernel")

    assert handlers() == {before}
