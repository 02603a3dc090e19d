# SPDX-License-Identifier: Apache-2.0
"""`--machine irqchip=split`: guests find the same machine as with the kernel's interrupt controllers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kvmapi import Kvm
from kvmapi.names import IOCTL_NAMES
from kvmapi.seam import Kernel
from tests.host.run.launch import guest, vmm_run
from tests.patience import patient
from vmm.backend.outcome import OutcomeKind
from vmm.machine.board import BoardEnds
from vmm.machine.config import MachineConfig
from vmm.machine.machine import Machine

pytestmark = pytest.mark.host

SPLIT = ("--machine", "irqchip=split")
WATCHDOG_S = patient(40.0)
NUMBER = re.compile(r"\b(0x[0-9a-f]+|\d+)\b")
# They speak to the kernel's 8259s, I/O APIC and PIT, which a split irqchip does not have.
KERNEL_CHIP_CALLS = {
    "KVM_CREATE_IRQCHIP",
    "KVM_CREATE_PIT2",
    "KVM_GET_IRQCHIP",
    "KVM_SET_IRQCHIP",
    "KVM_GET_PIT2",
    "KVM_SET_PIT2",
    "KVM_IRQ_LINE",
}


def checks(output: str) -> list[str]:
    """The result lines of a guest, numbers that differ from run to run left out."""
    lines = (line for line in output.splitlines() if line.startswith(("PASS", "FAIL", "SKIP", "SUMMARY")))
    return [NUMBER.sub("N", line) for line in lines]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("irq", ["--cpus", "2"]),
        ("irq", ["--cpus", "2", "--cpu", "max,-x2apic"]),
        ("irq", ["--append", "x2apic"]),
        ("ports", []),
        ("acpi", ["--cpus", "4"]),
        ("smp", ["--cpus", "4"]),
    ],
)
def test_every_check_ends_as_with_the_kernels_chips(name: str, options: list[str]) -> None:
    kernel = vmm_run(guest(name), *options, "--time-limit", "50")
    split = vmm_run(guest(name), *options, *SPLIT, "--time-limit", "50")

    assert kernel.returncode == 1, kernel.stdout + kernel.stderr
    assert split.returncode == 1, split.stdout + split.stderr
    assert checks(split.stdout) == checks(kernel.stdout)
    assert split.stderr == ""


def test_the_demo_runs() -> None:
    result = vmm_run(guest("demo"), "--cpus", "2", *SPLIT)

    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("I/O APIC       version 0x20, 24 pins, IRQ 0 on pin 2", "online         2 of 2"):
        assert words in result.stdout


@pytest.mark.parametrize("how", ["i8042", "cf9"])
def test_a_reset_starts_the_guest_anew(how: str) -> None:
    result = vmm_run(guest("reset"), "--append", f"how={how} times=3", "--cpus", "2", *SPLIT)

    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.count("reset by") == 3  # twice done, once in the summary


class RecordingKernel(Kernel):
    """The real kernel; remembers the names of the ioctls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def ioctl(self, fd: int, request: int, argument: Any = None) -> int:
        self.names.add(IOCTL_NAMES.get(request, hex(request)))
        return super().ioctl(fd, request, argument)


@pytest.mark.parametrize("split", [True, False])
def test_only_a_kernel_irqchip_is_spoken_to_across_a_reset(split: bool) -> None:
    seam = RecordingKernel()
    config = MachineConfig(
        kernel=Path(guest("reset")),
        cmdline="how=cf9 times=2",
        irqchip="split" if split else "kernel",
    )
    output = bytearray()

    with Kvm.open(seam=seam) as kvm, Machine(config, BoardEnds(output.extend, output.extend), kvm) as machine:
        outcome = machine.run(WATCHDOG_S)

    assert outcome.kind is OutcomeKind.DEBUG_EXIT, outcome
    assert b"start 2 of 2" in output
    assert "KVM_SET_LAPIC" in seam.names  # the recording works
    assert bool(KERNEL_CHIP_CALLS & seam.names) is not split


def test_without_pit_the_tick_and_its_ports_are_missing() -> None:
    """The guest's PIT checks fail, everything else passes."""
    result = vmm_run(guest("ports"), "--machine", "irqchip=split,pit=off", "--time-limit", "50")

    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert result.returncode == 3, result.stdout + result.stderr
    assert failed
    assert [line for line in failed if "PIT" not in line] == []
