# SPDX-License-Identifier: Apache-2.0
"""Wrong usage: one line that names the sub-command, status 2."""

from __future__ import annotations

import signal

import pytest

from vmm.cli import main as command_line
from vmm.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "who", "words"),
    [
        ([], "vmm", "required: COMMAND"),
        (["walk"], "vmm", "'walk'"),
        (["--colour", "doctor"], "vmm", "--colour"),
        (["run"], "vmm run", "required: FILE"),
        (["run", "kernel", "--colour"], "vmm run", "unrecognized arguments: --colour"),
        (["run", "kernel", "other"], "vmm run", "unrecognized arguments: other"),
        (["run", "kernel", "--cpus", "two"], "vmm run", "--cpus"),
        (["run", "kernel", "--append"], "vmm run", "--append"),
        (["run", "kernel", "--x\ny"], "vmm run", "--x y"),
        (["test"], "vmm test", "required: PATH"),
        (["test", "a.flat", "--jobs", "many"], "vmm test", "--jobs"),
        (["doctor", "now"], "vmm doctor", "unrecognized arguments: now"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], who: str, words: str) -> None:
    status = main(arguments)

    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.startswith(f"{who}: ") and errors.endswith(f"; see '{who} --help'\n")
    assert words in errors
    assert errors.count("\n") == 1


def test_help_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "vmm run FILE" in capsys.readouterr().out


def test_no_memory_is_no_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(arguments: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr(command_line, "_run", refused)

    assert main(["run", "kernel"]) == 2
    assert capsys.readouterr().err.startswith("vmm: out of memory: ")


def test_a_second_ctrl_c_is_ignored_while_the_first_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(command_line, "_run", interrupted)
    try:
        status = main(["doctor"])
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert (status, capsys.readouterr().err) == (130, "vmm: interrupted\n")
