# SPDX-License-Identifier: Apache-2.0
"""Ports for early messages: the 0xe9 debug console, POST codes at 0x80, and the ports used as a delay.

Sources: Bochs and QEMU isa-debugcon (0xe9), IBM PC/AT (0x80 manufacturing test port), Linux `io_delay=0xed`.
"""

from __future__ import annotations

from collections import deque

from vmm.machine.devices.byte_ports import BytePorts
from vmm.machine.devices.output_buffer import OutputBuffer, Sink
from vmm.outside import Clock

DEBUG_CONSOLE_PORT = 0xE9
POST_CODE_PORT = 0x80
DELAY_PORTS = (0x84, 0xED)

POST_CODE_HISTORY = 64
"""POST codes kept for a crash report; a guest that uses the port as a delay pushes old ones out."""


class DebugConsole(BytePorts):
    """Port 0xe9: each byte written goes to the sink; a read gives 0xe9, by which guests find the port."""

    name = "debug-console"

    def __init__(self, clock: Clock, sink: Sink) -> None:
        self._output = OutputBuffer(clock, sink)

    def reset(self) -> None:
        """Show what was written before the reset; there is no other state."""
        self._output.flush()

    def flush(self) -> None:
        """Hand all output to the sink (before a pause or the end of the run)."""
        self._output.flush()

    def read_byte(self, offset: int) -> int:
        """0xe9 at the port itself."""
        return DEBUG_CONSOLE_PORT if offset == 0 else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """Print `value`."""
        if offset == 0:
            self._output.append(value)


class PostCodePort(BytePorts):
    """Port 0x80: the last `POST_CODE_HISTORY` codes are kept; a read gives the last one."""

    name = "post-codes"

    def __init__(self) -> None:
        # deque.append and list(deque) are atomic in CPython, so this hot delay port takes no lock.
        self._codes: deque[int] = deque(maxlen=POST_CODE_HISTORY)

    def reset(self) -> None:
        """Keep the history (a reset loop is told by it)."""

    def codes(self) -> list[int]:
        """The codes written last, oldest first. Safe from any thread."""
        return list(self._codes)

    def read_byte(self, offset: int) -> int:
        """The code written last; 0 before the first."""
        if offset:
            return 0xFF
        codes = self._codes
        return codes[-1] if codes else 0

    def write_byte(self, offset: int, value: int) -> None:
        """Record the code `value`."""
        if offset == 0:
            self._codes.append(value)


class DelayPort(BytePorts):
    """Ports 0x84 and 0xed: written only to let a bus cycle pass. Reads give 0xff, writes are ignored."""

    name = "delay-port"

    def reset(self) -> None:
        """Nothing to do: the port has no state."""
