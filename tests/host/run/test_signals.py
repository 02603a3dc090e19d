# SPDX-License-Identifier: Apache-2.0
"""SIGINT, SIGTERM and SIGHUP at any moment: an orderly end, one line, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.host.run.launch import command, guest
from tests.host.run.pipes import wait_until_full
from tests.patience import patient

pytestmark = pytest.mark.host
WATCHDOG_S = patient(20)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["hang", "halt", "echo", "output"])
def test_a_signal_ends_a_running_guest(number: signal.Signals, name: str) -> None:
    child = start(guest(name), "--cpus", "2", "--append", "kib=100000")
    assert child.stdout is not None
    child.stdout.read(8)

    child.send_signal(number)

    _, stderr = child.communicate(timeout=WATCHDOG_S)
    assert child.returncode == 128 + number
    assert stderr == f"vmm: ended by {number.name}\n"


def wait_until_it_is_caught(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """Python has run our first lines: the signal's default action is no longer in place."""
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline:
        status = Path(f"/proc/{child.pid}/status").read_text()
        (caught,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
        if caught >> number - 1 & 1:
            return
        time.sleep(0.001)
    child.kill()
    raise AssertionError(f"{number.name} is never caught")


@pytest.mark.parametrize("delay_ms", range(0, 340, 20))
def test_a_signal_while_the_machine_is_being_made(delay_ms: int, tmp_path: Path) -> None:
    socket = tmp_path / "serial"
    child = start(guest("hang"), "--cpus", "4", "--serial", f"unix:{socket}")
    wait_until_it_is_caught(child, signal.SIGTERM)
    time.sleep(delay_ms / 1000)

    child.send_signal(signal.SIGTERM)

    _, stderr = child.communicate(timeout=WATCHDOG_S)
    assert child.returncode == 128 + signal.SIGTERM, stderr
    assert stderr.endswith("vmm: ended by SIGTERM\n") and "Traceback" not in stderr
    assert not socket.exists()


@pytest.mark.parametrize("delay_ms", [0, 10, 30, 60])
def test_a_signal_before_anything_is_made(delay_ms: int, tmp_path: Path) -> None:
    """Before Python has run our first line the default action ends it: no output."""
    socket = tmp_path / "serial"
    child = start(guest("hang"), "--cpus", "4", "--serial", f"unix:{socket}")
    time.sleep(delay_ms / 1000)

    child.send_signal(signal.SIGTERM)

    _, stderr = child.communicate(timeout=WATCHDOG_S)
    assert (child.returncode, stderr) in (
        (-signal.SIGTERM, ""),
        (128 + signal.SIGTERM, "vmm: ended by SIGTERM\n"),
    )
    assert not socket.exists()


def test_several_signals_are_no_worse_than_one() -> None:
    child = start(guest("hang"))
    assert child.stdout is not None
    child.stdout.read(4)

    for _ in range(20):
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        time.sleep(0.002)

    _, stderr = child.communicate(timeout=WATCHDOG_S)
    assert child.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "Traceback" not in stderr


def test_a_signal_ends_a_run_whose_output_nobody_reads() -> None:
    child = start(guest("output"), "--append", "kib=100000")
    assert child.stdout is not None
    wait_until_full(child.stdout.fileno())  # so that the VP waits for its reader

    child.send_signal(signal.SIGTERM)

    assert child.wait(timeout=WATCHDOG_S) == 128 + signal.SIGTERM
    child.communicate()
