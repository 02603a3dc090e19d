# SPDX-License-Identifier: Apache-2.0
"""isa-debug-exit."""

from __future__ import annotations

import pytest
from hypothesis import given

from vmm.machine.devices.debug_exit import DEBUG_EXIT_PORT_COUNT, DebugExit

from .fakes import FakeControl
from .fuzz import ACCESSES, carry_out


@pytest.mark.parametrize(("size", "value"), [(1, 0xFF), (2, 0x1234), (4, 0xFFFFFFFF)])
def test_a_write_of_any_size_ends_the_run_with_its_value(size: int, value: int) -> None:
    control = FakeControl()

    DebugExit(control).write(0, size, value)

    assert control.calls == [("debug_exit", value)]


def test_reads_give_zero_and_end_nothing() -> None:
    control = FakeControl()

    value = DebugExit(control).read(0, 4)

    assert (value, control.calls) == (0, [])


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    control = FakeControl()
    device = DebugExit(control)
    for access in accesses:
        carry_out(access, [(device, offset) for offset in range(DEBUG_EXIT_PORT_COUNT)])

    assert len(control.calls) == sum(access[2] is not None for access in accesses)
