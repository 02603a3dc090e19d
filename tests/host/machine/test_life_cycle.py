# SPDX-License-Identifier: Apache-2.0
"""Machines made, run and closed: nothing grows, whatever goes wrong on the way."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from kvmapi import Kvm
from tests.patience import patient
from vmm.backend.outcome import OutcomeKind
from vmm.machine.board import BoardEnds
from vmm.machine.boot import BootError
from vmm.machine.config import MachineConfig
from vmm.machine.machine import Machine

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[3]
RAW_GPA = 0x7C00
# Real mode: mov $0x21, %al; out %al, $0xf4; hlt
EXIT_CODE = bytes.fromhex("b021 e6f4 f4")
MACHINES = 1000


def ends() -> BoardEnds:
    return BoardEnds(serial=lambda _: None, debug=lambda _: None)


def footprint() -> dict[str, int]:
    """What a process can leak."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = maps.readlines()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(os.listdir("/proc/self/task")),
        "guest mappings": sum("guest-ram" in line or "kvm-vcpu" in line for line in lines),
    }


@pytest.fixture
def exit_image(tmp_path: Path) -> Path:
    image = tmp_path / "exit.bin"
    image.write_bytes(EXIT_CODE)
    return image


@pytest.mark.timeout(600)
def test_a_thousand_machines_leave_nothing_behind(exit_image: Path) -> None:
    config = MachineConfig(kernel=exit_image, raw_address=RAW_GPA, memory_bytes=16 << 20)
    process = psutil.Process()
    with Kvm.open() as kvm:

        def one() -> None:
            with Machine(config, ends(), kvm) as machine:
                outcome = machine.run(time_limit=patient(20))
            assert (outcome.kind, outcome.status) == (OutcomeKind.DEBUG_EXIT, 0x43)

        for _ in range(50):  # the interpreter's own caches fill up
            one()
        before, memory_before = footprint(), process.memory_info().rss
        for _ in range(MACHINES - 50):
            one()
        after, memory_after = footprint(), process.memory_info().rss

    assert after == before
    # 950 machines that leaked a page each would show as 3.7 MiB; the allocator's own waves stay below that.
    assert memory_after - memory_before < 3 << 20


@pytest.mark.parametrize("content", [b"\x7fELF", b"no kernel at all"])
def test_a_machine_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "broken"
    image.write_bytes(content)
    with Kvm.open() as kvm:
        before = footprint()
        for _ in range(10):
            with pytest.raises(BootError):
                Machine(MachineConfig(kernel=image), ends(), kvm)
        after = footprint()

    assert after == before


def test_a_machine_that_never_runs_can_be_closed(exit_image: Path) -> None:
    with Kvm.open() as kvm:
        before = footprint()
        machine = Machine(MachineConfig(kernel=exit_image, raw_address=RAW_GPA, cpus=3), ends(), kvm)
        machine.close()
        machine.close()
        after = footprint()

    assert after == before


def test_two_machines_at_once_do_not_meet(tmp_path: Path) -> None:
    """Both put a byte at one address, count for a while, and end with what they find there then."""
    images = []
    for code in (0x10, 0x20):
        image = tmp_path / f"exit-{code}.bin"
        # mov $code, %al; mov %al, 0x1000; xor %al, %al; mov $0xffff, %cx; loop .; mov 0x1000, %al; out %al, $0xf4; hlt
        image.write_bytes(bytes([0xB0, code]) + bytes.fromhex("a20010 30c0 b9ffff e2fe a00010 e6f4 f4"))
        images.append(image)
    with Kvm.open() as kvm, ThreadPoolExecutor(2) as pool:
        machines = [
            Machine(MachineConfig(kernel=image, raw_address=RAW_GPA), ends(), kvm) for image in images
        ]
        both = threading.Barrier(2, timeout=patient(20))

        def run(machine: Machine) -> int:
            both.wait()
            return machine.run(time_limit=patient(20)).status

        try:
            statuses = list(pool.map(run, machines))
        finally:
            for machine in machines:
                machine.close()

    assert statuses == [0x21, 0x41]
