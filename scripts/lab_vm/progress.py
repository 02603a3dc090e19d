# SPDX-License-Identifier: Apache-2.0
"""One line of progress on standard error: redrawn on a terminal, otherwise printed once per stage."""

from __future__ import annotations

import sys
import time
from typing import TextIO

REDRAW_SECONDS = 0.2


def duration(seconds: float) -> str:
    """`3.4 s` below a minute, `2 min 05 s` above."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


class Progress:
    """Shows what the lab is doing and for how long. Not thread-safe."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._live = not quiet and self._stream.isatty()
        self._stage = ""
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self._line_open = False

    def stage(self, text: str) -> None:
        """A new stage begins; its clock starts at zero."""
        self._stage = text
        self._started = time.monotonic()
        if self._live:
            self._draw("")
        elif not self._quiet:
            self._print(f"lab: {text} ...")

    def update(self, detail: str = "") -> None:
        """Redraw the current stage's line, on a terminal and not too often."""
        if self._live and time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
            self._draw(detail)

    def done(self, text: str) -> None:
        """The stage ended well; one line stays."""
        self.clear()
        if not self._quiet:
            self._print(f"lab: {text}, {duration(time.monotonic() - self._started)}")

    def clear(self) -> None:
        """Take the redrawn line away, for output of somebody else."""
        if self._line_open:
            self._stream.write("\r\033[K")
            self._stream.flush()
            self._line_open = False

    def _draw(self, detail: str) -> None:
        self._drawn_at = time.monotonic()
        elapsed = duration(self._drawn_at - self._started)
        self._stream.write(f"\r\033[Klab: {self._stage}{', ' if detail else ''}{detail}, {elapsed}")
        self._stream.flush()
        self._line_open = True

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
