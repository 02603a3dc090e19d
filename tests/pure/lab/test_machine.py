# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.machine import CPUS_MAX, Machine, check_cpus, find_qemu, host_tsc_khz, memory_mib

MACHINE = Machine(
    kernel=Path("/k/vmlinux"),
    init=Path("/i/init"),
    cpus=3,
    memory_mib=512,
    log=Path("/l/kernel.log"),
    channel_fd=7,
    monitor_fd=8,
    tsc_khz=2596149,
)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize(("text", "mib"), [("512M", 512), ("4G", 4096), ("1g", 1024)])
def test_memory(text: str, mib: int) -> None:
    assert memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "4", "4GB", "-1G", "0G", "1.5G", "255M", "x"])
def test_memory_that_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="memory"):
        memory_mib(text)


@pytest.mark.parametrize("count", [0, -1, CPUS_MAX + 1])
def test_processor_counts_that_are_refused(count: int) -> None:
    with pytest.raises(LabError, match=f"1 to {CPUS_MAX}"):
        check_cpus(count)


def test_the_machine_is_emulated_and_ends_when_it_resets() -> None:
    command = MACHINE.command()

    assert option(command, "-accel") == "tcg,thread=multi"
    assert "-no-reboot" in command
    assert option(command, "-m") == "512M"


def test_there_is_a_processor_more_than_the_command_gets() -> None:
    assert (MACHINE.cpus, option(MACHINE.command(), "-smp")) == (3, "4")


def test_the_host_s_root_cannot_be_written() -> None:
    exports = [word for word in MACHINE.command() if "path=/," in word]

    assert len(exports) == 1
    assert "readonly=on" in exports[0]


def test_results_are_the_only_writable_export() -> None:
    command = replace(MACHINE, results=Path("/out")).command()

    writable = [word for word in command if word.startswith("local,") and "readonly=on" not in word]
    assert [word.split(",")[2] for word in writable] == ["path=/out"]


def test_kernel_arguments_of_the_user_come_last_and_so_win() -> None:
    append = option(replace(MACHINE, kernel_arguments=["panic=5"]).command(), "-append").split()

    assert append[-1] == "panic=5"
    assert {"init=/i/init", "tsc_early_khz=2596149", "oops=panic"} <= set(append)


def test_qemu_arguments_of_the_user_come_last() -> None:
    assert replace(MACHINE, qemu_arguments=["-device", "edu"]).command()[-2:] == ["-device", "edu"]


@pytest.mark.parametrize("path", ["/a b/init", "/a,b/init", '/a"b/init'])
def test_a_path_that_qemu_would_misread_is_refused(path: str) -> None:
    with pytest.raises(LabError, match="cannot take"):
        replace(MACHINE, init=Path(path)).command()


def test_a_missing_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LabError, match="apt-get install qemu-system-x86"):
        find_qemu()


def test_the_host_s_tsc_frequency_is_measured() -> None:
    # 0.1 to 10 GHz: every x86-64 processor's TSC
    assert 100_000 < host_tsc_khz() < 10_000_000
