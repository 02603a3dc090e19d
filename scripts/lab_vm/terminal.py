# SPDX-License-Identifier: Apache-2.0
"""The host's terminal in raw mode, for `scripts/lab shell`."""

from __future__ import annotations

import os
import sys
import termios
import tty
from types import TracebackType
from typing import Any

INPUT_BYTES = 4096


class RawTerminal:
    """Standard input as a `Console`. On entry raw, on exit as it was before, whatever happens."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawTerminal:
        if os.isatty(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            tty.setraw(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        try:
            return os.read(self._fd, INPUT_BYTES)
        except OSError:
            # The terminal has gone.
            return b""

    def window(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            return (24, 80)
        return (size.lines, size.columns)
