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

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[3]
WATCHDOG_S = 30


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_doctor_and_experiment(number: signal.Signals) -> None:
    doctor, experiment = doctor_with_its_experiment()

    doctor.send_signal(number)

    output, errors = doctor.communicate(timeout=WATCHDOG_S)
    assert (doctor.returncode, output, errors) == (128 + number, "", f"vmm: ended by {number.name}\n")
    assert not experiment.is_running()


def test_a_killed_doctor_leaves_no_experiment() -> None:
    doctor, experiment = doctor_with_its_experiment()

    doctor.kill()

    doctor.communicate(timeout=WATCHDOG_S)
    gone, _ = psutil.wait_procs([experiment], timeout=WATCHDOG_S)
    assert gone == [experiment] or experiment.status() == psutil.STATUS_ZOMBIE
