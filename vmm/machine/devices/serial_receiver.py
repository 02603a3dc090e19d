# SPDX-License-Identifier: Apache-2.0
"""The receiving half of a 16550A: the wire, the receiver FIFO, line errors and the character timeout.

Source: NS16550A data sheet, "FIFO interrupt mode operation". No locks here: `serial.Serial` holds its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from vmm.outside import Clock

FIFO_BYTES = 16
"""Depth of the receiver FIFO."""

WIRE_BYTES = 4096
"""Bytes from outside that may wait for the guest; the outside is asked to hold back more (flow control)."""

ROOM_AGAIN_BYTES = WIRE_BYTES // 2
"""Free room from which the outside is told to go on: not for every byte the guest takes."""

TIMEOUT_CHARACTERS = 4
"""The timeout interrupt comes when the FIFO was neither filled nor read for this many character times."""

LSR_DR, LSR_OE, LSR_BI = 0x01, 0x02, 0x10
LSR_FIFO_ERROR = 0x80
LSR_ERRORS = 0x1E  # OE, PE, FE, BI: cleared by reading LSR

BREAK = LSR_BI << 8
"""A character with its error bits above bit 7, as the FIFO stores it: the 0 byte of a break."""


class Receiver:
    """State of the receiving half. `lsr` is the receiver's part of LSR, kept ready for the fast poll."""

    def __init__(self, clock: Clock, on_timer: Callable[[], None]) -> None:
        """on_timer: runs on the timer thread; it takes the port's lock and calls `Receiver.on_timer`."""
        self.lsr = 0
        self.timed_out = False
        self._timeout_enabled = False
        self.character_ns = 0
        self._clock = clock
        self._timer = clock.timer(on_timer)
        self._timer_armed = False
        self._timeout_at_ns: int | None = None
        self._wire: deque[int] = deque()
        self._refused = False  # the outside waits for room
        self._fifo: deque[int] = deque()
        self._depth = 1
        self._trigger = 1
        self._loopback = False
        self._last = 0  # what RBR shows when nothing is there

    def reset(self, character_ns: int) -> None:
        """State after master reset; bytes on the wire stay there."""
        self.character_ns = character_ns
        self._timeout_enabled = False
        self._loopback = False
        self._last = 0
        self._depth = self._trigger = 1
        self.clear()

    def clear(self) -> None:
        """Empty the FIFO (FCR). Characters still on the wire then arrive."""
        self._fifo.clear()
        self.lsr = 0
        self.timed_out = False
        self._fill()
        self.restart_timeout()

    def set_fifo(self, enabled: bool, trigger: int) -> None:
        """FIFO or 16450 mode; `trigger`: characters at which the receive interrupt comes."""
        self._depth = FIFO_BYTES if enabled else 1
        self._trigger = trigger if enabled else 1
        self._fill()

    def enable_timeout(self, enabled: bool) -> None:
        """IER's receive interrupt went on or off: only then somebody waits for the timeout."""
        if enabled != self._timeout_enabled:
            self._timeout_enabled = enabled
            self.restart_timeout()

    def set_loopback(self, loopback: bool) -> None:
        """In loopback the wire is cut off from the receiver; it waits."""
        self._loopback = loopback
        self._fill()

    def room(self) -> int:
        """Characters that the wire can take."""
        return WIRE_BYTES - len(self._wire)

    def arrive(self, characters: Sequence[int]) -> int:
        """Characters from outside; returns how many were taken."""
        accepted = min(self.room(), len(characters))
        self._wire.extend(islice(characters, accepted))
        self._refused = self._refused or accepted < len(characters)
        self._fill()
        return accepted

    def take_room_notice(self) -> bool:
        """True once when bytes were refused and there is ample room again."""
        if self._refused and self.room() >= ROOM_AGAIN_BYTES:
            self._refused = False
            return True
        return False

    def loop_back(self, byte: int) -> None:
        """A byte the guest sent to itself. Nothing holds it back, so this is where the guest overruns."""
        if len(self._fifo) < self._depth:
            self._push(byte)
        else:
            self.lsr |= LSR_OE
            if self._depth == 1:
                self._fifo[0] = byte  # RBR is overwritten; a full FIFO keeps its contents
        self.restart_timeout()

    def pop(self) -> int:
        """Read RBR."""
        if self._fifo:
            self._last = self._fifo.popleft() & 0xFF
        self._show_top()
        self.timed_out = False
        self._fill()
        self.restart_timeout()
        return self._last

    def read_lsr(self) -> int:
        """Read the receiver's bits of LSR, which clears the errors."""
        value = self.lsr
        if self._depth > 1 and (any(entry >> 8 for entry in self._fifo) or value & LSR_BI):
            value |= LSR_FIFO_ERROR
        self.lsr = value & LSR_DR
        if self._fifo:
            self._fifo[0] &= 0xFF  # this character's errors have been told
        return value

    def at_trigger(self) -> bool:
        """Enough characters for the receive data interrupt."""
        return len(self._fifo) >= self._trigger

    def restart_timeout(self) -> None:
        """The FIFO was filled or read: the character timeout starts anew (FIFO mode only)."""
        if not (self._fifo and self._depth > 1 and self._timeout_enabled):
            self._timeout_at_ns = None
            return
        self._timeout_at_ns = self._clock.now_ns() + TIMEOUT_CHARACTERS * self.character_ns
        if not self._timer_armed:  # else it is armed anew when it fires too early: cheaper than for each byte
            self._timer_armed = True
            self._timer.arm(self._timeout_at_ns)

    def on_timer(self) -> None:
        """The timer fired: raise the timeout, or wait on when the FIFO was used since."""
        self._timer_armed = False
        if self._timeout_at_ns is None:
            return
        if self._clock.now_ns() < self._timeout_at_ns:
            self._timer_armed = True
            self._timer.arm(self._timeout_at_ns)
        else:
            self._timeout_at_ns = None
            self.timed_out = True

    def _fill(self) -> None:
        """Move characters from the wire to where the guest finds them; the wire never overruns the FIFO."""
        if self._loopback or not self._wire or len(self._fifo) >= self._depth:
            return
        while self._wire and len(self._fifo) < self._depth:
            self._push(self._wire.popleft())
        self.restart_timeout()

    def _push(self, entry: int) -> None:
        self._fifo.append(entry)
        if len(self._fifo) == 1:
            self._show_top()

    def _show_top(self) -> None:
        """LSR tells the errors of the character that RBR will give next."""
        self.lsr = self.lsr & ~LSR_DR | (LSR_DR | self._fifo[0] >> 8 if self._fifo else 0)
