# SPDX-License-Identifier: Apache-2.0
"""Which runs in the lab are known to be spoilt by its emulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lab_vm import LabResult
from scripts.lab_vm.lab import Outcome
from tests.lab.emulation import interrupted_with_interrupts_off, spoilt_by

LOG = Path(__file__).parent / "data" / "interrupted-with-interrupts-off.log"
"""The end of a kernel's log: deadlocked in an interrupt that came under a lock of the kernel's timers."""


def result(tmp_path: Path, outcome: Outcome, log: str = "", report: str = "") -> LabResult:
    path = tmp_path / "log"
    path.write_text(log)
    return LabResult(outcome, 125, path, report=report)


def test_an_interrupt_with_interrupts_off_is_seen() -> None:
    assert interrupted_with_interrupts_off(LOG.read_text())


def test_one_that_the_kernel_allowed_is_not() -> None:
    assert not interrupted_with_interrupts_off(
        LOG.read_text().replace("EFLAGS: 00000002", "EFLAGS: 00000202")
    )


@pytest.mark.parametrize("outcome", [Outcome.PANIC, Outcome.HANG])
def test_a_kernel_that_dies_of_it_is_run_again(tmp_path: Path, outcome: Outcome) -> None:
    assert spoilt_by(result(tmp_path, outcome, LOG.read_text())) is not None
    assert spoilt_by(result(tmp_path, outcome, "Kernel panic - not syncing: something else")) is None


def test_an_end_of_qemu_by_that_assertion_alone_is_run_again(tmp_path: Path) -> None:
    known = "ERROR:tcg-accel-ops.c:81:tcg_handle_interrupt: assertion failed: (qemu_mutex_iothread_locked())"

    assert spoilt_by(result(tmp_path, Outcome.MACHINE, report=known)) is not None
    assert spoilt_by(result(tmp_path, Outcome.MACHINE, report="another assertion failed")) is None


@pytest.mark.parametrize("outcome", [Outcome.EXITED, Outcome.TIME_LIMIT, Outcome.REFUSED])
def test_whatever_else_happens_counts(tmp_path: Path, outcome: Outcome) -> None:
    assert spoilt_by(result(tmp_path, outcome, LOG.read_text())) is None
