# SPDX-License-Identifier: Apache-2.0
"""From `--serial`'s words to a line end."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.console.ends import FileEnd, LineError, PtyEnd, Tell, UnixEnd
from vmm.console.line import LineEnd
from vmm.console.terminal import EndRun, TerminalEnd

SYNTAX = "stdio, file:PATH, pty, unix:PATH or none"


def make_end(text: str, tell: Tell, end_run: EndRun, keep: Sequence[str] = ()) -> LineEnd:
    """The end that `text` names.

    tell: prints a line for the user. end_run: the terminal's escape sequence, or its end. keep: files that are
    not to be written to.

    Errors: `LineError`.
    """
    kind, _, path = text.partition(":")
    if text == "stdio":
        return TerminalEnd(end_run)
    if text == "none":
        return LineEnd()
    if text == "pty":
        return PtyEnd(tell)
    if kind == "file" and path:
        return FileEnd(path, keep)
    if kind == "unix" and path:
        return UnixEnd(path, tell)
    raise LineError(f"--serial {text}: expected {SYNTAX}")
