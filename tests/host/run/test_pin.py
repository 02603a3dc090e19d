# SPDX-License-Identifier: Apache-2.0
"""`vmm run --pin`: each VP's thread is on the CPU that was named, and the kernel knows the threads' names."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.host.run.launch import ROOT, WATCHDOG_S, command, guest, vmm_run
from vmm.backend.host_thread import available_cpus

pytestmark = pytest.mark.host

VPS = {"vp-0", "vp-1"}
LOOK_S = 0.02


@contextmanager
def running(*arguments: str) -> Iterator[psutil.Process]:
    """`vmm run` of a guest that never ends, with two VPs."""
    process = subprocess.Popen(
        command("run", guest("hang"), "--cpus", "2", "--time-limit", "60", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def named_threads(process: psutil.Process) -> dict[str, int]:
    """Thread ids by what /proc/PID/task/TID/comm says."""
    comms = Path(f"/proc/{process.pid}/task").glob("*/comm")
    return {comm.read_text(encoding="utf-8").strip(): int(comm.parent.name) for comm in comms}


def affinities(process: psutil.Process, settled: dict[str, list[int]] | None) -> dict[str, list[int]]:
    """Of the VPs' threads by name, as soon as they are there and as `settled` says, or at the watchdog's time."""
    found: dict[str, list[int]] = {}
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        threads = named_threads(process)
        found = {name: psutil.Process(tid).cpu_affinity() for name, tid in threads.items() if name in VPS}
        if found.keys() == VPS and settled in (None, found):
            return found
        time.sleep(LOOK_S)
    return found


def test_each_vp_is_on_the_cpu_that_was_named() -> None:
    first, last = available_cpus()[0], available_cpus()[-1]  # the same one on a host with one CPU
    expected = {"vp-0": [last], "vp-1": [first]}

    with running("--pin", f"{last},{first}") as process:
        assert affinities(process, expected) == expected
        assert process.cpu_affinity() == available_cpus()  # the other threads are free


def test_without_it_the_threads_are_named_and_free() -> None:
    with running() as process:
        assert affinities(process, None) == dict.fromkeys(sorted(VPS), available_cpus())


def test_auto_gives_each_vp_a_cpu_of_its_own_or_says_why_not() -> None:
    cpus = len(available_cpus())

    fits = vmm_run(guest("dummy"), "--pin", "auto", "--cpus", str(min(cpus, 2)))
    too_many = vmm_run(guest("dummy"), "--pin", "auto", "--cpus", str(cpus + 1))

    assert (fits.returncode, fits.stderr) == (1, "")
    assert too_many.returncode == 2
    assert too_many.stderr.startswith(f"vmm: --pin auto: {cpus + 1} VPs and {cpus} available CPU")
    assert too_many.stderr.count("\n") == 1


@pytest.mark.parametrize("cpus", ["8191", "x", "0-"])
def test_what_cannot_be_is_one_line(cpus: str) -> None:
    result = vmm_run(guest("dummy"), "--pin", cpus)

    assert result.returncode == 2
    assert result.stderr.startswith("vmm: --pin ") and result.stderr.count("\n") == 1
