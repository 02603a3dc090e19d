# SPDX-License-Identifier: Apache-2.0
"""Names and CPUs of threads, as the kernel has them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm.backend import host_thread


def on_a_thread(name: str, work: Callable[[], None]) -> list[BaseException]:
    """Runs `work` on a thread of this name; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    return raised


def comm() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize(
    ("name", "told"),
    [("vp-0", "vp-0"), ("vp-1023", "vp-1023"), ("a-name-longer-than-the-kernel's", "a-name-longer-t")],
)
def test_the_kernel_knows_the_name(name: str, told: str) -> None:
    names: list[str] = []

    def work() -> None:
        host_thread.tell_name()
        names.append(comm())

    assert on_a_thread(name, work) == []
    assert names == [told]


def test_a_thread_is_bound_and_others_are_not() -> None:
    cpu = host_thread.available_cpus()[-1]
    before = os.sched_getaffinity(0)
    bound: list[set[int]] = []

    def work() -> None:
        host_thread.pin(cpu)
        bound.append(os.sched_getaffinity(0))

    assert on_a_thread("vp-0", work) == []
    assert bound == [{cpu}]
    assert os.sched_getaffinity(0) == before


def test_a_cpu_that_is_not_there_is_one_line() -> None:
    raised = on_a_thread("vp-7", lambda: host_thread.pin(8191))

    assert len(raised) == 1 and isinstance(raised[0], host_thread.PinError)
    assert str(raised[0]).startswith("vp-7 cannot be bound to CPU 8191: ")
    assert "\n" not in str(raised[0])


def test_a_core_is_known_or_the_cpu_itself() -> None:
    assert host_thread.core_of(0)
    assert host_thread.core_of(8191) == "8191"
