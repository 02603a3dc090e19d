# SPDX-License-Identifier: Apache-2.0
"""`vmm doctor` ended from outside while ring 0 is being measured: no experiment goes on alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.patience import patient

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[3]
WATCHDOG_S = patient(30)


def doctor_with_its_experiment() -> tuple[subprocess.Popen[str], psutil.Process]:
    """A doctor, and the process in which it tries ring 0, once that has begun."""
    doctor = subprocess.Popen(
        [sys.executable, "-m", "vmm", "doctor"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline:
        for child in psutil.Process(doctor.pid).children():
            if "vmm.backend.ring0" in child.cmdline():
                return doctor, child
        time.sleep(0.005)
    doctor.kill()
    raise AssertionError("the doctor started no experiment")


def ended(process: psutil.Process) -> bool:
    """Whether `process` ends soon; one that nobody has waited for has ended."""
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_doctor_and_experiment(number: signal.Signals) -> None:
    doctor, experiment = doctor_with_its_experiment()

    doctor.send_signal(number)

    output, errors = doctor.communicate(timeout=WATCHDOG_S)
    assert (doctor.returncode, output, errors) == (128 + number, "", f"vmm: ended by {number.name}\n")
    # Where the signal came while the child was being started, it is the kernel that ends it, a moment later.
    assert ended(experiment)


def test_a_killed_doctor_leaves_no_experiment() -> None:
    doctor, experiment = doctor_with_its_experiment()

    doctor.kill()

    doctor.communicate(timeout=WATCHDOG_S)
    assert ended(experiment)
