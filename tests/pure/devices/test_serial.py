# SPDX-License-Identifier: Apache-2.0
"""16550A: registers, transmitting and its interrupt (NS16550A data sheet)."""

from __future__ import annotations

from hypothesis import given

from vmm.machine.devices import serial as uart
from vmm.machine.devices.serial_receiver import WIRE_BYTES

from .fuzz import ACCESSES, carry_out
from .serial_board import DLL, DLM, FCR, IDLE, IER, IIR, LCR, LSR, MCR, RBR, SCR, THR, Board, print_text


def test_registers_after_reset() -> None:
    board = Board()

    values = [board.read(register) for register in range(8)]

    # RBR empty, IER off, no interrupt pending, LCR and MCR 0, transmitter idle, peer there, scratch 0
    assert values == [0, 0, uart.IIR_NONE, 0, 0, IDLE, uart.MSR_CONNECTED, 0]


def test_reset_brings_every_register_back() -> None:
    board = Board()
    for register in (IER, FCR, LCR, MCR, SCR):
        board.write(register, 0x1F)

    board.port.reset()

    assert [board.read(register) for register in range(8)] == [0, 0, 1, 0, 0, IDLE, uart.MSR_CONNECTED, 0]


def test_reset_drops_the_line() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_THRI)
    high = board.line.level

    board.port.reset()

    assert (high, board.line.level) == (True, False)


def test_reset_leaves_nobody_waiting_for_the_timeout() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RDI)

    board.port.reset()
    board.enable_fifo(trigger_bits=3)
    board.port.receive(b"x")

    assert board.clock.next_deadline_ns() is None


def test_a_port_that_is_reset_in_loopback_receives_again() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)

    board.port.reset()
    board.port.receive(b"x")

    assert board.read(RBR) == ord("x")


def test_scratch_lcr_and_mcr_hold_what_was_written() -> None:
    board = Board()

    for register in (SCR, LCR, MCR):
        board.write(register, 0x15)

    assert [board.read(register) for register in (SCR, LCR, MCR)] == [0x15] * 3


def test_unused_bits_of_ier_and_mcr_read_as_zero() -> None:
    board = Board()

    board.write(IER, 0xF0)
    board.write(MCR, 0xE0)

    assert (board.read(IER), board.read(MCR)) == (0, 0)


def test_divisor_latch_lies_under_rbr_and_ier() -> None:
    board = Board()

    board.write(LCR, uart.LCR_DLAB)
    board.write(DLL, 0x34)
    board.write(DLM, 0x12)
    latch = board.read(DLL), board.read(DLM)
    board.write(LCR, 0)

    assert latch == (0x34, 0x12)
    assert (board.read(RBR), board.read(IER)) == (0, 0)
    assert board.out == []


# Transmitting


def test_a_line_reaches_the_sink_at_its_newline() -> None:
    board = Board()

    print_text(board, b"hello\n")

    assert board.out == [b"hello\n"]


def test_a_prompt_reaches_the_sink_within_20_ms() -> None:
    board = Board()

    print_text(board, b"login: ")
    at_once = list(board.out)
    board.clock.advance(20_000_000)

    assert at_once == []
    assert board.out == [b"login: "]


def test_a_long_line_is_handed_on_at_1_kib() -> None:
    board = Board()

    print_text(board, b"x" * 1025)

    assert board.out == [b"x" * 1024]


def test_flush_hands_on_the_rest() -> None:
    board = Board()
    print_text(board, b"end")

    board.port.flush()
    board.port.flush()

    assert board.out == [b"end"]


def test_reset_loses_no_output() -> None:
    board = Board()
    print_text(board, b"going down")

    board.port.reset()

    assert board.out == [b"going down"]


def test_the_idle_timer_is_armed_once_for_many_bytes() -> None:
    board = Board()

    print_text(board, b"x" * 200)

    assert board.clock.arms == 1


def test_transmitter_is_ready_again_after_each_byte() -> None:
    board = Board()

    board.write(THR, 0x41)

    assert board.read(LSR) == IDLE


# THRE interrupt


def test_enabling_the_thre_interrupt_raises_it() -> None:
    board = Board()

    board.enable_interrupts(uart.IER_THRI)

    assert board.line.level
    assert board.read(IIR) == uart.IIR_THRE


def test_reading_iir_clears_the_thre_interrupt() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_THRI)

    board.read(IIR)

    assert not board.line.level
    assert board.read(IIR) == uart.IIR_NONE


def test_thre_interrupt_comes_again_when_switched_off_and_on() -> None:
    # Linux takes a port whose THRE interrupt does not come back so for a broken one.
    board = Board()
    board.enable_interrupts(uart.IER_THRI)
    board.read(IIR)

    board.write(IER, 0)
    board.write(IER, uart.IER_THRI)

    assert board.read(IIR) == uart.IIR_THRE


def test_each_transmitted_byte_makes_a_new_edge() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_THRI)

    print_text(board, b"ab")

    assert board.line.rises == 3  # enabling, and one for each byte
    assert board.read(IIR) == uart.IIR_THRE


def test_writing_the_same_ier_again_raises_nothing() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_THRI)
    board.read(IIR)

    board.write(IER, uart.IER_THRI)

    assert not board.line.level


# Sizes


def test_a_wide_access_is_split_into_bytes() -> None:
    board = Board()

    board.port.write(6, 2, 0x5A00)  # MSR is read-only, SCR gets 0x5a

    assert board.read(SCR) == 0x5A
    assert board.port.read(6, 2) == 0x5A << 8 | uart.MSR_CONNECTED


def test_bytes_behind_the_last_register_read_as_ones() -> None:
    board = Board()

    assert board.port.read(7, 4) == 0xFFFFFF00


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    for access in accesses:
        board.clock.advance(access[3])
        accepted = board.port.receive(b"\x00input\xff" * 40)
        assert 0 <= accepted <= 280
        carry_out(access, [(board.port, register) for register in range(8)])
        assert 0 <= board.port.can_receive() <= WIRE_BYTES
