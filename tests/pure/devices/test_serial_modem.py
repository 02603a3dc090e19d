# SPDX-License-Identifier: Apache-2.0
"""16550A: modem control and status, loopback, priority of interrupts (NS16550A data sheet)."""

from __future__ import annotations

from vmm.machine.devices import serial as uart
from vmm.machine.devices.serial_receiver import LSR_DR

from .serial_board import IDLE, IER, IIR, LSR, MCR, MSR, RBR, THR, Board, print_text


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


def test_modem_status_deltas_add_up() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)
    board.read(MSR)

    board.write(MCR, uart.MCR_LOOP | uart.MCR_RTS)
    board.write(MCR, uart.MCR_LOOP | uart.MCR_RTS | uart.MCR_DTR)

    assert board.read(MSR) & 0x0F == uart.MSR_DCTS | uart.MSR_DDSR


def test_reading_the_modem_status_ends_its_interrupt() -> None:
    board = Board()
    board.write(MCR, uart.MCR_LOOP)
    board.enable_interrupts(uart.IER_MSI)
    before = board.line.level

    board.read(MSR)

    assert (before, board.line.level) == (True, False)


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
