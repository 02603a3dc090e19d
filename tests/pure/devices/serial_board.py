# SPDX-License-Identifier: Apache-2.0
"""A 16550A with fakes around it, and a guest's way of using it."""

from __future__ import annotations

from vmm.machine.devices import serial as uart
from vmm.machine.devices.serial import Serial

from .fakes import FakeClock, FakeLine

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
