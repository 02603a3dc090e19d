# SPDX-License-Identifier: Apache-2.0
"""MC146818 RTC: time, update cycle, alarm, periodic interrupt, flags, CMOS memory (MC146818A data sheet)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given

from vmm.machine.devices import rtc as chip
from vmm.machine.devices.rtc import Rtc

from .fakes import SECOND_NS, FakeClock, FakeLine
from .fuzz import ACCESSES, carry_out

GIB, MIB = 1 << 30, 1 << 20

# Sunday, 2024-02-25 13:14:15 UTC
START = int(datetime(2024, 2, 25, 13, 14, 15, tzinfo=UTC).timestamp())
START_BCD = {0: 0x15, 2: 0x14, 4: 0x13, 6: 0x01, 7: 0x25, 8: 0x02, 9: 0x24, 0x32: 0x20}

DONT_CARE = 0xC0


class Board:
    def __init__(self, low: int = 3 * GIB, high: int = 2 * GIB) -> None:
        self.clock = FakeClock(wall_ns=START * SECOND_NS)
        self.line = FakeLine()
        self.alarms = 0
        self.device = Rtc(self.line, self.clock, low, high, self._alarm)
        self.device.reset()

    def _alarm(self) -> None:
        self.alarms += 1

    def read(self, index: int) -> int:
        self.device.write(0, 1, index)
        return self.device.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.device.write(0, 1, index)
        self.device.write(1, 1, value)

    def time(self) -> tuple[int, int, int]:
        return self.read(4), self.read(2), self.read(0)

    def alarm_at(self, hour: int, minute: int, second: int) -> None:
        for index, value in ((1, second), (3, minute), (5, hour)):
            self.write(index, value)


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


def test_a_set_time_survives_a_reset() -> None:
    board = Board()
    board.write(4, 0x20)

    board.device.reset()

    assert board.time() == (0x20, 0x14, 0x15)


def test_reset_starts_a_stopped_clock() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_SET)

    board.device.reset()
    board.clock.advance(SECOND_NS)

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


def test_control_registers_after_reset() -> None:
    board = Board()

    values = [board.read(index) for index in (chip.REG_A, chip.REG_B, chip.REG_C, chip.REG_D)]

    assert values == [0x26, chip.B_24, 0, chip.D_VRT]


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


def test_rate_0_is_off() -> None:
    board = Board()
    board.write(chip.REG_A, 0x20)
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


def test_reset_disables_interrupts_and_drops_the_line() -> None:
    board = Board()
    board.write(chip.REG_B, chip.B_24 | chip.B_UIE)
    board.clock.advance(SECOND_NS)

    board.device.reset()
    board.clock.advance(5 * SECOND_NS)

    assert not board.line.level
    assert board.read(chip.REG_B) == chip.B_24


# CMOS


def test_cmos_memory_sizes() -> None:
    board = Board(low=3 * GIB, high=2 * GIB)

    def word(index: int) -> int:
        return board.read(index) | board.read(index + 1) << 8

    assert word(0x15) == 640
    assert (word(0x17), word(0x30)) == (0xFFFF, 0xFFFF)  # 64 MiB - 1 KiB is all it can say
    assert word(0x34) == (3 * GIB - 16 * MIB) // 65536
    assert word(0x5B) | board.read(0x5D) << 16 == 2 * GIB // 65536


def test_cmos_of_a_small_machine() -> None:
    board = Board(low=8 * MIB, high=0)

    assert board.read(0x17) | board.read(0x18) << 8 == 7 * 1024
    assert [board.read(index) for index in (0x34, 0x35, 0x5B, 0x5C, 0x5D)] == [0] * 5


def test_cmos_checksum() -> None:
    board = Board()

    assert board.read(0x2E) << 8 | board.read(0x2F) == sum(board.read(index) for index in range(0x10, 0x2E))


def test_the_shutdown_byte_survives_a_reset() -> None:
    board = Board()
    board.write(chip.CMOS_SHUTDOWN, 0x0A)

    board.device.reset()

    assert board.read(chip.CMOS_SHUTDOWN) == 0x0A


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    for access in accesses:
        board.clock.advance(access[3])
        if access[0] & 1:  # else the index would hardly ever be one of the chip's registers
            board.device.write(0, 1, access[0] >> 1)
        carry_out(access, [(board.device, 0), (board.device, 1), (board.device, 1)])
