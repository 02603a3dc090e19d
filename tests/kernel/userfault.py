# SPDX-License-Identifier: Apache-2.0
"""Memory whose pages come when the test says so: userfaultfd(2), for faults of KVM's own, too.

linux/userfaultfd.h: numbers and layouts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from types import TracebackType
from typing import Self

SYS_USERFAULTFD = 323
UFFD_API, UFFDIO_REGISTER_MODE_MISSING = 0xAA, 1
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04


def can_hold_pages() -> bool:
    """Whether this kernel and this user may hold back a page from KVM (root, or vm.unprivileged_userfaultfd)."""
    try:
        os.close(_userfaultfd())
    except OSError:
        return False
    return True


def _userfaultfd() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return fd


class HeldPages:
    """`size` bytes at `address`, untouched so far, which nobody gets before `release` or the end of the context."""

    def __init__(self, address: int, size: int) -> None:
        self._range = struct.pack("<2Q", address, size)
        self._fd = _userfaultfd()
        self._ioctl(UFFDIO_API, struct.pack("<3Q", UFFD_API, 0, 0))
        self._ioctl(UFFDIO_REGISTER, self._range + struct.pack("<2Q", UFFDIO_REGISTER_MODE_MISSING, 0))

    def release(self) -> None:
        """They are zero, and whoever waited goes on."""
        self._ioctl(UFFDIO_ZEROPAGE, self._range + bytes(16))

    def _ioctl(self, number: int, argument: bytes) -> None:
        fcntl.ioctl(self._fd, number, bytearray(argument))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
