# SPDX-License-Identifier: Apache-2.0
"""Files that are written when all is over: whether that will work is asked before anything starts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from vmm.cli.errors import UserError


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
