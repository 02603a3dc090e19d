# SPDX-License-Identifier: Apache-2.0
"""Pipes whose reader has stalled."""

from __future__ import annotations

import fcntl
import struct
import termios
import time

from tests.patience import patient

SETTLED_S = patient(0.5)
WATCHDOG_S = patient(30)


def wait_until_full(read_end: int) -> None:
    """Somebody has written all that the pipe takes: something is in it, and no more comes."""
    deadline = time.monotonic() + WATCHDOG_S
    held, since = 0, time.monotonic()
    while not held or time.monotonic() - since < SETTLED_S:
        assert time.monotonic() < deadline, f"{held} bytes after {WATCHDOG_S} s, and still more or none"
        now_held = _held(read_end)
        if now_held != held:
            held, since = now_held, time.monotonic()
        time.sleep(0.01)


def _held(read_end: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(read_end, termios.FIONREAD, bytes(4)))
    return int(count)
