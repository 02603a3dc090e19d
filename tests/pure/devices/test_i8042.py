# SPDX-License-Identifier: Apache-2.0
"""Keyboard controller, its keyboard, port 0x92 (PC/AT and PS/2 technical references)."""

from __future__ import annotations

import pytest
from hypothesis import given

from vmm.machine.devices import i8042 as kbc
from vmm.machine.devices.i8042 import I8042, I8042Command, SystemControlPort

from .fakes import FakeControl, FakeLine
from .fuzz import ACCESSES, carry_out

RESET = ("reset", 0)
ACK, RESEND = 0xFA, 0xFE


class Board:
    def __init__(self) -> None:
        self.line = FakeLine()
        self.control = FakeControl()
        self.data = I8042(self.line, self.control)
        self.commands = I8042Command(self.data)
        self.port_92 = SystemControlPort(self.data, self.control)
        self.reset()

    def reset(self) -> None:
        for device in (self.data, self.commands, self.port_92):
            device.reset()

    def status(self) -> int:
        return self.commands.read(0, 1)

    def command(self, command: int, parameter: int | None = None) -> None:
        self.commands.write(0, 1, command)
        if parameter is not None:
            self.data.write(0, 1, parameter)

    def answer(self) -> list[int]:
        """What a driver reads until the output buffer is empty."""
        answer = []
        while self.status() & kbc.STATUS_OBF:
            answer.append(self.data.read(0, 1))
        return answer

    def ask(self, command: int, parameter: int | None = None) -> list[int]:
        self.command(command, parameter)
        return self.answer()

    def ask_keyboard(self, *sent: int) -> list[int]:
        for byte in sent:
            self.data.write(0, 1, byte)
        return self.answer()


def test_nothing_waits_after_reset() -> None:
    board = Board()

    assert board.status() == kbc.STATUS_UNLOCKED | kbc.STATUS_SYS
    assert not board.line.level


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (0x20, [kbc.CTR_AFTER_POST]),
        (0xA4, [0xF1]),
        (0xAA, [0x55]),
        (0xAB, [0x00]),
        (0xC0, [0x80]),
        (0xD0, [0xC3]),  # lines high, A20 on, reset inactive
        (0xE0, [0x00]),
        (0xAE, []),
        (0x00, []),
        (0xEF, []),
    ],
)
def test_controller_commands(command: int, answer: list[int]) -> None:
    board = Board()

    assert board.ask(command) == answer
    assert board.control.calls == []


def test_controller_ram_holds_what_was_written() -> None:
    board = Board()

    for index in range(1, 32):
        board.command(0x60 + index, index * 3)

    assert [board.ask(0x20 + index) for index in range(1, 32)] == [[index * 3] for index in range(1, 32)]


def test_status_tells_whether_the_last_write_was_a_command() -> None:
    board = Board()

    board.command(0xAE)
    after_command = board.status() & kbc.STATUS_COMMAND
    board.data.write(0, 1, 0xEE)

    assert (after_command, board.status() & kbc.STATUS_COMMAND) == (kbc.STATUS_COMMAND, 0)


def test_the_system_flag_follows_the_command_byte() -> None:
    board = Board()

    board.command(0x60, 0)
    cleared = board.status() & kbc.STATUS_SYS
    board.ask(0xAA)

    assert (cleared, board.status() & kbc.STATUS_SYS) == (0, kbc.STATUS_SYS)


def test_a_new_command_forgets_an_expected_parameter() -> None:
    board = Board()

    board.command(0x60)
    board.command(0xAE)
    answer = board.ask_keyboard(0xEE)

    assert answer == [0xEE]  # it went to the keyboard
    assert board.ask(0x20) == [kbc.CTR_AFTER_POST]


# Interrupt


def test_each_byte_raises_the_line_anew() -> None:
    board = Board()

    board.ask_keyboard(0xF2)  # three bytes of answer

    assert board.line.rises == 3
    assert not board.line.level


def test_no_interrupt_when_the_command_byte_disables_it() -> None:
    board = Board()
    board.command(0x60, 0)

    board.data.write(0, 1, 0xEE)

    assert board.status() & kbc.STATUS_OBF
    assert not board.line.level


def test_enabling_the_interrupt_with_a_byte_waiting_raises_it() -> None:
    board = Board()
    board.command(0x60, 0)
    board.data.write(0, 1, 0xEE)

    board.command(0x60, kbc.CTR_KBD_INT)

    assert board.line.level


# Keyboard


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([0xFF], [ACK, 0xAA]),
        ([0xF2], [ACK, 0xAB, 0x41]),  # 0x83 translated to scan set 1
        ([0xEE], [0xEE]),
        ([0xED, 0x07], [ACK, ACK]),
        ([0xF3, 0x00], [ACK, ACK]),
        ([0xF4], [ACK]),
        ([0xF5], [ACK]),
        ([0xF6], [ACK]),
        ([0xF8], [ACK]),
        ([0xFB, 0x1C], [ACK, ACK]),
        ([0xF0, 0x00], [ACK, ACK, 0x41]),  # scan set 2, translated
        ([0xF0, 0x03, 0xF0, 0x00], [ACK, ACK, ACK, ACK, 0x3F]),
        ([0xF0, 0x04], [ACK, RESEND]),
        ([0x12], [RESEND]),
        ([0xED, 0xF4], [ACK, ACK]),  # a command in place of the parameter
        ([0xF2, 0xFE], [ACK, 0xAB, 0x41, 0x41]),  # once more, please
    ],
)
def test_keyboard_commands(sent: list[int], answer: list[int]) -> None:
    assert Board().ask_keyboard(*sent) == answer


def test_without_translation_the_identity_is_raw() -> None:
    board = Board()
    board.command(0x60, kbc.CTR_KBD_INT)

    assert board.ask_keyboard(0xF2) == [ACK, 0xAB, 0x83]


def test_a_disabled_keyboard_keeps_its_bytes_and_the_controller_answers() -> None:
    board = Board()
    board.data.write(0, 1, 0xF2)

    board.command(0xAD)
    first = board.data.read(0, 1)  # was in the output buffer already
    held = board.status() & kbc.STATUS_OBF
    command_byte = board.ask(0x20)
    board.command(0xAE)

    assert (first, held) == (ACK, 0)
    assert command_byte == [kbc.CTR_AFTER_POST | kbc.CTR_KBD_DISABLE]
    assert board.answer() == [0xAB, 0x41]


def test_sending_to_the_keyboard_enables_it() -> None:
    board = Board()
    board.command(0xAD)

    assert board.ask_keyboard(0xEE) == [0xEE]
    assert board.ask(0x20) == [kbc.CTR_AFTER_POST]


def test_the_output_buffer_can_be_written() -> None:
    assert Board().ask(0xD2, 0x5A) == [0x5A]


def test_an_empty_buffer_gives_the_last_byte_again() -> None:
    board = Board()
    board.ask(0xAA)

    assert board.data.read(0, 1) == 0x55


def test_unread_answers_are_bounded() -> None:
    board = Board()
    for _ in range(1000):
        board.data.write(0, 1, 0xF2)
        board.command(0xAA)

    assert len(board.answer()) == 1 + 2 * kbc.OUTPUT_BYTES


# No mouse


def test_a_driver_finds_at_once_that_there_is_no_mouse() -> None:
    # Linux sends 0x5a through the auxiliary loop; a byte without the AUX status bit means no such interface.
    board = Board()

    board.command(0xD3, 0x5A)
    looped = board.status() & (kbc.STATUS_OBF | kbc.STATUS_AUX)
    board.answer()

    assert looped == kbc.STATUS_OBF
    assert board.ask(0xA9) == [0x03]


def test_a_byte_for_the_mouse_is_answered_with_a_timeout() -> None:
    board = Board()

    board.command(0xD4, 0xF2)

    assert board.status() & 0x61 == kbc.STATUS_OBF | kbc.STATUS_AUX | kbc.STATUS_TIMEOUT
    assert not board.line.level  # the keyboard's line is not the mouse's
    assert board.answer() == [RESEND]


def test_the_auxiliary_clock_bit_toggles() -> None:
    board = Board()

    board.command(0xA8)
    enabled = board.ask(0x20)
    board.command(0xA7)

    assert (enabled, board.ask(0x20)) == ([kbc.CTR_AFTER_POST & ~0x20], [kbc.CTR_AFTER_POST])


# Reset and A20


@pytest.mark.parametrize("command", [0xF0, 0xFE])
def test_pulsing_the_reset_line_resets(command: int) -> None:
    board = Board()

    board.command(command)

    assert board.control.calls == [RESET]


def test_pulsing_nothing_does_nothing() -> None:
    board = Board()

    board.command(0xFF)

    assert board.control.calls == []


def test_the_output_port_resets_and_switches_a20() -> None:
    board = Board()

    board.command(0xD1, 0xDD)
    a20_off = board.ask(0xD0), board.port_92.read(0, 1)
    board.command(0xD1, 0xDF)
    a20_on = board.ask(0xD0), board.port_92.read(0, 1)
    calls = list(board.control.calls)
    board.command(0xD1, 0xDE)

    assert a20_off == ([0xC1], 0x00)
    assert a20_on == ([0xC3], 0x02)
    assert calls == []
    assert board.control.calls == [RESET]


def test_a20_commands() -> None:
    board = Board()

    board.command(0xDD)
    off = board.data.a20_enabled
    board.command(0xDF)

    assert (off, board.data.a20_enabled) == (False, True)


def test_port_92_resets_when_bit_0_rises() -> None:
    # kvm-unit-tests' init: clear bit 0, then set it.
    board = Board()

    board.port_92.write(0, 1, board.port_92.read(0, 1) & ~1)
    before = list(board.control.calls)
    board.port_92.write(0, 1, board.port_92.read(0, 1) | 1)
    board.port_92.write(0, 1, board.port_92.read(0, 1) | 1)

    assert before == []
    assert board.control.calls == [RESET]
    assert board.port_92.read(0, 1) == 0x03


def test_port_92_switches_a20() -> None:
    board = Board()

    board.port_92.write(0, 1, 0)

    assert not board.data.a20_enabled
    assert board.ask(0xD0) == [0xC1]


def test_reset_brings_everything_back() -> None:
    board = Board()
    board.command(0x60, 0)
    board.command(0xDD)
    board.command(0x65, 0x5A)
    board.port_92.write(0, 1, 1)
    board.ask_keyboard(0xF0, 3)
    board.data.write(0, 1, 0xF2)
    board.data.write(0, 1, 0xF0)  # and the keyboard expects a parameter
    board.command(0x20)
    board.command(0x60)

    board.reset()

    assert board.answer() == []
    assert not board.line.level
    assert board.port_92.read(0, 1) == 0x02
    assert (board.ask(0x20), board.ask(0x25)) == ([kbc.CTR_AFTER_POST], [0])
    assert board.ask_keyboard(0x02) == [RESEND]
    assert board.ask_keyboard(0xF0, 0) == [ACK, ACK, 0x41]


def test_bytes_behind_the_ports_are_not_decoded() -> None:
    board = Board()

    assert board.commands.read(0, 2) == 0xFF00 | kbc.STATUS_UNLOCKED | kbc.STATUS_SYS
    assert board.port_92.read(0, 2) == 0xFF02
    assert board.data.read(1, 1) == 0xFF
    board.commands.write(0, 2, 0xFEAE)
    board.port_92.write(0, 2, 0x0102)
    board.data.write(1, 1, 0xF2)
    assert board.control.calls == []
    assert board.answer() == []


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    for access in accesses:
        carry_out(access, [(board.data, 0), (board.commands, 0), (board.port_92, 0)])

    assert len(board.answer()) <= 1 + 2 * kbc.OUTPUT_BYTES
    assert set(board.control.calls) <= {RESET}
