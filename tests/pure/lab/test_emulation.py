# SPDX-License-Identifier: Apache-2.0
"""Which runs in the lab are made again: those that QEMU ended by an assertion that is known, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lab_vm import LabResult
from scripts.lab_vm.lab import Outcome
from tests.lab.emulation import is_spoilt

ASSERTION = "ERROR:tcg-accel-ops.c:81:tcg_handle_interrupt: assertion failed: (qemu_mutex_iothread_locked())"


def result(outcome: Outcome, report: str) -> LabResult:
    return LabResult(outcome, 125, Path("log"), report=report)


def test_an_end_of_qemu_by_that_assertion_alone_is_run_again() -> None:
    assert is_spoilt(result(Outcome.MACHINE, ASSERTION))
    assert not is_spoilt(result(Outcome.MACHINE, "another assertion failed"))


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.MACHINE}, key=str))
def test_whatever_else_happens_counts(outcome: Outcome) -> None:
    assert not is_spoilt(result(outcome, ASSERTION))
