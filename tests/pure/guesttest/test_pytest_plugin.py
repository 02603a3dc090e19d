# SPDX-License-Identifier: Apache-2.0
"""Guests as pytest items, in a pytest of its own with a stand-in for `vmm run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pure.guesttest.standin_guests import FAILED, PASSED, SKIPPED, STANDIN_COMMAND, MakeGuest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(make_guest: MakeGuest, tmp_path: Path) -> Path:
    """Guests of all sorts, a configuration, and an ordinary test."""
    for name, steps in (("good", PASSED), ("bad", [{"arguments": True}, *FAILED]), ("none", SKIPPED)):
        make_guest(name, *steps)
    (tmp_path / "good.elf").write_bytes((tmp_path / "good.flat").read_bytes())
    (tmp_path / "unittests.cfg").write_text("[a]\nfile = good.flat\n[b]\nfile = good.flat\narch = i386\n")
    (tmp_path / "test_ordinary.py").write_text("def test_ordinary() -> None:\n    assert True\n")
    (tmp_path / "conftest.py").write_text(
        f"import vmm.guesttest.targets\nvmm.guesttest.targets.VMM_COMMAND = {STANDIN_COMMAND!r}\n"
    )
    return tmp_path


def run_pytest(folder: Path, *arguments: str) -> str:
    """The output of a pytest that has only our plugin, run in `folder`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "vmm.guesttest.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-rA",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    if not (folder / "pytest.ini").exists():
        (folder / "pytest.ini").write_text("[pytest]\n")
    completed = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return completed.stdout + completed.stderr


def test_plugin_is_inert_unless_asked_for(folder: Path) -> None:
    output = run_pytest(folder)
    assert "1 passed" in output
    assert "good" not in output


def test_plugin_imports_nothing_of_ours_before_it_is_needed() -> None:
    code = (
        "import sys, vmm.guesttest.pytest_plugin\n"
        "print(sorted(name for name in sys.modules if name.startswith(('vmm', 'kvmapi'))))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "['vmm', 'vmm.guesttest', 'vmm.guesttest.pytest_plugin']"


def test_guests_are_items_with_the_verdicts_of_vmm_test(folder: Path) -> None:
    output = run_pytest(folder, "--vmm-guests", "--vmm-guest-option=--cpus=2", "--vmm-guest-timeout=20")
    assert "1 failed, 2 passed, 1 skipped" in output
    assert "PASSED good.flat::good" in output
    assert "FAILED bad.flat::bad" in output
    assert '"--no-reboot", "--cpus=2", "--time-limit=20"' in output  # in the failed guest's console
    assert "FAIL: a" in output
    assert "command: " in output


def test_ini_file_can_ask_for_guests(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nvmm_guests = true\nvmm_guest_options = --cpus=3\n")
    output = run_pytest(folder)
    assert "1 failed, 2 passed, 1 skipped" in output
    assert '"--cpus=3"' in output


def test_named_config_and_elf_are_collected(folder: Path) -> None:
    output = run_pytest(folder, "--vmm-guests", "unittests.cfg", "good.elf")
    assert "PASSED unittests.cfg::a" in output
    assert "SKIPPED" in output
    assert "PASSED good.elf::good" in output
    assert "2 passed, 1 skipped" in output


def test_broken_config_is_a_collection_error_with_its_line(folder: Path) -> None:
    (folder / "unittests.cfg").write_text("[a]\nfiel = x\n")
    assert "unittests.cfg:2: unknown key 'fiel'; did you mean 'file'?" in run_pytest(
        folder, "--vmm-guests", "unittests.cfg"
    )
