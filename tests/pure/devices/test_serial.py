# SPDX-License-Identifier: Apache-2.0
"""16550A: registers, interrupts and their priority, FIFOs, loopback, flow control (NS16550A data sheet)."""

from __future__ import annotations

import threading
import time

from hypothesis import given

from vmm.machine.devices import serial as uart
from vmm.machine.devices.serial import Serial
from vmm.machine.devices.serial_receiver import (
    FIFO_BYTES,
    LSR_BI,
    LSR_DR,
    LSR_FIFO_ERROR,
    LSR_OE,
    ROOM_AGAIN_BYTES,
    WIRE_BYTES,
)

from .fakes import FakeClock, FakeLine
from .fuzz import ACCESSES, carry_out

THR = RBR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

IDLE = 0x60  # LSR: THRE and TEMT
CHARACTER_NS = 7 * 12 * 10**9 // 115200  # after reset: divisor 12, LCR 0 = start + 5 data + 1 stop bit


class Board:
    """A port with its surroundings; `out` is what reached the sink, call by call."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.line = FakeLine()
        self.out: list[bytes] = []
        self.port = Serial("com1", self.line, self.clock, self.out.append)
        self.port.reset()

    def read(self, register: int) -> int:
        return self.port.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.port.write(register, 1, value)

    def enable_interrupts(self, ier: int) -> None:
        self.write(MCR, uart.MCR_OUT2)
        self.write(IER, ier)

    def enable_fifo(self, trigger_bits: int = 0) -> None:
        self.write(FCR, uart.FCR_ENABLE | trigger_bits << 6)


def print_text(board: Board, text: bytes) -> None:
    for byte in text:
        board.write(THR, byte)


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


# Receiving


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


# Modem control and status, loopback


def test_loopback_connects_the_outputs_to_the_inputs() -> None:
    pairs = [
        (uart.MCR_DTR, uart.MSR_DSR),
        (uart.MCR_RTS, uart.MSR_CTS),
        (uart.MCR_OUT1, uart.MSR_RI),
        (uart.MCR_OUT2, uart.MSR_DCD),
    ]
    for output, status in pairs:
        board = Board()

        board.write(MCR, uart.MCR_LOOP | output)

        assert board.read(MSR) & 0xF0 == status


def test_modem_status_deltas_are_cleared_by_reading() -> None:
    board = Board()

    board.write(MCR, uart.MCR_LOOP)  # CTS, DSR and DCD fall

    assert board.read(MSR) == uart.MSR_DCTS | uart.MSR_DDSR | uart.MSR_DDCD
    assert board.read(MSR) == 0


def test_ring_counts_only_when_it_ends() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP | uart.MCR_OUT1)
    rising = board.read(MSR) & uart.MSR_TERI

    board.write(MCR, uart.MCR_LOOP)

    assert rising == 0
    assert board.read(MSR) == uart.MSR_TERI


def test_looped_bytes_do_not_leave_the_port() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)

    board.write(THR, 0xAE)
    board.port.flush()

    assert board.read(RBR) == 0xAE
    assert board.out == []


def test_input_waits_on_the_wire_while_in_loopback() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)

    board.port.receive(b"a")
    in_loopback = board.read(LSR)
    board.write(MCR, 0)

    assert in_loopback == IDLE
    assert board.read(RBR) == ord("a")


def test_a_driver_measures_a_fifo_of_16_bytes() -> None:
    # Linux sends 256 bytes to itself and counts how many come back.
    board = Board()
    board.enable_fifo()
    board.write(MCR, uart.MCR_LOOP)

    for value in range(256):
        board.write(THR, value)
    count = 0
    while board.read(LSR) & LSR_DR:
        board.read(RBR)
        count += 1

    assert count == 16


def test_out2_gates_the_line() -> None:
    board = Board()
    board.write(IER, uart.IER_RDI)
    board.port.receive(b"a")

    gated = board.line.level
    board.write(MCR, uart.MCR_OUT2)
    open_gate = board.line.level
    board.write(MCR, uart.MCR_OUT2 | uart.MCR_LOOP)

    assert (gated, open_gate, board.line.level) == (False, True, False)


def test_interrupt_priority() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)
    board.write(MCR, uart.MCR_LOOP | uart.MCR_DTR)  # modem status changes
    board.write(IER, 0x0F)
    print_text(board, b"ab")  # receive data and overrun
    order = []

    order.append(board.read(IIR))
    board.read(LSR)
    order.append(board.read(IIR))
    board.read(RBR)
    order.append(board.read(IIR))  # this read clears THRE
    order.append(board.read(IIR))
    board.read(MSR)
    order.append(board.read(IIR))

    assert order == [uart.IIR_RLS, uart.IIR_RDA, uart.IIR_THRE, uart.IIR_MSI, uart.IIR_NONE]


def test_each_interrupt_needs_its_enable_bit() -> None:
    for disabled in (uart.IER_RDI, uart.IER_THRI, uart.IER_RLSI, uart.IER_MSI):
        board = Board()
        board.write(MCR, uart.MCR_LOOP)
        board.write(IER, 0x0F & ~disabled)
        print_text(board, b"ab")

        seen = set()
        for register in (LSR, RBR, LSR, MSR):
            seen.add(board.read(IIR))
            board.read(register)

        names = {
            uart.IER_RDI: uart.IIR_RDA,
            uart.IER_THRI: uart.IIR_THRE,
            uart.IER_RLSI: uart.IIR_RLS,
            uart.IER_MSI: uart.IIR_MSI,
        }
        assert names[disabled] not in seen


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
