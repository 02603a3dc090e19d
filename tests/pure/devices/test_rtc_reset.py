# SPDX-License-Identifier: Apache-2.0
"""What a reset does to the RTC, and what the CMOS memory says of the machine."""

from __future__ import annotations

import pytest

from vmm.machine.devices import rtc as chip

from .fakes import SECOND_NS
from .rtc_board import GIB, MIB, Board


def test_a_set_time_survives_a_reset() -> None:
    board = Board()
    board.write(4, 0x20)

    board.device.reset()

    assert board.time() == (0x20, 0x14, 0x15)


@pytest.mark.parametrize(("register", "value"), [(chip.REG_B, chip.B_SET), (chip.REG_A, 0x76)])
def test_reset_starts_a_stopped_clock(register: int, value: int) -> None:
    board = Board()
    board.write(register, value)

    board.device.reset()
    board.clock.advance(SECOND_NS)

    assert board.read(0) == 0x16


def test_control_registers_after_reset() -> None:
    board = Board()
    board.write(chip.REG_A, 0x2F)
    board.write(chip.REG_B, chip.B_DM | chip.B_PIE | chip.B_SQWE)

    board.device.reset()

    values = [board.read(index) for index in (chip.REG_A, chip.REG_B, chip.REG_C, chip.REG_D)]

    assert values == [0x26, chip.B_24, 0, chip.D_VRT]


def test_reset_clears_flags() -> None:
    board = Board()
    board.alarm_at(0x13, 0x14, 0x16)
    board.clock.advance(SECOND_NS)

    board.device.reset()

    assert board.read(chip.REG_C) == 0


def test_reset_selects_the_seconds_and_unmasks_nmi() -> None:
    board = Board()
    board.device.write(0, 1, 0x80 | chip.REG_D)

    board.device.reset()

    assert not board.device.nmi_masked
    assert board.device.read(1, 1) == 0x15


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

    assert board.read(0x14) == 0x02  # a coprocessor, no floppies
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
