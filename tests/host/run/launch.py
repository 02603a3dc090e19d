# SPDX-License-Identifier: Apache-2.0
"""Running `vmm run` as a user does, with a watchdog."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.patience import SLOWNESS, patient

ROOT = Path(__file__).resolve().parents[3]
WATCHDOG_S = patient(60)


def guest(name: str) -> str:
    """One of our own guests, built by `make firmware`."""
    path = ROOT / "firmware" / "build" / f"{name}.flat"
    assert path.exists(), f"{path} is not built: run 'make firmware'"
    return str(path)


def command(*arguments: str) -> list[str]:
    """`vmm` with these arguments. A `--time-limit` in whole seconds is one for a machine that is not emulated."""
    before = ("", *arguments)
    patient_arguments = (
        str(int(word) * SLOWNESS) if option == "--time-limit" and word.isdecimal() else word
        for option, word in zip(before, arguments, strict=False)
    )
    return [sys.executable, "-m", "vmm", *patient_arguments]


def vmm_run(*arguments: str, watchdog: float = WATCHDOG_S) -> subprocess.CompletedProcess[str]:
    """`vmm run` with these arguments: the finished process, output as text; standard input is empty.

    watchdog: seconds of this machine.
    """
    return subprocess.run(
        command("run", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=watchdog,
        cwd=ROOT,
    )
