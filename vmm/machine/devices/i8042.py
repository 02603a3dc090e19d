# SPDX-License-Identifier: Apache-2.0
"""The PC's keyboard controller (Intel 8042 with an AT keyboard, no mouse) and port 0x92.

Sources: IBM PC/AT Technical Reference, "Keyboard Controller"; IBM PS/2 Hardware Interface Technical Reference
(auxiliary device commands, port 0x92). Every command that has an answer answers at once, so a driver's probe
never runs into a timeout. The A20 gate is stored but masks nothing: KVM has no means for it.
"""

from __future__ import annotations

import threading
from collections import deque

from vmm.machine.devices.at_keyboard import AtKeyboard
from vmm.machine.devices.byte_ports import BytePorts
from vmm.outside import InterruptLine, MachineControl

KEYBOARD_DATA_PORT = 0x60
KEYBOARD_COMMAND_PORT = 0x64
KEYBOARD_IRQ = 1
SYSTEM_CONTROL_PORT = 0x92

OUTPUT_BYTES = 32
"""Bytes that wait behind the output buffer; what a guest provokes without reading is dropped beyond that."""

STATUS_OBF, STATUS_SYS, STATUS_COMMAND, STATUS_UNLOCKED = 0x01, 0x04, 0x08, 0x10
STATUS_AUX, STATUS_TIMEOUT = 0x20, 0x40

CTR_KBD_INT, CTR_SYS, CTR_KBD_DISABLE, CTR_AUX_DISABLE, CTR_TRANSLATE = 0x01, 0x04, 0x10, 0x20, 0x40
CTR_AFTER_POST = CTR_KBD_INT | CTR_SYS | CTR_AUX_DISABLE | CTR_TRANSLATE
"""The command byte as a PC's firmware leaves it."""

OUTPUT_PORT_NO_RESET, OUTPUT_PORT_A20, OUTPUT_PORT_KBD_IRQ = 0x01, 0x02, 0x10
_OUTPUT_PORT_LINES = 0xC0  # keyboard data and clock idle high

_READ_RAM, _WRITE_RAM = range(0x20, 0x40), range(0x60, 0x80)  # byte 0 is the command byte
_AUX_DISABLE, _AUX_ENABLE, _SELF_TEST, _KBD_DISABLE, _KBD_ENABLE = 0xA7, 0xA8, 0xAA, 0xAD, 0xAE
_READ_OUTPUT_PORT, _WRITE_OUTPUT_PORT = 0xD0, 0xD1
_WRITE_KBD_BUFFER, _WRITE_AUX_BUFFER, _WRITE_AUX = 0xD2, 0xD3, 0xD4
_A20_OFF, _A20_ON = 0xDD, 0xDF
_PULSE_OUTPUT_PORT = range(0xF0, 0x100)  # a 0 in bit 0 pulses the reset line
_WITH_PARAMETER = frozenset(
    {_WRITE_OUTPUT_PORT, _WRITE_KBD_BUFFER, _WRITE_AUX_BUFFER, _WRITE_AUX, *_WRITE_RAM}
)
_FIXED_ANSWERS = {
    0xA4: 0xF1,  # no password is set
    0xA9: 0x03,  # auxiliary interface: data line stuck low, so there is none
    _SELF_TEST: 0x55,
    0xAB: 0x00,  # keyboard interface is in order
    0xC0: 0x80,  # input port: keyboard not locked
    0xE0: 0x00,  # test inputs
}
_AUX_NO_DEVICE = (0xFE, STATUS_AUX | STATUS_TIMEOUT)  # the answer to a byte for the mouse

# Scan set 2 to 1, for what this keyboard sends; its other bytes stay as they are.
_TRANSLATION = {0x01: 0x43, 0x02: 0x41, 0x03: 0x3F, 0x83: 0x41}


class I8042(BytePorts):
    """Port 0x60, the data port; port 0x64 is `I8042Command`.

    The keyboard line is high while the output buffer is full and the command byte enables its interrupt.
    Resets of the machine are asked for with the lock held; `MachineControl` only posts them.
    """

    name = "i8042"

    def __init__(self, keyboard_line: InterruptLine, control: MachineControl) -> None:
        self.a20_enabled = True
        self._line = keyboard_line
        self._line_level = False
        self._control = control
        self._lock = threading.Lock()
        self._keyboard = AtKeyboard()
        self._from_controller: deque[tuple[int, int]] = deque()  # (byte, status bits)
        self._from_keyboard: deque[tuple[int, int]] = deque()
        self._ram = bytearray(32)
        self._set_power_on_state()

    def _set_power_on_state(self) -> None:
        self.a20_enabled = True
        self._keyboard.power_on()
        self._from_controller.clear()
        self._from_keyboard.clear()
        self._ram[:] = bytes(32)
        self._ram[0] = CTR_AFTER_POST
        self._output = 0
        self._status = STATUS_UNLOCKED | STATUS_SYS
        self._expects_for: int | None = None  # the command whose parameter comes next on port 0x60

    def reset(self) -> None:
        """As firmware leaves it after its self test: keyboard quiet and enabled, A20 on."""
        with self._lock:
            self._set_power_on_state()
            self._update()

    def read_byte(self, offset: int) -> int:
        """The output buffer; the last byte again when it is empty."""
        if offset:
            return 0xFF
        with self._lock:
            value = self._output
            self._status &= ~(STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT)
            self._drive_line()  # falls before the next byte raises it: the input is edge triggered
            self._update()
        return value

    def write_byte(self, offset: int, value: int) -> None:
        """A command's parameter, or a byte for the keyboard."""
        if offset:
            return
        with self._lock:
            self._status &= ~STATUS_COMMAND
            command, self._expects_for = self._expects_for, None
            if command is not None:
                self._parameter(command, value)
            else:
                self._ram[0] &= ~CTR_KBD_DISABLE  # sending to the keyboard enables it
                for byte in self._keyboard.receive(value):
                    translate = self._ram[0] & CTR_TRANSLATE
                    self._queue(self._from_keyboard, _TRANSLATION.get(byte, byte) if translate else byte)
            self._update()

    def read_status(self) -> int:
        """Port 0x64. The input buffer is never full."""
        return self._status

    def command(self, command: int) -> None:
        """A write of port 0x64. Unknown commands do nothing."""
        with self._lock:
            self._status |= STATUS_COMMAND
            self._expects_for = command if command in _WITH_PARAMETER else None
            if command in _FIXED_ANSWERS:
                if command == _SELF_TEST:
                    self._status |= STATUS_SYS
                self._queue(self._from_controller, _FIXED_ANSWERS[command])
            elif command in _READ_RAM:
                self._queue(self._from_controller, self._ram[command & 0x1F])
            elif command in (_AUX_DISABLE, _KBD_DISABLE):
                self._ram[0] |= CTR_AUX_DISABLE if command == _AUX_DISABLE else CTR_KBD_DISABLE
            elif command in (_AUX_ENABLE, _KBD_ENABLE):
                self._ram[0] &= ~(CTR_AUX_DISABLE if command == _AUX_ENABLE else CTR_KBD_DISABLE)
            elif command == _READ_OUTPUT_PORT:
                self._queue(self._from_controller, self._output_port())
            elif command in (_A20_OFF, _A20_ON):
                self.a20_enabled = command == _A20_ON
            elif command in _PULSE_OUTPUT_PORT and not command & OUTPUT_PORT_NO_RESET:
                self._control.reset()
            self._update()

    # ---- state, lock held ----------------------------------------------------------------------------

    def _parameter(self, command: int, value: int) -> None:
        if command in _WRITE_RAM:
            self._ram[command & 0x1F] = value
            if command == _WRITE_RAM.start:
                self._status = self._status & ~STATUS_SYS | value & CTR_SYS
        elif command == _WRITE_OUTPUT_PORT:
            self.a20_enabled = bool(value & OUTPUT_PORT_A20)
            if not value & OUTPUT_PORT_NO_RESET:
                self._control.reset()
        elif command == _WRITE_AUX:
            self._queue(self._from_controller, *_AUX_NO_DEVICE)
        else:
            # Both come back through the output buffer. Without the AUX status bit a driver that sent the
            # second one knows that there is no auxiliary interface.
            self._queue(self._from_controller, value)

    def _output_port(self) -> int:
        return (
            _OUTPUT_PORT_LINES
            | OUTPUT_PORT_NO_RESET
            | (OUTPUT_PORT_A20 if self.a20_enabled else 0)
            | (OUTPUT_PORT_KBD_IRQ if self._line_level else 0)
        )

    def _queue(self, queue: deque[tuple[int, int]], byte: int, status: int = 0) -> None:
        if len(queue) < OUTPUT_BYTES:
            queue.append((byte, status))

    def _update(self) -> None:
        """Fill the output buffer when it is empty and something may go there."""
        if not self._status & STATUS_OBF:
            queue = self._from_controller
            if not queue and not self._ram[0] & CTR_KBD_DISABLE:
                queue = self._from_keyboard
            if queue:
                self._output, status = queue.popleft()
                self._status |= STATUS_OBF | status
        self._drive_line()

    def _drive_line(self) -> None:
        full = self._status & (STATUS_OBF | STATUS_AUX) == STATUS_OBF
        level = full and bool(self._ram[0] & CTR_KBD_INT)
        if level != self._line_level:
            self._line_level = level
            self._line.set_level(level)


class I8042Command(BytePorts):
    """Port 0x64: status when read, command when written."""

    name = "i8042-command"

    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def reset(self) -> None:
        """Done by `I8042.reset`."""

    def read_byte(self, offset: int) -> int:
        """The status register."""
        return self._controller.read_status() if offset == 0 else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """A command."""
        if offset == 0:
            self._controller.command(value)


class SystemControlPort(BytePorts):
    """Port 0x92: bit 1 is the A20 gate, bit 0 going from 0 to 1 resets the machine; the others are stored."""

    name = "system-control"

    def __init__(self, controller: I8042, control: MachineControl) -> None:
        self._controller = controller
        self._control = control
        self._lock = threading.Lock()
        self._value = 0

    def reset(self) -> None:
        """Bit 0 and the stored bits 0; the A20 gate is the controller's."""
        with self._lock:
            self._value = 0

    def read_byte(self, offset: int) -> int:
        """The bits as written, bit 1 from the A20 gate."""
        if offset:
            return 0xFF
        return self._value & ~OUTPUT_PORT_A20 | (OUTPUT_PORT_A20 if self._controller.a20_enabled else 0)

    def write_byte(self, offset: int, value: int) -> None:
        """Set the A20 gate, store the bits, reset when bit 0 rises."""
        if offset:
            return
        with self._lock:
            rises = value & ~self._value & 1
            self._value = value
        self._controller.a20_enabled = bool(value & OUTPUT_PORT_A20)
        if rises:
            self._control.reset()
