# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/lab."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.lab_vm.cli import extra_environment, main, make_lab, make_parser
from scripts.lab_vm.errors import LabError
from scripts.lab_vm.places import CHECKOUT
from scripts.lab_vm.progress import Progress, duration


def test_options_before_and_a_command_with_options_behind_the_dashes() -> None:
    arguments = make_parser().parse_args(
        [
            "run",
            "--kernel",
            "patched",
            "--cpus",
            "3",
            "--qemu-arg=-device",
            "--qemu-arg=edu",
            "--",
            "sh",
            "-c",
            "x",
        ]
    )

    lab = make_lab(arguments, Progress(quiet=True), default_limit=900.0)

    assert arguments.command == ["sh", "-c", "x"]
    assert (lab.kernel, lab.cpus, lab.time_limit) == ("patched", 3, 900.0)
    assert list(lab.qemu_arguments) == ["-device", "edu"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "lots"], "memory 'lots'"),
        (["--cpus", "0"], "0 processors"),
        (["--time-limit", "-1"], "--time-limit -1.0"),
        (["--kernel", "/nowhere/bzImage"], "no kernel file /nowhere/bzImage"),
        (["--env", "=x"], "--env '=x'"),
        (["--env", "SURELY_NOT_SET"], "not set here"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["run", *options, "--", "true"])

    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("lab: ")
    assert words in error
    assert len(error.splitlines()) == 1


def test_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HOST", "h")

    assert extra_environment(["A=b=c", "FROM_HOST", "EMPTY="]) == {"A": "b=c", "FROM_HOST": "h", "EMPTY": ""}
    with pytest.raises(LabError, match="give a value"):
        extra_environment(["SURELY_NOT_SET"])


def test_the_launcher_needs_nothing_but_python(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(CHECKOUT / "scripts" / "lab"), "run", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "--time-limit" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.9, "60 min 00 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_redrawn_on_a_terminal_and_taken_away() -> None:
    stream = Terminal()
    progress = Progress(stream)

    progress.stage("booting upstream")
    progress.clear()

    assert stream.getvalue() == "\r\033[Klab: booting upstream, 0.0 s\r\033[K"


def test_progress_elsewhere_is_one_line_per_stage() -> None:
    stream = io.StringIO()
    progress = Progress(stream)

    progress.stage("booting upstream")
    progress.update("step 1")
    progress.done("upstream is up")

    assert stream.getvalue().splitlines() == ["lab: booting upstream ...", "lab: upstream is up, 0.0 s"]
