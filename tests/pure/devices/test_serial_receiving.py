# SPDX-License-Identifier: Apache-2.0
"""16550A: FIFO, character timeout, line status, flow control towards the outside (NS16550A data sheet)."""

from __future__ import annotations

import threading
import time

import pytest

from vmm.machine.devices import serial as uart
from vmm.machine.devices.serial_receiver import (
    FIFO_BYTES,
    LSR_BI,
    LSR_DR,
    LSR_FIFO_ERROR,
    LSR_OE,
    ROOM_AGAIN_BYTES,
    WIRE_BYTES,
)

from .serial_board import CHARACTER_NS, DLL, DLM, FCR, IDLE, IIR, LCR, LSR, MCR, RBR, THR, Board, print_text


def test_received_byte_shows_in_lsr_and_rbr() -> None:
    board = Board()

    accepted = board.port.receive(b"A")

    assert accepted == 1
    assert board.read(LSR) == IDLE | LSR_DR
    assert board.read(RBR) == ord("A")
    assert board.read(LSR) == IDLE


def test_without_fifo_bytes_come_one_by_one_and_none_is_lost() -> None:
    board = Board()

    board.port.receive(b"abc")

    assert bytes(board.read(RBR) for _ in range(3)) == b"abc"
    assert board.read(LSR) == IDLE


def test_receive_interrupt_stands_until_the_byte_is_read() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RDI)

    board.port.receive(b"A")
    raised = board.line.level, board.read(IIR)
    board.read(RBR)

    assert raised == (True, uart.IIR_RDA)
    assert not board.line.level


def test_each_trigger_level() -> None:
    for bits, level in enumerate((1, 4, 8, 14)):
        board = Board()
        board.enable_interrupts(uart.IER_RDI)
        board.enable_fifo(bits)

        board.port.receive(b"x" * (level - 1))
        below = board.line.level
        board.port.receive(b"x")

        assert (below, board.line.level) == (False, True), f"trigger level {level}"
        assert board.read(IIR) == uart.IIR_FIFO_ENABLED | uart.IIR_RDA


def test_iir_tells_that_the_fifos_are_on() -> None:
    board = Board()

    board.enable_fifo()
    on = board.read(IIR)
    board.write(FCR, 0)

    assert (on, board.read(IIR)) == (uart.IIR_FIFO_ENABLED | uart.IIR_NONE, uart.IIR_NONE)


def test_character_timeout_comes_after_four_character_times() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RDI)
    board.enable_fifo(3)

    board.port.receive(b"ab")
    board.clock.advance(4 * CHARACTER_NS - 1)
    early = board.line.level
    board.clock.advance(1)

    assert (early, board.line.level) == (False, True)
    assert board.read(IIR) == uart.IIR_FIFO_ENABLED | uart.IIR_TIMEOUT


def test_reading_rbr_clears_the_timeout_and_starts_it_anew() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RDI)
    board.enable_fifo(3)
    board.port.receive(b"ab")
    board.clock.advance(4 * CHARACTER_NS)

    board.read(RBR)
    after_read = board.line.level
    board.clock.advance(4 * CHARACTER_NS)
    timed_out_again = board.line.level
    board.read(RBR)
    board.clock.advance(8 * CHARACTER_NS)

    assert (after_read, timed_out_again, board.line.level) == (False, True, False)


def test_a_further_byte_defers_the_timeout() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RDI)
    board.enable_fifo(3)

    board.port.receive(b"a")
    board.clock.advance(3 * CHARACTER_NS)
    board.port.receive(b"b")
    board.clock.advance(3 * CHARACTER_NS)
    deferred = board.line.level
    board.clock.advance(CHARACTER_NS)

    assert (deferred, board.line.level) == (False, True)


def test_timeout_follows_the_baud_rate_and_the_frame() -> None:
    board = Board()
    board.write(LCR, uart.LCR_DLAB)
    board.write(DLL, 1)
    board.write(LCR, 0x0F)  # 8 data bits, parity, 2 stop bits: 12 bits with the start bit
    board.enable_interrupts(uart.IER_RDI)
    board.enable_fifo(3)
    character_ns = 12 * 10**9 // 115200

    board.port.receive(b"a")
    board.clock.advance(4 * character_ns - 1)
    early = board.line.level
    board.clock.advance(1)

    assert (early, board.line.level) == (False, True)


@pytest.mark.parametrize(
    ("low", "high", "character_ns"),
    [(1, 1, 257 * 7 * 10**9 // 115200), (0, 0, 65536 * 7 * 10**9 // 115200)],  # divisor 0 counts to 65536
)
def test_timeout_follows_both_halves_of_the_divisor(low: int, high: int, character_ns: int) -> None:
    board = Board()
    board.enable_fifo(trigger_bits=3)
    board.enable_interrupts(uart.IER_RDI)
    board.write(LCR, uart.LCR_DLAB)
    board.write(DLL, low)
    board.write(DLM, high)

    board.port.receive(b"x")

    assert board.clock.next_deadline_ns() == 4 * character_ns


@pytest.mark.parametrize("control", [uart.FCR_ENABLE | uart.FCR_CLEAR_RX | 0xC0, 0])
def test_clearing_the_fifo_ends_its_timeout(control: int) -> None:
    board = Board()
    board.enable_fifo(trigger_bits=3)
    board.enable_interrupts(uart.IER_RDI)
    board.port.receive(b"x")
    board.clock.advance(5 * CHARACTER_NS)
    before = board.read(IIR) & 0x0F

    board.write(FCR, control)

    assert (before, board.read(IIR) & 0x0F) == (uart.IIR_TIMEOUT, uart.IIR_NONE)
    assert not board.line.level


@pytest.mark.parametrize("control", [uart.FCR_ENABLE | uart.FCR_CLEAR_RX | 0xC0, 0])
def test_a_fifo_cleared_before_its_timeout_has_none(control: int) -> None:
    board = Board()
    board.enable_fifo(trigger_bits=3)
    board.enable_interrupts(uart.IER_RDI)
    board.port.receive(b"x")
    board.clock.advance(3 * CHARACTER_NS)

    board.write(FCR, control)
    board.clock.advance(5 * CHARACTER_NS)

    assert (board.read(IIR) & 0x0F, board.read(LSR)) == (uart.IIR_NONE, IDLE)
    assert not board.line.level


def test_a_reset_before_the_timeout_leaves_none_to_the_next_guest() -> None:
    board = Board()
    board.enable_fifo(trigger_bits=3)
    board.enable_interrupts(uart.IER_RDI)
    board.port.receive(b"x")

    board.port.reset()
    board.clock.advance(5 * CHARACTER_NS)
    board.enable_interrupts(uart.IER_RDI)

    assert board.read(IIR) & 0x0F == uart.IIR_NONE
    assert not board.line.level


def test_what_arrives_after_a_clear_has_its_whole_timeout() -> None:
    board = Board()
    board.enable_fifo(trigger_bits=3)
    board.enable_interrupts(uart.IER_RDI)
    board.port.receive(b"x")
    board.clock.advance(3 * CHARACTER_NS)

    board.write(FCR, uart.FCR_ENABLE | uart.FCR_CLEAR_RX | 0xC0)
    board.port.receive(b"y")
    board.clock.advance(4 * CHARACTER_NS - 1)
    early = board.line.level
    board.clock.advance(1)

    assert (early, board.line.level) == (False, True)


def test_no_timeout_in_16450_mode_or_with_the_interrupt_off() -> None:
    board = Board()
    board.port.receive(b"a")
    board.enable_fifo()
    board.port.receive(b"b")

    board.clock.advance(100 * CHARACTER_NS)

    assert board.clock.arms == 0


def test_enabling_the_interrupt_later_still_gives_the_timeout() -> None:
    board = Board()
    board.enable_fifo(3)
    board.port.receive(b"a")

    board.enable_interrupts(uart.IER_RDI)
    board.clock.advance(4 * CHARACTER_NS)

    assert board.read(IIR) & 0x0F == uart.IIR_TIMEOUT


def test_clearing_the_fifo_drops_what_is_in_it_but_not_what_is_on_the_wire() -> None:
    board = Board()
    board.enable_fifo()
    board.port.receive(bytes(range(FIFO_BYTES + 3)))

    board.write(FCR, uart.FCR_ENABLE | uart.FCR_CLEAR_RX)

    assert [board.read(RBR) for _ in range(3)] == [16, 17, 18]
    assert board.read(LSR) == IDLE


def test_switching_the_fifo_on_clears_it() -> None:
    board = Board()
    board.port.receive(b"a")

    board.enable_fifo()

    assert board.read(LSR) == IDLE


# Flow control towards the outside


def test_the_wire_is_bounded() -> None:
    board = Board()

    accepted = board.port.receive(b"x" * (2 * WIRE_BYTES))

    assert accepted == WIRE_BYTES
    assert board.port.can_receive() == 1  # one byte went on into RBR
    assert board.port.receive(b"xy") == 1


def test_room_again_is_called_once_when_half_of_the_wire_is_free() -> None:
    board = Board()
    calls: list[int] = []
    board.port.room_again = lambda: calls.append(board.port.can_receive())
    board.port.receive(b"x" * (WIRE_BYTES + 100))

    for _ in range(WIRE_BYTES):
        board.read(RBR)

    assert calls == [ROOM_AGAIN_BYTES]


def test_room_again_is_called_although_a_later_byte_was_taken() -> None:
    board = Board()
    calls: list[int] = []
    board.port.room_again = lambda: calls.append(board.port.can_receive())
    board.port.receive(bytes(2 * WIRE_BYTES))
    board.read(RBR)
    board.port.receive(b"x")

    while board.read(LSR) & LSR_DR:
        board.read(RBR)

    assert calls == [ROOM_AGAIN_BYTES]


def test_room_again_is_not_called_when_nothing_was_refused() -> None:
    board = Board()
    calls: list[int] = []
    board.port.room_again = lambda: calls.append(1)
    board.port.receive(b"x" * WIRE_BYTES)

    for _ in range(WIRE_BYTES):
        board.read(RBR)

    assert calls == []


# Line status


def test_a_full_fifo_alone_is_no_overrun() -> None:
    board = Board()
    board.enable_fifo()

    board.port.receive(b"x" * 1000)

    assert board.read(LSR) == IDLE | LSR_DR


def test_loopback_overruns_the_fifo_and_keeps_its_contents() -> None:
    board = Board()
    board.enable_fifo()
    board.write(MCR, uart.MCR_LOOP)

    for value in range(FIFO_BYTES + 1):
        board.write(THR, value)

    assert board.read(LSR) == IDLE | LSR_DR | LSR_OE
    assert board.read(LSR) == IDLE | LSR_DR  # reading it cleared OE
    assert [board.read(RBR) for _ in range(FIFO_BYTES)] == list(range(FIFO_BYTES))
    assert board.read(LSR) == IDLE


def test_overrun_without_fifo_overwrites_rbr() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)

    print_text(board, b"ab")

    assert board.read(LSR) & LSR_OE
    assert board.read(RBR) == ord("b")


def test_a_break_is_a_zero_with_bi_and_raises_line_status() -> None:
    board = Board()
    board.enable_interrupts(uart.IER_RLSI)

    board.port.receive_break()
    iir = board.read(IIR)
    lsr = board.read(LSR)

    assert iir == uart.IIR_RLS
    assert lsr == IDLE | LSR_DR | LSR_BI
    assert not board.line.level
    assert board.read(RBR) == 0


def test_a_break_shows_when_its_character_is_on_top() -> None:
    board = Board()
    board.enable_fifo()
    board.port.receive(b"a")
    board.port.receive_break()

    before = board.read(LSR)
    board.read(RBR)

    assert before == IDLE | LSR_DR | LSR_FIFO_ERROR  # somewhere in the FIFO
    assert board.read(LSR) == IDLE | LSR_DR | LSR_BI | LSR_FIFO_ERROR
    assert board.read(LSR) == IDLE | LSR_DR


def test_a_break_that_was_taken_unseen_is_still_told_once() -> None:
    board = Board()
    board.enable_fifo()
    board.port.receive_break()
    board.read(RBR)

    status = [board.read(LSR) for _ in range(2)]

    assert status == [IDLE | LSR_BI | LSR_FIFO_ERROR, IDLE]


def test_nothing_is_lost_between_a_busy_outside_and_a_busy_guest() -> None:
    board = Board()
    board.enable_fifo()
    sent = bytes(index % 251 for index in range(3 * WIRE_BYTES))
    room = threading.Event()
    board.port.room_again = room.set

    def outside() -> None:
        rest = memoryview(sent)
        while rest:
            room.clear()
            accepted = board.port.receive(rest[:1000])
            rest = rest[accepted:]
            if not accepted:
                assert room.wait(10), "refused bytes, but was never told of room"

    thread = threading.Thread(target=outside, daemon=True)
    thread.start()
    received = bytearray()
    deadline = time.monotonic() + 20
    while len(received) < len(sent) and time.monotonic() < deadline:
        if board.read(LSR) & LSR_DR:
            received.append(board.read(RBR))
        board.write(THR, 0x2E)
    thread.join(10)
    board.port.flush()

    assert received == sent
    assert set(b"".join(board.out)) == {0x2E}
