# SPDX-License-Identifier: Apache-2.0
"""Bytes on their way from a guest's port writes to the outside, gathered so that a byte costs an append.

A guest prints one byte per exit; a system call per byte would cost as much as the exit. A line is handed on
when it ends, a prompt without a newline when the idle timer fires.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmm.outside import Clock

Sink = Callable[[bytes], None]

FLUSH_BYTES = 1024
"""Bytes gathered before they are handed on without a newline."""

LIMIT_BYTES = 64 * 1024
"""Bytes that may wait while the sink is busy in another thread; then the writer waits for the sink."""

IDLE_FLUSH_NS = 10_000_000
"""Longest time a byte waits for its line to end: a prompt is on the screen before a person can notice."""

_NEWLINE = 0x0A


class OutputBuffer:
    """Gathers bytes and hands them to `sink` in order, never in two threads at once.

    `sink` gets non-empty `bytes`, must not raise, and should not block for long: it is called by the
    VP thread that wrote the newline or by the timer thread. The clock stands still while the machine is
    paused, so whoever pauses or ends the machine calls `flush`.
    """

    def __init__(self, clock: Clock, sink: Sink) -> None:
        self._clock = clock
        self._sink = sink
        # Appending, copying and cutting a bytearray are each atomic, so a byte needs no lock.
        self._pending = bytearray()
        self._sink_lock = threading.Lock()  # held by whoever takes bytes out and calls the sink: keeps order
        self._timer_armed = False
        self._timer = clock.timer(self._on_idle)

    def append(self, byte: int) -> None:
        """Queue one byte (0..255)."""
        pending = self._pending
        pending.append(byte)
        if byte != _NEWLINE and len(pending) < FLUSH_BYTES:
            if not self._timer_armed:
                self._timer_armed = True
                self._timer.arm(self._clock.now_ns() + IDLE_FLUSH_NS)
        else:
            self._drain(wait=len(pending) >= LIMIT_BYTES)

    def flush(self) -> None:
        """Hand on everything queued so far, and wait for a sink call that is under way."""
        self._drain(wait=True)

    def _on_idle(self) -> None:
        self._timer_armed = False  # first: a byte that is not in this chunk arms it anew
        self._drain(wait=False)

    def _drain(self, wait: bool) -> None:
        # Whoever finds the sink taken leaves: its holder looks at _pending again after letting go.
        while self._sink_lock.acquire(blocking=wait):
            try:
                chunk = bytes(self._pending)
                if chunk:
                    del self._pending[: len(chunk)]
                    self._sink(chunk)
            finally:
                self._sink_lock.release()
            if not self._pending:
                return
