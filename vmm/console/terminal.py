# SPDX-License-Identifier: Apache-2.0
"""The user's own terminal as a guest's console: raw keys, an escape sequence, and everything put back at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import termios
from collections.abc import Callable

from vmm.console.line import LineEnd, Receive

ESCAPE = 0x01  # Ctrl-A, as QEMU's and screen's users expect
EndRun = Callable[[signal.Signals, str], None]  # ends the run as the signal would, for the reason given
PressButton = Callable[[], bool]  # whether the guest hears of it
HELP = (
    "\r\nCtrl-A x  end the guest\r\nCtrl-A p  press the power button\r\nCtrl-A h  this help\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)
DEAF = "\r\nthe guest does not listen to the power button; Ctrl-A x ends it\r\n"


class TerminalEnd(LineEnd):
    """Standard input and output. A terminal is put into raw mode; a pipe or file is used as it is."""

    def __init__(self, end_run: EndRun) -> None:
        """end_run: called when the user types the escape sequence to quit, or the terminal goes away."""
        super().__init__()
        self.input_fd = sys.stdin.fileno() if sys.stdin is not None else -1
        self.output_fd = sys.stdout.fileno()
        self._end_run = end_run
        self._press_power_button: PressButton = lambda: False
        self._escaped = False
        self._saved: list[object] | None = None

    def connect_power_button(self, press: PressButton) -> None:
        """press: what Ctrl-A p does. Call it before `start_input`."""
        self._press_power_button = press

    def start_input(self, receive: Receive) -> None:
        """Take the terminal (when it is one) and read keys."""
        if self.input_fd >= 0 and os.isatty(self.input_fd):
            self._enter_raw_mode()
            self.input_is_typed = True
        super().start_input(receive)

    def filter_input(self, data: bytes) -> bytes:
        """Take the escape sequences out of what the user typed. Input that is no terminal goes through whole."""
        if self._saved is None:
            return data
        for_guest = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    for_guest.append(byte)
                continue
            self._escaped = False
            if byte in b"xX":
                self._end_run(signal.SIGINT, "ended by Ctrl-A x")
            elif byte in b"pP":
                if not self._press_power_button():
                    self._say(DEAF)
            elif byte in b"hH?":
                self._say(HELP)
            elif byte == ESCAPE:
                for_guest.append(ESCAPE)
        return bytes(for_guest)

    def input_ended(self) -> None:
        """A terminal that hung up takes its user along."""
        if self._saved is not None:
            self._end_run(signal.SIGHUP, "the terminal went away")

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone: the next read tells
            os.write(self.output_fd, text.encode())

    def restore(self) -> None:
        """Put the terminal back as it was. Idempotent; also runs at interpreter exit."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            with contextlib.suppress(termios.error):  # the terminal is gone: there is nothing to put back
                termios.tcsetattr(self.input_fd, termios.TCSADRAIN, saved)  # type: ignore[arg-type]  # as tcgetattr gave it
            atexit.unregister(self.restore)

    def _close_descriptors(self) -> None:
        self.restore()

    def _enter_raw_mode(self) -> None:
        saved: list[object] = list(termios.tcgetattr(self.input_fd))
        self._saved = saved
        atexit.register(self.restore)
        raw = termios.tcgetattr(self.input_fd)
        # cfmakeraw() but for output processing: our own messages still need their carriage returns.
        raw[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.input_fd, termios.TCSANOW, raw)
