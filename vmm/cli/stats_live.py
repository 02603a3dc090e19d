# SPDX-License-Identifier: Apache-2.0
"""`--stats live`: a table on standard error, anew every second.

| standard error | how the table is shown |
|---|---|
| a file or a pipe | one table below the other |
| a terminal that is not the guest's console | in one place |
| the same terminal | below the guest's last line, if that is a whole one; wiped before the guest writes on |
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence

from vmm.backend import host_thread

PERIOD_S = 1.0
_ERASE_BELOW = "\x1b[J"
Write = Callable[[str], object]
Sink = Callable[[bytes], None]
NextTable = Callable[[], Sequence[str]]


def same_terminal(first_fd: int, second_fd: int) -> bool:
    """Whether both lead to one terminal."""
    if not (os.isatty(first_fd) and os.isatty(second_fd)):
        return False
    return os.fstat(first_fd).st_rdev == os.fstat(second_fd).st_rdev


class Screen:
    """Where the tables go, and the guest's output where that is the same terminal. Thread-safe."""

    def __init__(self, write: Write, *, terminal: bool, columns: Callable[[], int] | None = None) -> None:
        """write: to standard error, at once. columns: the terminal's width now."""
        self._write = write
        self._terminal = terminal
        self._columns = columns or (lambda: shutil.get_terminal_size().columns)
        self._lock = threading.Lock()
        self._shown = 0
        self._at_line_start = True

    def show(self, lines: Sequence[str]) -> None:
        """A new table."""
        with self._lock:
            if not self._terminal:
                self._write("".join(line + "\n" for line in lines))
            elif self._at_line_start:
                width = max(self._columns() - 1, 1)  # a line that wraps would be two to wipe
                self._write(self._wiping() + "".join(line[:width] + "\n" for line in lines))
                self._shown = len(lines)

    def wipe(self) -> None:
        """Take the table away."""
        with self._lock:
            if self._shown:
                self._write(self._wiping())

    def sharing(self, guest: Sink) -> Sink:
        """The guest's output to the same terminal: `guest`, between tables."""

        def sink(data: bytes) -> None:
            with self._lock:
                if self._shown:
                    self._write(self._wiping())
                guest(data)
                self._at_line_start = data.endswith(b"\n")

        return sink

    def _wiping(self) -> str:
        shown, self._shown = self._shown, 0
        return f"\x1b[{shown}A\r{_ERASE_BELOW}" if shown else ""


class Live:
    """Shows tables until it is closed. A context manager."""

    def __init__(self, screen: Screen, next_table: NextTable) -> None:
        """next_table: called on a thread of its own."""
        self._screen = screen
        self._next_table = next_table
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmm-stats", daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self._screen.wipe()

    def _run(self) -> None:
        host_thread.tell_name()
        while not self._over.wait(PERIOD_S):
            self._screen.show(self._next_table())
