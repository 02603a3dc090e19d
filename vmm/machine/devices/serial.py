# SPDX-License-Identifier: Apache-2.0
"""16550A serial port (UART).

Source: National Semiconductor PC16550D/NS16550A data sheet; register names are its own. The transmitter is
never busy (THRE and TEMT read as set). All 8 bits of a byte are sent whatever the word length in LCR, because
guests print before they set it. The input side is `serial_receiver`, the output side `output_buffer`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmm.machine.devices.byte_ports import BytePorts
from vmm.machine.devices.output_buffer import OutputBuffer, Sink
from vmm.machine.devices.serial_receiver import BREAK, LSR_ERRORS, Receiver
from vmm.outside import Buffer, Clock, InterruptLine

SERIAL_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
"""First ports of COM1 to COM4 on a PC; their interrupts are `SERIAL_IRQS`."""
SERIAL_IRQS = (4, 3, 4, 3)
SERIAL_PORT_COUNT = 8

BASE_BAUD = 115200
"""Baud rate of divisor 1: the PC's 1.8432 MHz crystal / 16."""
RESET_DIVISOR = 12
"""9600 baud; the data sheet leaves the divisor undefined after reset."""

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 0x01, 0x02, 0x04, 0x08
IIR_NONE, IIR_RLS, IIR_RDA, IIR_TIMEOUT, IIR_THRE, IIR_MSI = 0x01, 0x06, 0x04, 0x0C, 0x02, 0x00
IIR_FIFO_ENABLED = 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 0x01, 0x02
LCR_STOP_BITS, LCR_PARITY, LCR_DLAB = 0x04, 0x08, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_THRE, LSR_TEMT = 0x20, 0x40
MSR_DCTS, MSR_DDSR, MSR_TERI, MSR_DDCD = 0x01, 0x02, 0x04, 0x08
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
"""The inputs while not in loopback: a peer that is always there and ready."""

_FIFO_TRIGGER = (1, 4, 8, 14)  # FCR 7:6
_TX_IDLE = LSR_THRE | LSR_TEMT


class Serial(BytePorts):
    """Eight byte ports: RBR/THR/DLL, IER/DLM, IIR/FCR, LCR, MCR, LSR, MSR, SCR.

    The interrupt line is high while IIR shows an interrupt and OUT2 is on (a PC's adapter gates it so; in
    loopback the OUT2 pin is off whatever MCR says). `receive` and `can_receive` are for the outside, from any
    thread; `room_again`, when set, is called from a VP thread once there is room again after `receive`
    refused bytes.
    """

    def __init__(self, name: str, line: InterruptLine, clock: Clock, sink: Sink) -> None:
        self.name = name
        self.room_again: Callable[[], None] | None = None
        self._line = line
        self._line_level = False
        self._lock = threading.Lock()
        self._output = OutputBuffer(clock, sink)
        self._rx = Receiver(clock, self._on_timeout)
        self._set_power_on_state()

    def _set_power_on_state(self) -> None:
        self._ier = self._fcr = self._lcr = self._mcr = self._scr = 0
        self._divisor = RESET_DIVISOR
        self._msr = MSR_CONNECTED
        self._thre_pending = False
        self._plain_thr = True  # a write of offset 0 only prints: no DLAB, no loopback, no THRE interrupt
        self._rx.reset(self._character_ns())

    def reset(self) -> None:
        """Master reset. Bytes on their way are kept: output is printed, input waits on the wire."""
        with self._lock:
            self._set_power_on_state()
            self._update_line()
        self._output.flush()

    def flush(self) -> None:
        """Hand all output to the sink (before a pause or the end of the run)."""
        self._output.flush()

    def can_receive(self) -> int:
        """How many bytes `receive` would accept now."""
        with self._lock:
            return self._rx.room()

    def receive(self, data: Buffer) -> int:
        """Bytes arrive on the wire. Returns how many were taken; when not all were, see `room_again`."""
        with self._lock:
            accepted = self._rx.arrive(data)
            self._update_line()
        return accepted

    def receive_break(self) -> bool:
        """The peer holds the line low for longer than a character. False when there was no room for it."""
        with self._lock:
            accepted = self._rx.arrive((BREAK,))
            self._update_line()
        return accepted == 1

    def read(self, offset: int, size: int) -> int:
        """Read registers. The poll of LSR before each byte is a guest's most frequent access."""
        if offset == 5 and size == 1 and not self._rx.lsr:
            return _TX_IDLE
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write registers. THR is the path that has to be fast."""
        if offset == 0 and size == 1 and self._plain_thr:
            self._output.append(value)
        else:
            super().write(offset, size, value)

    def read_byte(self, offset: int) -> int:
        """The register at `offset`, with its side effects."""
        room_again = None
        with self._lock:
            value = self._read_register(offset)
            if self._rx.take_room_notice():
                room_again = self.room_again
        if room_again is not None:
            room_again()
        return value

    def _read_register(self, offset: int) -> int:
        match offset:
            case 0 if self._lcr & LCR_DLAB:
                return self._divisor & 0xFF
            case 0:
                value = self._rx.pop()
                self._update_line()
            case 1 if self._lcr & LCR_DLAB:
                return self._divisor >> 8
            case 1:
                return self._ier
            case 2:
                value = self._interrupt_id()
                if value == IIR_THRE:
                    self._thre_pending = False
                    self._update_line()
                if self._fcr & FCR_ENABLE:
                    value |= IIR_FIFO_ENABLED
            case 3:
                return self._lcr
            case 4:
                return self._mcr
            case 5:
                value = self._rx.read_lsr() | _TX_IDLE
                self._update_line()
            case 6:
                value = self._msr
                self._msr &= 0xF0
                self._update_line()
            case 7:
                return self._scr
            case _:
                return 0xFF
        return value

    def write_byte(self, offset: int, value: int) -> None:
        """Store `value` in the register at `offset`, with its side effects."""
        with self._lock:
            match offset:
                case 0 if self._lcr & LCR_DLAB:
                    self._divisor = self._divisor & 0xFF00 | value
                    self._rx.character_ns = self._character_ns()
                case 0:
                    self._transmit(value)
                case 1 if self._lcr & LCR_DLAB:
                    self._divisor = self._divisor & 0xFF | value << 8
                    self._rx.character_ns = self._character_ns()
                case 1:
                    self._write_ier(value & 0x0F)
                case 2:
                    self._write_fcr(value)
                case 3:
                    self._lcr = value
                    self._rx.character_ns = self._character_ns()
                case 4:
                    self._write_mcr(value & 0x1F)
                case 7:
                    self._scr = value
                case _:
                    return
            self._plain_thr = not (self._lcr & LCR_DLAB or self._mcr & MCR_LOOP or self._ier & IER_THRI)
            self._update_line()

    def _transmit(self, value: int) -> None:
        if self._mcr & MCR_LOOP:
            self._rx.loop_back(value)
        else:
            self._output.append(value)
        if self._ier & IER_THRI:
            # The byte fills THR and leaves it at once. The line falls in between: the interrupt controller's
            # input is edge triggered and would miss the next THRE otherwise.
            self._thre_pending = False
            self._update_line()
            self._thre_pending = True

    def _write_ier(self, value: int) -> None:
        if value & ~self._ier & IER_THRI:
            self._thre_pending = True  # THR is empty: enabling its interrupt raises it
        self._ier = value
        self._rx.enable_timeout(bool(value & IER_RDI))

    def _write_fcr(self, value: int) -> None:
        changed = (value ^ self._fcr) & FCR_ENABLE
        if changed or (value & FCR_ENABLE and value & FCR_CLEAR_RX):
            self._rx.clear()
        self._fcr = value & FCR_ENABLE
        # The trigger counts only while the FIFOs are on, and the transmitter's is always empty.
        self._rx.set_fifo(bool(value & FCR_ENABLE), _FIFO_TRIGGER[value >> 6])

    def _write_mcr(self, value: int) -> None:
        self._mcr = value
        inputs = MSR_CONNECTED
        if value & MCR_LOOP:
            inputs = (
                (MSR_CTS if value & MCR_RTS else 0)
                | (MSR_DSR if value & MCR_DTR else 0)
                | (MSR_RI if value & MCR_OUT1 else 0)
                | (MSR_DCD if value & MCR_OUT2 else 0)
            )
        changed = self._msr ^ inputs
        deltas = changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD)
        if changed & ~inputs & MSR_RI:
            deltas |= MSR_TERI  # only the trailing edge of RI counts
        self._msr = inputs | self._msr & 0x0F | deltas
        self._rx.set_loopback(bool(value & MCR_LOOP))

    def _character_ns(self) -> int:
        """Time of one character on the wire: start, data, parity and stop bits."""
        bits = 1 + 5 + (self._lcr & 3) + (1 if self._lcr & LCR_PARITY else 0)
        bits += 2 if self._lcr & LCR_STOP_BITS else 1
        return bits * (self._divisor or 0x10000) * 1_000_000_000 // BASE_BAUD

    def _on_timeout(self) -> None:
        with self._lock:
            self._rx.on_timer()
            self._update_line()

    def _interrupt_id(self) -> int:
        """IIR without the FIFO bits: the enabled interrupt of the highest priority."""
        ier = self._ier
        if ier & IER_RLSI and self._rx.lsr & LSR_ERRORS:
            return IIR_RLS
        if ier & IER_RDI:
            if self._rx.at_trigger():
                return IIR_RDA
            if self._rx.timed_out:
                return IIR_TIMEOUT
        if ier & IER_THRI and self._thre_pending:
            return IIR_THRE
        if ier & IER_MSI and self._msr & 0x0F:
            return IIR_MSI
        return IIR_NONE

    def _update_line(self) -> None:
        level = bool(
            self._ier and self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 and self._interrupt_id() != IIR_NONE
        )
        if level != self._line_level:
            self._line_level = level
            self._line.set_level(level)
