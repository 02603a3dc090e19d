# SPDX-License-Identifier: Apache-2.0
"""One counter of an i8254: what it keeps while it is latched, stopped, triggered or programmed anew."""

from __future__ import annotations

import pytest

from vmm.machine.devices.pit_counter import STATUS_OUT, PitCounter


def counter(mode: int, count: int, gate: bool = True) -> PitCounter:
    """Binary, low byte first; the count is loaded by tick 1."""
    made = PitCounter(gate)
    made.program(0x30 | mode << 1)
    write(made, count)
    return made


def write(chip: PitCounter, count: int) -> None:
    chip.write(count & 0xFF)
    chip.write(count >> 8)


def value(chip: PitCounter) -> int:
    return chip.read() | chip.read() << 8


def test_a_latched_status_stays_until_it_is_read() -> None:
    chip = counter(0, 10)
    chip.latch_status()

    chip.advance(20)  # OUT is high by now
    chip.latch_status()
    first = chip.read()
    chip.latch_status()

    assert (first & STATUS_OUT, chip.read() & STATUS_OUT) == (0, STATUS_OUT)


def test_a_control_word_leaves_the_count_to_be_read() -> None:
    chip = counter(0, 1000)
    chip.advance(101)

    chip.program(0x34)

    assert value(chip) == 900


def test_the_first_byte_of_a_new_count_stops_mode_0_where_it_is() -> None:
    chip = counter(0, 1000)
    chip.advance(101)

    chip.write(5)
    chip.advance(200)

    assert (value(chip), chip.out) == (900, False)


@pytest.mark.parametrize("mode", [1, 5])
def test_a_trigger_shows_the_old_count_until_the_next_pulse(mode: int) -> None:
    chip = counter(mode, 1000, gate=False)
    chip.advance(10)
    chip.set_gate(True)
    chip.advance(111)
    chip.set_gate(False)

    chip.set_gate(True)

    assert value(chip) == 900
    chip.advance(112)
    assert value(chip) == 1000


def test_a_second_trigger_keeps_the_one_shot_low() -> None:
    chip = counter(1, 1000, gate=False)
    chip.advance(10)
    before = chip.out
    chip.set_gate(True)
    chip.advance(500)
    chip.set_gate(False)

    chip.set_gate(True)

    assert (before, chip.out) == (True, False)


def test_a_trigger_of_mode_3_begins_with_the_high_half() -> None:
    chip = counter(3, 10)
    chip.advance(3)
    write(chip, 20)  # taken at the end of the high half, so that a low one begins with it
    chip.advance(8)
    low = chip.out

    chip.set_gate(False)
    chip.set_gate(True)
    chip.advance(9)

    assert (low, chip.out) == (False, True)
    chip.advance(9 + 10)
    assert not chip.out
