# SPDX-License-Identifier: Apache-2.0
"""MC146818 RTC: time, update cycle, alarm, periodic interrupt, flags, CMOS memory (MC146818A data sheet)."""

from __future__ import annotations

import pytest
from hypothesis import given

from vmm.machine.devices import rtc as chip

from .fakes import SECOND_NS
from .fuzz import ACCESSES, carry_out
from .rtc_board import DONT_CARE, START_BCD, Board

# Time


def test_the_wall_clock_shows_in_bcd_and_24_hours() -> None:
    board = Board()

    assert {index: board.read(index) for index in START_BCD} == START_BCD


def test_the_time_goes_on() -> None:
    board = Board()

    board.clock.advance(50 * SECOND_NS)

    assert board.time() == (0x13, 0x15, 0x05)


def test_binary_and_12_hours() -> None:
    board = Board()

    board.write(chip.REG_B, chip.B_DM)

    assert board.time() == (0x80 | 1, 14, 15)
    assert board.read(9) == 24


def test_the_time_can_be_set_under_set_and_then_goes_on() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_SET | chip.B_24)
    for index, value in ((0, 0x58), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)):
        board.write(index, value)
    board.clock.advance(5 * SECOND_NS)  # stands still
    board.write(chip.REG_B, chip.B_24)

    set_time = board.time()
    board.clock.advance(2 * SECOND_NS)

    assert set_time == (0x23, 0x59, 0x58)
    assert [board.read(index) for index in (0x32, 9, 8, 7, 4, 2, 0)] == [0x20, 0x00, 0x01, 0x01, 0, 0, 0]


def test_a_single_register_can_be_set_while_the_clock_runs() -> None:
    board = Board()

    board.write(4, 0x20)

    assert board.time() == (0x20, 0x14, 0x15)
    board.clock.advance(SECOND_NS)
    assert board.time() == (0x20, 0x14, 0x16)


def test_a_register_set_while_the_clock_runs_keeps_the_phase_of_the_second() -> None:
    board = Board()
    board.clock.advance(SECOND_NS * 7 // 10)

    board.write(2, 0x20)
    board.clock.advance(SECOND_NS * 3 // 10 - 1)
    before = board.time()
    board.clock.advance(1)

    assert (before, board.time()) == ((0x13, 0x20, 0x15), (0x13, 0x20, 0x16))


def test_control_writes_under_set_leave_the_time_that_is_being_set() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_SET | chip.B_24)
    board.write(4, 0x05)

    board.write(chip.REG_B, chip.B_SET | chip.B_24 | chip.B_AIE)
    board.write(chip.REG_A, chip.A_AT_POST)
    board.write(chip.REG_B, chip.B_24)

    assert board.time() == (0x05, 0x14, 0x15)


def test_a_control_write_while_the_clock_runs_leaves_the_time() -> None:
    board = Board()
    board.clock.advance(5 * SECOND_NS)

    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    assert board.time() == (0x13, 0x14, 0x20)


def test_set_keeps_the_phase_of_the_second() -> None:
    board = Board()
    board.clock.advance(SECOND_NS * 7 // 10)

    board.write(chip.REG_B, chip.B_SET | chip.B_24)
    board.write(0, 0x30)
    board.write(chip.REG_B, chip.B_24)
    board.clock.advance(SECOND_NS * 3 // 10 - 1)
    before = board.read(0)
    board.clock.advance(1)

    assert (before, board.read(0)) == (0x30, 0x31)


def test_the_first_update_comes_half_a_second_after_the_divider_is_released() -> None:
    board = Board()
    board.write(chip.REG_A, 0x70)
    board.clock.advance(3 * SECOND_NS + 123)
    stopped = board.read(0)

    board.write(chip.REG_A, chip.A_AT_POST)
    board.clock.advance(SECOND_NS // 2 - 1)
    before = board.read(0)
    board.clock.advance(1)

    assert (stopped, before, board.read(0)) == (0x15, 0x15, 0x16)


def test_a_released_divider_does_not_move_the_phase_of_a_later_set() -> None:
    board = Board()
    board.write(chip.REG_A, 0x70)
    board.write(chip.REG_A, chip.A_AT_POST)
    board.clock.advance(SECOND_NS * 4 // 10)  # 0.9 s into the second now

    board.write(chip.REG_B, chip.B_SET | chip.B_24)
    board.write(chip.REG_B, chip.B_24)
    board.clock.advance(SECOND_NS // 10)

    assert board.read(0) == 0x16


def test_uip_is_set_from_2228_us_before_the_update() -> None:
    board = Board()
    seen = []

    for time_ns in (0, SECOND_NS - 2_228_001, SECOND_NS - 2_228_000, SECOND_NS - 1, SECOND_NS):
        board.clock.advance(time_ns - board.clock.now_ns())
        seen.append(board.read(chip.REG_A) & chip.A_UIP)

    assert seen == [0, 0, chip.A_UIP, chip.A_UIP, 0]


def test_uip_stays_clear_while_set() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_SET)

    board.clock.advance(SECOND_NS - 1)

    assert not board.read(chip.REG_A) & chip.A_UIP


# Registers


def test_c_and_d_are_read_only_and_uip_too() -> None:
    board = Board()

    for index in (chip.REG_A, chip.REG_C, chip.REG_D):
        board.write(index, 0xA6 if index == chip.REG_A else 0x7F)

    assert [board.read(index) for index in (chip.REG_A, chip.REG_C, chip.REG_D)] == [0x26, 0, chip.D_VRT]


def test_set_clears_uie() -> None:
    board = Board()

    board.write(chip.REG_B, chip.B_SET | chip.B_UIE | chip.B_AIE)

    assert board.read(chip.REG_B) == chip.B_SET | chip.B_AIE


def test_nmi_mask_and_index_share_port_0x70() -> None:
    board = Board()

    board.device.write(0, 1, 0x80 | chip.REG_D)

    assert board.device.nmi_masked
    assert board.device.read(1, 1) == chip.D_VRT
    assert board.device.read(0, 1) == 0xFF  # write-only


def test_a_word_write_selects_and_stores() -> None:
    board = Board()

    board.device.write(0, 2, 0xAB << 8 | 0x40)

    assert board.read(0x40) == 0xAB


# Flags and interrupts


def test_update_ended_interrupt_each_second_until_c_is_read() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_24 | chip.B_UIE)

    board.clock.advance(SECOND_NS - 1)
    early = board.line.level
    board.clock.advance(1)
    raised = board.line.level
    flags = board.read(chip.REG_C)

    assert (early, raised, board.line.level) == (False, True, False)
    assert flags == chip.C_IRQF | chip.C_UF | chip.C_PF  # PF is set at its rate whether enabled or not
    board.clock.advance(SECOND_NS)
    assert board.line.level


def test_flags_are_set_without_their_enables() -> None:
    board = Board()
    board.alarm_at(DONT_CARE, DONT_CARE, DONT_CARE)

    board.clock.advance(SECOND_NS)

    assert board.read(chip.REG_C) == chip.C_UF | chip.C_PF | chip.C_AF
    assert board.read(chip.REG_C) == 0
    assert (board.line.rises, board.alarms, board.clock.arms) == (0, 0, 0)


def test_enabling_an_interrupt_whose_flag_is_set_raises_it() -> None:
    board = Board()
    board.alarm_at(DONT_CARE, DONT_CARE, DONT_CARE)
    board.clock.advance(SECOND_NS)

    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    assert (board.line.level, board.alarms) == (True, 1)


def test_the_alarm_comes_at_its_time_once_a_day() -> None:
    board = Board()
    board.alarm_at(0x13, 0x14, 0x20)
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    board.clock.advance(5 * SECOND_NS - 1)
    early = board.alarms
    board.clock.advance(1)
    at_time = board.alarms, board.line.level, board.read(chip.REG_C) & ~chip.C_PF
    board.clock.advance(86400 * SECOND_NS - 1)
    next_day_early = board.alarms
    board.clock.advance(1)

    assert early == 0
    assert at_time == (1, True, chip.C_IRQF | chip.C_AF | chip.C_UF)
    assert (next_day_early, board.alarms) == (1, 2)


def test_an_alarm_with_dont_care_comes_on_the_next_second() -> None:
    # The steps of kvm-unit-tests' s3.
    board = Board()
    board.read(chip.REG_C)
    board.alarm_at(DONT_CARE, DONT_CARE, DONT_CARE)
    board.write(chip.REG_B, board.read(chip.REG_B) | chip.B_AIE)

    board.clock.advance(SECOND_NS)

    assert board.alarms == 1


def test_an_unacknowledged_alarm_calls_once() -> None:
    board = Board()
    board.alarm_at(DONT_CARE, DONT_CARE, DONT_CARE)
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    board.clock.advance(5 * SECOND_NS)
    unread = board.alarms
    board.read(chip.REG_C)
    board.clock.advance(SECOND_NS)

    assert (unread, board.alarms) == (1, 2)


def test_a_write_while_the_alarm_is_unacknowledged_calls_nobody() -> None:
    board = Board()
    board.alarm_at(0x13, 0x14, 0x16)
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)
    board.clock.advance(SECOND_NS)

    board.write(1, 0x17)
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE | chip.B_PIE)

    assert board.alarms == 1


def test_an_impossible_alarm_never_comes() -> None:
    board = Board()
    board.alarm_at(0x99, 0, 0)
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    board.clock.advance(2 * 86400 * SECOND_NS)

    assert board.alarms == 0
    assert not board.read(chip.REG_C) & chip.C_AF


def test_an_alarm_survives_that_the_wall_clock_is_set_forward() -> None:
    board = Board()
    board.alarm_at(0x13, 0x30, 0x00)  # in 15 minutes and 45 seconds
    board.write(chip.REG_B, chip.B_24 | chip.B_AIE)

    board.clock.wall_start_ns += 1000 * SECOND_NS
    board.clock.advance(chip.WALL_CLOCK_CHECK_NS)

    assert board.alarms == 1


def test_a_wall_clock_set_back_raises_nothing_and_shows() -> None:
    board = Board()
    board.clock.wall_start_ns -= 3600 * SECOND_NS

    assert board.read(chip.REG_C) == 0
    assert board.time() == (0x12, 0x14, 0x15)


@pytest.mark.parametrize(("rate", "hz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)])
def test_periodic_interrupt_rates(rate: int, hz: int) -> None:
    board = Board()
    board.write(chip.REG_A, 0x20 | rate)
    board.write(chip.REG_B, chip.B_24 | chip.B_PIE)
    count = 0

    for _ in range(hz):
        deadline_ns = board.clock.next_deadline_ns()
        assert deadline_ns is not None
        board.clock.advance(deadline_ns - board.clock.now_ns())
        count += bool(board.read(chip.REG_C) & chip.C_PF)

    assert count == hz
    assert board.clock.now_ns() == SECOND_NS


def test_the_first_period_ends_on_the_time_bases_grid() -> None:
    board = Board()
    board.clock.advance(SECOND_NS // 4 + SECOND_NS // 8)

    board.write(chip.REG_A, 0x20 | 15)  # 2 Hz
    board.read(chip.REG_C)  # forgets the periods of the rate before
    board.write(chip.REG_B, chip.B_24 | chip.B_PIE)

    assert board.clock.next_deadline_ns() == SECOND_NS // 2
    board.clock.advance(SECOND_NS // 8)
    assert (board.line.level, board.read(chip.REG_C)) == (True, chip.C_IRQF | chip.C_PF)


@pytest.mark.parametrize("control", [0x20, 0x66, 0x76])
def test_rate_0_or_a_held_divider_is_off(control: int) -> None:
    board = Board()
    board.write(chip.REG_A, control)
    board.write(chip.REG_B, chip.B_24 | chip.B_PIE)

    board.clock.advance(SECOND_NS)

    assert board.line.rises == 0
    assert not board.read(chip.REG_C) & chip.C_PF


def test_an_unread_periodic_interrupt_costs_no_further_timers() -> None:
    board = Board()
    board.write(chip.REG_A, 0x23)  # 8192 Hz
    board.write(chip.REG_B, chip.B_24 | chip.B_PIE)

    board.clock.advance(10 * SECOND_NS)

    assert board.line.rises == 1
    assert board.clock.arms <= 2


def test_disabling_the_last_interrupt_stops_the_timer() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_24 | chip.B_PIE)

    board.write(chip.REG_B, chip.B_24)

    assert board.clock.next_deadline_ns() is None


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    for access in accesses:
        board.clock.advance(access[3])
        if access[0] & 1:  # else the index would hardly ever be one of the chip's registers
            board.device.write(0, 1, access[0] >> 1)
        carry_out(access, [(board.device, 0), (board.device, 1), (board.device, 1)])
