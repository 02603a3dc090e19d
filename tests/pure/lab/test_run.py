# SPDX-License-Identifier: Apache-2.0
"""How a run ends, with a stand-in for QEMU (fake_qemu.py)."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.lab_vm import Lab, LabError, LabResult, Outcome
from scripts.lab_vm import lab as lab_module

Start = Callable[..., Lab]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A lab whose QEMU behaves as the given mode says."""
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    script = Path(__file__).parent / "fake_qemu.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {script} "$@"\n')
    program.chmod(0o755)
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def start(mode: str, **settings: Any) -> Lab:
        monkeypatch.setenv("FAKE_QEMU", mode)
        options: dict[str, Any] = {"log": tmp_path / "kernel.log", "time_limit": 30.0}
        return Lab(kernel, **(options | settings))

    return start


def outcome(result: LabResult) -> tuple[Outcome, int]:
    return result.outcome, result.exit_status


def test_output_and_exit_status_come_back_byte_by_byte(fake: Start) -> None:
    result = fake("exit").run(["true"])

    assert outcome(result) == (Outcome.EXITED, 7)
    assert (result.stdout, result.stderr) == (b"out\r\n\0\xff", b"err")
    assert result.boot_seconds is not None
    assert result.report == ""


def test_a_signal_s_status_is_128_and_its_number(fake: Start) -> None:
    assert outcome(fake("killed").run(["true"])) == (Outcome.EXITED, 137)


def test_the_job_has_command_directory_and_environment(fake: Start, tmp_path: Path) -> None:
    result = fake("job", results=tmp_path / "out").run(
        ["a", "b c"], directory=Path("/usr"), environment={"X": "y"}
    )

    strings = result.stdout[17:].split(b"\0")
    assert result.stdout[:1] == b"J"
    assert strings[:2] == [b"/usr", str(tmp_path / "out").encode()]
    assert strings[strings.index(b"a") + 1] == b"b c"
    assert b"X=y" in strings
    assert (tmp_path / "out").is_dir()


def test_kernel_warnings_do_not_hide_behind_a_good_exit(fake: Start) -> None:
    result = fake("warned").run(["true"])

    assert outcome(result) == (Outcome.EXITED, 0)
    assert [trouble.headline[:13] for trouble in result.warnings] == ["WARNING: CPU:"]


@pytest.mark.parametrize(
    ("mode", "expected", "words"),
    [
        ("panic", Outcome.PANIC, "the kernel crashed: sysrq triggered crash"),
        ("boot panic", Outcome.PANIC, "advice: the kernel cannot mount"),
        ("failed", Outcome.REFUSED, "could not start the command"),
        ("nonsense", Outcome.MACHINE, "talks nonsense"),
        ("vanishes", Outcome.MACHINE, "stopped without a word"),
        ("refuses", Outcome.MACHINE, "'foo' is not a valid device"),
    ],
)
def test_a_lab_that_fails_says_why(fake: Start, mode: str, expected: Outcome, words: str) -> None:
    result = fake(mode).run(["true"])

    assert outcome(result) == (expected, 125)
    assert words in result.report
    assert str(result.log) in result.report


def test_the_time_limit_ends_a_command_that_is_alive(fake: Start) -> None:
    started = time.monotonic()

    result = fake("endless", time_limit=1.0).run(["true"])

    assert outcome(result) == (Outcome.TIME_LIMIT, 124)
    assert "time limit of 1.0 s reached, the command had not ended" in result.report
    # Starting and stopping the stand-in takes little of this, whatever else the machine does.
    assert time.monotonic() - started < 15


def test_a_silent_machine_is_a_hang(fake: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.lab_vm.debugger.NMI_SECONDS", 0.1)
    monkeypatch.setattr("scripts.lab_vm.debugger.REPLY_SECONDS", 0.1)

    result = fake("silent", silence_seconds=0.5).run(["true"])

    assert outcome(result) == (Outcome.HANG, 125)
    assert "silent for 0.5 s" in result.report


def test_a_boot_that_leads_nowhere_is_a_hang(fake: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.lab_vm.debugger.NMI_SECONDS", 0.1)
    monkeypatch.setattr("scripts.lab_vm.debugger.REPLY_SECONDS", 0.1)
    monkeypatch.setattr(lab_module, "BOOT_SECONDS", 0.01)

    result = fake("never boots").run(["true"])

    assert outcome(result) == (Outcome.HANG, 125)
    assert "did not reach process 1" in result.report


def test_a_signal_is_for_the_command(fake: Start) -> None:
    run = fake("signal").start(["true"])
    run._boot_seconds = 0.0  # as if it had booted: before that, a signal ends the lab
    run.signal(signal.SIGINT)
    run._boot_seconds = None

    result = run.finish()

    assert result.stdout == b"S" + bytes([signal.SIGINT, 0, 0, 0])
    assert outcome(result) == (Outcome.EXITED, 128 + signal.SIGINT)


def test_a_signal_during_the_boot_ends_the_lab(fake: Start) -> None:
    run = fake("endless").start(["true"])
    run.signal(signal.SIGINT)

    assert outcome(run.finish()) == (Outcome.INTERRUPTED, 130)


def test_nothing_of_a_run_stays_behind(fake: Start) -> None:
    fake("exit").run(["true"])
    before = sorted(os.listdir("/proc/self/fd"))

    run = fake("exit").start(["true"])
    run.finish()

    assert sorted(os.listdir("/proc/self/fd")) == before
    assert run._qemu.returncode is not None


def test_a_machine_that_cannot_be_described_leaves_nothing_open(fake: Start, tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(LabError) as refusal:
        fake("exit", results=tmp_path / "two words").start(["true"])

    # The traceback holds the run: it has to have closed what it had opened, not to be forgotten.
    assert "a space" in str(refusal.value)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_kernel_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no kernel file"):
        Lab(tmp_path / "none").run(["true"])


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(LabError, match="no command"):
        Lab().run([])
