# SPDX-License-Identifier: Apache-2.0
"""The counters of an i8254 (Intel 8254 data sheet, "Mode Definitions" and its figures)."""

from __future__ import annotations

import pytest

from tests.pure.devices.pit_rig import HIGH_ONLY, LOW_HIGH, LOW_ONLY, value, values, write
from vmm.machine.devices.pit_counter import PitCounter

BCD = 1
STATUS_OUT, STATUS_NULL = 0x80, 0x40


def counter(mode: int, count: int | None = None, *, gate: bool = True, bcd: bool = False) -> PitCounter:
    """A counter at tick 0 in `mode`, its count just written. The next CLK pulse (tick 1) loads it."""
    made = PitCounter(gate)
    made.program(LOW_HIGH | mode << 1 | (BCD if bcd else 0))
    if count is not None:
        write(made, count)
    return made


def outs(made: PitCounter, ticks: int) -> str:
    """OUT at each of the next `ticks` ticks, H or L."""
    text = ""
    for tick in range(made.tick + 1, made.tick + 1 + ticks):
        made.advance(tick)
        text += "H" if made.out else "L"
    return text


# ---- the modes, tick by tick -------------------------------------------------------------------------


def test_mode_0_goes_high_n_plus_1_pulses_after_the_write_and_stays() -> None:
    made = counter(0, 4)
    assert not made.out

    assert outs(made, 7) == "LLLLHHH"  # loaded at 1: 4 3 2 1 0 and on from 0xffff


def test_mode_0_counts_on_below_zero() -> None:
    assert values(counter(0, 3), 6) == [3, 2, 1, 0, 0xFFFF, 0xFFFE]


def test_mode_0_gate_holds_the_count() -> None:
    made = counter(0, 4)
    made.advance(3)
    made.set_gate(False)
    assert values(made, 3) == [2, 2, 2]

    made.set_gate(True)

    assert outs(made, 3) == "LHH"


def test_mode_0_is_loaded_even_while_gate_is_low() -> None:
    made = counter(0, 4, gate=False)
    assert values(made, 2) == [4, 4]

    made.set_gate(True)

    assert outs(made, 5) == "LLLHH"


def test_mode_0_stops_at_the_first_byte_of_a_new_count() -> None:
    made = counter(0, 2)
    made.advance(10)
    assert made.out

    made.write(3)
    assert not made.out
    assert outs(made, 5) == "LLLLL"
    made.write(0)
    assert outs(made, 5) == "LLLHH"


def test_mode_1_is_a_retriggerable_one_shot() -> None:
    made = counter(1, 3, gate=False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 5) == "LLLHH"

    made.set_gate(False)
    made.set_gate(True)
    assert outs(made, 2) == "LL"
    made.set_gate(False)
    made.set_gate(True)
    assert outs(made, 5) == "LLLHH"


def test_mode_1_uses_a_new_count_from_the_next_trigger_on() -> None:
    made = counter(1, 4, gate=False)
    made.set_gate(True)
    made.advance(2)
    write(made, 2)
    assert outs(made, 4) == "LLHH"

    made.set_gate(False)
    made.set_gate(True)

    assert outs(made, 4) == "LLHH"


def test_mode_2_is_low_for_the_last_pulse_of_each_period() -> None:
    assert outs(counter(2, 3), 9) == "HHLHHLHHL"
    assert values(counter(2, 3), 7) == [3, 2, 1, 3, 2, 1, 3]


def test_mode_2_gate_stops_and_restarts() -> None:
    made = counter(2, 4)
    made.advance(4)
    assert not made.out
    made.set_gate(False)
    assert made.out
    assert outs(made, 4) == "HHHH"

    made.set_gate(True)

    assert outs(made, 5) == "HHHLH"


@pytest.mark.parametrize("mode", [2, 3])
def test_a_new_count_waits_for_the_end_of_the_cycle(mode: int) -> None:
    made = counter(mode, 6)
    made.advance(2)
    write(made, 4)

    # Mode 2: the rest of a period of 6, then of 4. Mode 3: the rest of a half cycle of 3, then of 2.
    assert outs(made, 12) == {2: "HHHLHHHLHHHL", 3: "HLLHHLLHHLLH"}[mode]


def test_mode_3_is_a_square_wave() -> None:
    assert outs(counter(3, 4), 9) == "HHLLHHLLH"
    assert values(counter(3, 4), 5) == [4, 2, 4, 2, 4]


def test_mode_3_odd_counts_are_high_for_one_pulse_more() -> None:
    assert outs(counter(3, 5), 11) == "HHHLLHHHLLH"
    assert values(counter(3, 5), 6) == [4, 2, 0, 4, 2, 4]


def test_mode_3_gate_restarts_with_the_high_half() -> None:
    made = counter(3, 4)
    made.advance(3)
    assert not made.out
    made.set_gate(False)
    assert made.out
    made.set_gate(True)

    assert outs(made, 5) == "HHLLH"


def test_mode_4_strobes_once() -> None:
    made = counter(4, 3)
    assert made.out

    assert outs(made, 7) == "HHHLHHH"
    write(made, 2)
    assert outs(made, 5) == "HHLHH"


def test_mode_5_strobes_after_each_trigger() -> None:
    made = counter(5, 2, gate=False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 5) == "HHLHH"

    made.set_gate(False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 4) == "HHLH"


@pytest.mark.parametrize(("mode", "same"), [(6, 2), (7, 3)])
def test_modes_6_and_7_are_2_and_3(mode: int, same: int) -> None:
    assert outs(counter(mode, 5), 12) == outs(counter(same, 5), 12)


@pytest.mark.parametrize("mode", range(6))
def test_a_count_of_0_is_the_largest(mode: int) -> None:
    for bcd, modulus in ((False, 0x10000), (True, 10000)):
        made = counter(mode, 0, gate=False, bcd=bcd)
        made.set_gate(True)
        rise = made.next_rise()
        # Mode 4 and 5 rise at the end of the strobe, one pulse later.
        assert rise == 1 + modulus + (mode in (4, 5))


def test_bcd_counts_in_decimal_digits() -> None:
    assert values(counter(2, 0x1000, bcd=True), 3) == [0x1000, 0x0999, 0x0998]
    assert values(counter(0, 0x0001, bcd=True), 3) == [0x0001, 0x0000, 0x9999]


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_next_rise_and_advance_agree_with_out(mode: int, count: int) -> None:
    made = counter(mode, count, gate=False)
    made.set_gate(True)
    for _ in range(20):
        before, rise = made.out, made.next_rise()
        rose = made.advance(made.tick + 1)
        assert rose == (made.out and not before)
        assert rose == (rise == made.tick)


# ---- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "written", "read"),
    [
        (LOW_ONLY, [0x34], [0x34, 0x34]),
        (HIGH_ONLY, [0x12], [0x12, 0x12]),
        (LOW_HIGH, [0x34, 0x12], [0x34, 0x12]),
    ],
)
def test_reading_without_latch_follows_the_access_mode(
    access: int, written: list[int], read: list[int]
) -> None:
    made = PitCounter(gate=False)
    made.program(access)  # mode 0: GATE holds the count
    for byte in written:
        made.write(byte)
    made.advance(1)

    assert [made.read(), made.read()] == read


def test_a_latched_count_stays_until_it_is_read() -> None:
    made = counter(2, 0x1234)
    made.advance(1)
    made.latch_count()
    made.advance(0x100)
    made.latch_count()  # ignored: one is latched already

    assert [made.read(), made.read()] == [0x34, 0x12]
    assert value(made) == 0x1234 - 0xFF


def test_status_tells_out_null_count_and_the_control_word() -> None:
    made = counter(2, 0x100)
    made.latch_status()
    assert made.read() == STATUS_OUT | STATUS_NULL | LOW_HIGH | 2 << 1  # not loaded yet

    made.advance(1)
    made.latch_status()
    assert made.read() == STATUS_OUT | LOW_HIGH | 2 << 1

    write(made, 0x80)
    made.latch_status()
    assert made.read() & STATUS_NULL  # waits for the end of the period
    made.advance(0x101)
    made.latch_status()
    assert not made.read() & STATUS_NULL


def test_the_status_comes_before_the_count() -> None:
    made = counter(0, 0x1234, gate=False)
    made.advance(1)
    made.latch_count()
    made.latch_status()

    assert [made.read(), made.read(), made.read()] == [LOW_HIGH, 0x34, 0x12]
