# SPDX-License-Identifier: Apache-2.0
"""The seam to the kernel: every open, ioctl, read, mmap and KVM_RUN of the library goes through one object here.

`KERNEL` is the real one; `kvmapi.fake.FakeKvm` plays KVM in tests. `Kvm.open(seam=...)` chooses, and the
objects made from it inherit the choice.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from kvmapi.uapi.kvm_ioctl import KVM_RUN

RunCall = tuple[Callable[[int, int], int], int, int]
"""A function and its two arguments: `call(fd, request)`. A function that binds them would cost a call of its own."""


class Seam(Protocol):
    """What the library needs of the kernel. Every method, and what `run_call` returns, raises OSError."""

    def open(self, path: str) -> int:
        """A file descriptor for reading and writing, close-on-exec."""

    def close(self, fd: int) -> None: ...

    def ioctl(self, fd: int, request: int, argument: Any = None) -> int:
        """`argument`: None, an integer of up to 64 bits, or a ctypes object that KVM may change."""

    def quick_call(
        self, fd: int, request: int, argument: Any, failed: Callable[[int], OSError]
    ) -> Callable[[], object]:
        """A function that does this ioctl with this ctypes object, and holds the interpreter meanwhile.

        It raises what `failed` makes of an errno.
        """

    def prepared_call(
        self, fd: int, request: int, argument: Any, failed: Callable[[int], OSError]
    ) -> Callable[[], object]:
        """As `quick_call`, but other Python threads may run meanwhile."""

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """At most `size` bytes of a statistics fd."""

    def mmap(self, fd: int, size: int, offset: int = 0) -> mmap.mmap:
        """A shared mapping, readable and writable; `size` and `offset` in bytes."""

    def run_call(self, fd: int) -> RunCall:
        """What does KVM_RUN on `fd`: returns 0, or raises OSError with KVM_RUN's errno."""


class Kernel:
    """The seam that is the running kernel."""

    # Indexing a CDLL makes a function object of our own: the one that attribute access gives is shared, and
    # somebody else's argtypes would double the cost of each call.
    _libc = ctypes.CDLL(None, use_errno=True)
    _ioctl = _libc["ioctl"]
    _quick = ctypes.PyDLL(None, use_errno=True)["ioctl"]  # keeps other Python threads waiting

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def ioctl(self, fd: int, request: int, argument: Any = None) -> int:
        if argument is None:
            return fcntl.ioctl(fd, request)
        if isinstance(argument, int):
            # fcntl.ioctl takes C ints only, and before Python 3.14 it needs a microsecond to find out.
            result: int = self._ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(argument))
            if result < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return result
        changed: int = fcntl.ioctl(fd, request, argument, True)
        return changed

    def quick_call(
        self, fd: int, request: int, argument: Any, failed: Callable[[int], OSError]
    ) -> Callable[[], object]:
        call, get_errno = self._quick, ctypes.get_errno
        number, operation, pointer = ctypes.c_int(fd), ctypes.c_ulong(request), ctypes.byref(argument)

        def run() -> None:
            if call(number, operation, pointer) < 0:
                raise failed(get_errno())

        return run

    def prepared_call(
        self, fd: int, request: int, argument: Any, failed: Callable[[int], OSError]
    ) -> Callable[[], object]:
        call, view = fcntl.ioctl, memoryview(argument)

        def run() -> None:
            try:
                call(fd, request, view, True)
            except OSError as error:
                raise failed(error.errno or 0) from error

        return run

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def mmap(self, fd: int, size: int, offset: int = 0) -> mmap.mmap:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        if sys.version_info >= (3, 13):
            return mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset, trackfd=False)
        return mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)

    if sys.version_info >= (3, 14):

        def run_call(self, fd: int) -> RunCall:
            call, get_errno = self._libc["ioctl"], ctypes.get_errno

            # From 3.14 on fcntl.ioctl repeats a call that ended with EINTR, so neither immediate_exit nor a
            # signal would bring the vCPU's thread back.
            def run(fd: int, request: int) -> int:
                if call(fd, request, 0):
                    number = get_errno()
                    raise OSError(number, os.strerror(number))
                return 0

            return run, fd, KVM_RUN

    else:

        def run_call(self, fd: int) -> RunCall:
            # No Python frame, no argument conversion, no errno swap: 0.3 us less than ctypes per exit.
            return fcntl.ioctl, fd, KVM_RUN


KERNEL = Kernel()
