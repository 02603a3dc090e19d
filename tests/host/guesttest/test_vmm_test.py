# SPDX-License-Identifier: Apache-2.0
"""`vmm test` with real guests on the real /dev/kvm: all the ways in which a guest can end, each with its verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.patience import patient

ROOT = Path(__file__).parents[3]
GUESTS = ROOT / "firmware" / "build"
WATCHDOG_S = patient(100)
ENDLESS_S = patient(3)  # time limit of the guests that never end
pytestmark = [pytest.mark.host, pytest.mark.timeout(120)]

# How each guest of ours ends: its verdict, and the number of tests (of report lines, where no summary came).
VERDICTS = {
    "dummy": ("PASS", 1),
    "fail": ("FAIL", 2),
    "abort": ("ABORT", 1),
    "liar": ("ERROR", 1),  # a PASS line, exit code 0, no summary
    "noend": ("TIMEOUT", 1),
    "poweroff": ("FAIL", None),
    "triple": ("RESET", None),
}


@pytest.fixture(scope="module", autouse=True)
def built_guests() -> None:
    """The guests, up to date."""
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "firmware")], check=True, capture_output=True, timeout=WATCHDOG_S
    )


def vmm_test(*arguments: str | Path, status: int) -> str:
    """The standard output of `vmm test`, which must end with `status`."""
    command = [sys.executable, "-m", "vmm", "test", *map(str, arguments)]
    completed = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert completed.returncode == status, completed.stdout + completed.stderr
    return completed.stdout


def guests_of(output: str) -> dict[str, dict[str, Any]]:
    return {guest["name"]: guest for guest in json.loads(output)["guests"]}


def test_every_way_to_end_has_its_verdict(tmp_path: Path) -> None:
    files = [GUESTS / f"{name}.flat" for name in VERDICTS]
    junit = tmp_path / "junit.xml"
    output = vmm_test("--json", "--timeout", str(ENDLESS_S), "--junit", junit, *files, status=1)
    found = guests_of(output)
    assert {name: (guest["verdict"], guest["tests"]) for name, guest in found.items()} == VERDICTS
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("7", "2", "4")


def test_configuration_with_machine_and_arguments(tmp_path: Path) -> None:
    for name in ("smoke", "sleep"):
        (tmp_path / f"{name}.flat").symlink_to(GUESTS / f"{name}.flat")
    config = tmp_path / "unittests.cfg"
    config.write_text(
        "[two_cpus]\nfile = smoke.flat\nsmp = 2\nqemu_params = -cpu max -m 64 -machine pit=off\n"
        "[arguments]\nfile = sleep.flat\ntest_args = 'ms=`echo 30`'\nqemu_params = -machine kernel_irqchip=split\n"
        "[other_arch]\nfile = none.flat\narch = i386\n"
    )
    found = guests_of(vmm_test("--json", config, status=0))
    assert {name: guest["verdict"] for name, guest in found.items()} == {
        "two_cpus": "PASS",
        "arguments": "PASS",
        "other_arch": "SKIP",
    }
    assert found["two_cpus"]["tests"] > 1
    assert found["two_cpus"]["summary"]


def test_broken_image_is_an_error_that_says_why(tmp_path: Path) -> None:
    image = tmp_path / "broken.flat"
    image.write_bytes((GUESTS / "dummy.flat").read_bytes()[:100])
    (guest,) = guests_of(vmm_test("--json", image, status=1)).values()
    assert guest["verdict"] == "ERROR"
    assert guest["reason"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_run_and_guests(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "vmm", "test", "--timeout", "0", "-j", "2"]
    files = [str(GUESTS / "noend.flat"), str(GUESTS / "hang.flat")]
    with subprocess.Popen(
        [*command, *files], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            runner = psutil.Process(process.pid)
            deadline = time.monotonic() + WATCHDOG_S / 2
            while len(guests := runner.children(recursive=True)) < len(files) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(guests) == len(files)
            os.kill(process.pid, number)
            assert process.wait(WATCHDOG_S / 2) == 128 + number
            gone, alive = psutil.wait_procs(guests, timeout=patient(10))
        finally:
            process.kill()
    assert (len(gone), alive) == (len(files), [])


def test_guests_as_pytest_items(tmp_path: Path) -> None:
    for name in ("dummy", "liar"):
        (tmp_path / f"{name}.flat").symlink_to(GUESTS / f"{name}.flat")
    completed = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "vmm.guesttest.pytest_plugin",
            "-p",
            "no:cacheprovider",
            "--vmm-guests",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert "1 failed, 1 passed" in completed.stdout
    assert "ERROR: exit code 0, but no summary follows its 1 report lines" in completed.stdout
