# SPDX-License-Identifier: Apache-2.0
"""Our own guests find the machine as it is announced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.host.run.launch import guest, vmm_run
from tests.patience import SLOWNESS
from vmm.backend.host_profile import kvm_modules

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dummy", []),
        ("smoke", []),
        ("ports", []),
        ("acpi", ["--cpus", "4"]),
        ("acpi", ["--cpus", "64"]),
        ("irq", ["--cpus", "2"]),
        ("irq", ["--cpus", "2", "--cpu", "max,-x2apic"]),
        ("smp", ["--cpus", "1"]),
        ("smp", ["--cpus", "4"]),
        ("memory", []),
        ("memory", ["--memory", "5G"]),
        ("memory", ["--memory", "8M"]),
    ],
)
def test_every_check_passes(name: str, options: list[str]) -> None:
    result = vmm_run(guest(name), *options, "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "SUMMARY" in result.stdout
    assert result.stderr == ""


def test_the_demo_shows_the_machine_and_powers_off() -> None:
    result = vmm_run(guest("demo"), "--cpus", "2")

    assert result.returncode == 0
    for words in ("Processor", "Memory map", "2 processors enabled", "8086:1237", "online         2 of 2"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("name", "status", "outcome"),
    [
        ("dummy", 1, "debug-exit"),
        ("fail", 3, "debug-exit"),
        ("abort", 127, "debug-exit"),
        ("poweroff", 0, "power-off"),
        ("triple", 2, "triple-fault"),
    ],
)
def test_exit_status_and_result_file_say_how_it_ended(
    tmp_path: Path, name: str, status: int, outcome: str
) -> None:
    report = tmp_path / "result.json"

    result = vmm_run(guest(name), "--result", str(report))

    assert result.returncode == status
    record = json.loads(report.read_text())
    assert (record["outcome"], record["status"]) == (outcome, status)


@pytest.mark.parametrize("name", ["halt", "hang"])
def test_the_time_limit_ends_what_does_not_end_by_itself(name: str) -> None:
    result = vmm_run(guest(name), "--time-limit", "1")

    assert result.returncode == 124
    assert result.stderr.startswith(f"vmm: the guest still ran after {SLOWNESS} s\nVP 0:\n  VTL0 runs: rip=")


def test_a_triple_fault_shows_reason_and_registers() -> None:
    result = vmm_run(guest("triple"))

    assert result.returncode == 2
    assert result.stderr.startswith("vmm: VP 0: triple fault")
    assert "cr3=" in result.stderr and "rip=" in result.stderr
    lost = kvm_modules().engine == "kvm_amd"  # which shows no registers of a triple fault
    assert ("mode: 64-bit mode" in result.stderr) is not lost
    assert ("\nKVM reset this processor when it faulted" in result.stderr) is lost


@pytest.mark.parametrize("how", ["i8042", "cf9"])
def test_a_reset_starts_the_guest_anew_or_ends_the_run(how: str) -> None:
    ended = vmm_run(guest("reset"), "--append", f"how={how}", "--no-reboot")
    again = vmm_run(guest("reset"), "--append", f"how={how} times=3", "--cpus", "2")

    assert (ended.returncode, ended.stdout.count("reset by")) == (0, 1)
    assert again.returncode == 1, again.stdout + again.stderr
    assert [line for line in again.stdout.splitlines() if line.startswith("start")] == [
        "start 1 of 3",
        "start 2 of 3",
        "start 3 of 3",
    ]


def test_output_is_neither_lost_nor_reordered() -> None:
    result = vmm_run(guest("output"), "--append", "kib=64")

    lines = [line for line in result.stdout.splitlines() if line[:1].isdigit()]
    assert [int(line.split()[0]) for line in lines] == list(range(64 * 1024 // 64))
    assert {line[10:] for line in lines} == {" abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXY"}
