# SPDX-License-Identifier: Apache-2.0
"""An AT keyboard on which nobody types: it answers every command, so that drivers find it without waiting.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-key)".
"""

from __future__ import annotations

ACK, RESEND, SELF_TEST_PASSED = 0xFA, 0xFE, 0xAA
IDENTITY = b"\xab\x83"
DEFAULT_SCAN_SET = 2

_SET_LEDS, _ECHO, _SCAN_SET, _IDENTIFY, _TYPEMATIC = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
_ENABLE, _DEFAULTS_DISABLE, _DEFAULTS = 0xF4, 0xF5, 0xF6
_ALL_KEYS_MODES = range(0xF7, 0xFB)  # scan set 3 only; there are no keys, so nothing changes
_KEY_MODES = range(0xFB, 0xFE)  # the same for single keys: a key's code follows
_RESEND, _RESET = 0xFE, 0xFF

_WITH_PARAMETER = frozenset({_SET_LEDS, _SCAN_SET, _TYPEMATIC, *_KEY_MODES})
_ONLY_ACKNOWLEDGED = frozenset({_ENABLE, *_ALL_KEYS_MODES})


class AtKeyboard:
    """State of the keyboard. No lock: its controller holds one."""

    def __init__(self) -> None:
        self.power_on()

    def power_on(self) -> None:
        """Defaults; nothing is expected."""
        self.scan_set = DEFAULT_SCAN_SET
        self.leds = 0
        self._expects_for: int | None = None  # the command whose parameter comes next
        self._last_reply = bytes([SELF_TEST_PASSED])

    def receive(self, byte: int) -> bytes:
        """A byte from the computer; returns the bytes the keyboard answers."""
        if byte == _RESEND:
            return self._last_reply[-1:]
        command, self._expects_for = self._expects_for, None
        if command is not None and byte < _SET_LEDS:  # a command in place of a parameter is a command
            reply = self._parameter(command, byte)
        else:
            reply = self._command(byte)
        self._last_reply = reply
        return reply

    def _command(self, command: int) -> bytes:
        if command in _WITH_PARAMETER:
            self._expects_for = command
        elif command == _ECHO:
            return bytes([_ECHO])
        elif command == _IDENTIFY:
            return bytes([ACK]) + IDENTITY
        elif command in (_DEFAULTS, _DEFAULTS_DISABLE):
            self.scan_set = DEFAULT_SCAN_SET
        elif command == _RESET:
            self.power_on()
            return bytes([ACK, SELF_TEST_PASSED])
        elif command not in _ONLY_ACKNOWLEDGED:
            return bytes([RESEND])
        return bytes([ACK])

    def _parameter(self, command: int, value: int) -> bytes:
        if command == _SET_LEDS:
            self.leds = value & 7
        elif command == _SCAN_SET and value == 0:
            return bytes([ACK, self.scan_set])
        elif command == _SCAN_SET:
            if value > 3:
                return bytes([RESEND])
            self.scan_set = value
        return bytes([ACK])
