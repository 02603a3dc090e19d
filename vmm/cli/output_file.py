# SPDX-License-Identifier: Apache-2.0
"""Files that are written when all is over: whether that will work is asked before anything starts, and nobody is waited
for who might read them one day."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

from vmm.cli.errors import UserError

PATIENCE_S = 10.0
"""How long a reader who is there may take no byte."""


def check_writable(option: str, path: str) -> None:
    """Refuse a `path` that cannot be written, as far as can be known now; changes nothing.

    option: what to call it. Errors: `UserError`.
    """
    if not path:
        raise UserError(f"{option} '': expected the name of a file")
    file = Path(path)
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if file.exists():
            if not os.access(file, os.W_OK):  # not opened: that would wait for the reader of a FIFO
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with file.open("xb"):
            pass
        file.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{option} {path}: {why}") from error


def write_text(option: str, path: str, text: str) -> None:
    """Write `text` to `path`, in the place of what a file holds.

    A FIFO needs a reader, who has `PATIENCE_S` for each part: signals may be ignored by now, so a wait without an end
    would be one for ever. Errors: `UserError`.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            _write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        unread = error.errno == errno.ENXIO and Path(path).is_fifo()
        why = "nobody reads this FIFO" if unread else error.strerror
        raise UserError(f"{option} {path}: {why}") from error


def _write(fd: int, data: bytes) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            if not poll.poll(PATIENCE_S * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "its reader does not read") from None
