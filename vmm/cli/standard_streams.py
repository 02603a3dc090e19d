# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full, or whose reader has left: no reason for a traceback or a wrong status."""

from __future__ import annotations

import contextlib
import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper, UnsupportedOperation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LAST_STANDARD_FD = 2


def open_missing() -> None:
    """Put /dev/null in the place of closed descriptors 0 to 2.

    Else the next files opened, KVM's for one, would get these numbers, and Python's streams would be None.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_FD:  # the lowest free one
        os.set_inheritable(fd, True)
    os.close(fd)
    # Python calls the streams never None, although they are where it found a descriptor closed.
    if sys.stdin is None:  # type: ignore[redundant-expr,unused-ignore]
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # stays open for the life of the process
    if sys.stdout is None:  # type: ignore[redundant-expr,unused-ignore]
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:  # type: ignore[redundant-expr,unused-ignore]
        sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


class Messages(TextIOWrapper):
    """Standard error for texts that must not fail what they tell about: a full device swallows them.

    A reader that has left is still told (`BrokenPipeError`): then nobody looks on any more.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError:
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, at the interpreter's end
            super().flush()


class OutputError(OSError):
    """Standard output cannot be written."""


class Output(FileIO):
    """Standard output, whose failures are told apart from those of other files: they are `OutputError`s."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def watch() -> None:
    """Make `sys.stderr` one of `Messages`, and let what `sys.stdout` is written to be `Output`."""
    sys.stderr = Messages(
        open(2, "wb", closefd=False),  # noqa: SIM115  # stays open for the life of the process
        encoding=sys.stderr.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
    plain = sys.stdout
    if isinstance(plain, TextIOWrapper):
        sys.stdout = TextIOWrapper(
            BufferedWriter(Output(1, "w", closefd=False)),
            encoding=plain.encoding,
            errors=plain.errors,
            line_buffering=plain.line_buffering,
            write_through=plain.write_through,
        )


def check_output() -> None:
    """Find out whether standard output will take what is written to it later, as far as the system tells now.

    Errors: `OutputError`.
    """
    try:
        fd = sys.stdout.fileno()
    except UnsupportedOperation:  # a stream in memory
        return
    try:
        os.write(fd, b"")
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


def give_up_output() -> None:
    """Let what standard output holds go to /dev/null: the interpreter would complain when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        sys.stdout.flush()
