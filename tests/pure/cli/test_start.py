# SPDX-License-Identifier: Apache-2.0
"""How the process starts: early signals, and standard streams that are closed, full or without a reader."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WATCHDOG_S = 60
NO_KVM = ("doctor", "--quick", "--device", "/no/such/device")

# Imports the entry module, then sends this process a SIGINT in the middle of the imports of `vmm.cli.main`.
EARLY_CTRL_C = """
import sys
from vmm.cli import start
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "argparse":
            import os, signal
            os.kill(os.getpid(), signal.SIGINT)
sys.modules.pop("argparse", None)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["vmm", "--version"]
sys.exit(start.main())
"""


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `script`, in which "$@" is `vmm ARGUMENTS`."""
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "vmm", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        cwd=ROOT,
    )


def test_ctrl_c_during_the_imports_has_its_default_action() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY_CTRL_C], capture_output=True, text=True, timeout=WATCHDOG_S, cwd=ROOT
    )

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", EARLY_CTRL_C],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        cwd=ROOT,
    )

    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "vmm", "")


@pytest.mark.parametrize("redirection", [">&-", "<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-", "2>/dev/full"])
def test_closed_streams_and_a_full_standard_error_change_no_status(redirection: str) -> None:
    done = shell(f'exec "$@" {redirection}', *NO_KVM)

    assert done.returncode == 2
    assert "defect" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), (*NO_KVM, "--json")])
def test_a_full_standard_output_is_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    done = shell('exec "$@" >/dev/full', *arguments)

    assert (done.returncode, done.stderr) == (2, "vmm: standard output: No space left on device\n")


def test_more_output_than_a_buffer_holds_fails_in_the_same_way(tmp_path: Path) -> None:
    limited = tmp_path / "output"  # 1 KiB fits: the failure comes from a write, not from a flush at the end
    done = shell(f'ulimit -f 1; trap "" XFSZ; exec "$@" >{limited}', "run", "--cpu", "help")

    assert (done.returncode, done.stderr) == (2, "vmm: standard output: File too large\n")


def test_a_reader_that_left_is_status_2() -> None:
    done = shell('{ "$@"; echo "status $?" >&2; } | true', *NO_KVM, "--json")

    assert done.stderr.splitlines()[-1] == "status 2"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
