# SPDX-License-Identifier: Apache-2.0
"""Reset control register 0xcf9 (PIIX3 data sheet)."""

from __future__ import annotations

import pytest
from hypothesis import given

from vmm.machine.devices.reset_port import RESET_VALUE, ResetPort

from .fakes import FakeControl
from .fuzz import ACCESSES, carry_out

RESET = ("reset", 0)


@pytest.mark.parametrize(
    "writes",
    [
        [RESET_VALUE],  # ACPI
        [0x02, 0x06],  # Linux: type first, then the reset
        [0x00, 0x04],  # kvm-unit-tests' init
        [0x0E],  # with power cycle
    ],
)
def test_rst_cpu_rising_resets_once(writes: list[int]) -> None:
    control = FakeControl()
    port = ResetPort(control)

    for value in writes:
        port.write(0, 1, value)

    assert control.calls == [RESET]


def test_other_bits_only_stay() -> None:
    control = FakeControl()
    port = ResetPort(control)

    port.write(0, 1, 0xFB)

    assert port.read(0, 1) == 0x0A  # reserved bits are not stored
    assert control.calls == []


def test_rst_cpu_has_to_fall_before_it_resets_again() -> None:
    control = FakeControl()
    port = ResetPort(control)

    for value in (0x04, 0x06, 0x00, 0x04):
        port.write(0, 1, value)

    assert control.calls == [RESET, RESET]


def test_after_a_reset_the_register_is_0() -> None:
    control = FakeControl()
    port = ResetPort(control)
    port.write(0, 1, RESET_VALUE)

    port.reset()

    assert port.read(0, 1) == 0
    port.write(0, 1, RESET_VALUE)
    assert control.calls == [RESET, RESET]


def test_bytes_behind_the_port_are_not_decoded() -> None:
    control = FakeControl()
    port = ResetPort(control)

    port.write(0, 2, 0x0400)

    assert port.read(0, 2) == 0xFF00
    assert control.calls == []


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    control = FakeControl()
    port = ResetPort(control)
    for access in accesses:
        carry_out(access, [(port, 0)])

    assert set(control.calls) <= {RESET}
