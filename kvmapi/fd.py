# SPDX-License-Identifier: Apache-2.0
"""`KvmFd`: what /dev/kvm, VM, vCPU, device and statistics objects share: an fd, its life, its ioctls."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from kvmapi.errors import KvmClosedError, KvmError, error_for
from kvmapi.names import IOCTL_NAMES
from kvmapi.seam import Seam

S = TypeVar("S", bound="KvmFd")


def _failure(request: int, operands: dict[str, object], label: str) -> Callable[[int], KvmError]:
    return lambda number: error_for(number, request, operands, label)


class KvmFd:
    """An owned KVM file descriptor.

    A context manager; `close()` may be called any number of times, and closes what was made from this object
    first. The child holds its parent, not the other way round, so an object dropped without `close()` is
    closed when collected, with a ResourceWarning. Closing while another thread uses the object is the
    caller's mistake: stop that thread first.
    """

    __slots__ = ("__weakref__", "_children", "_fd", "_label", "_parent", "_seam")

    def __init__(self, seam: Seam, fd: int, label: str, parent: KvmFd | None = None) -> None:
        self._fd = fd
        self._seam = seam
        self._label = label
        self._parent = parent
        self._children: weakref.WeakSet[KvmFd] = weakref.WeakSet()
        if parent is not None:
            parent._children.add(self)

    def fileno(self) -> int:
        """The file descriptor. Raises KvmClosedError after `close()`."""
        if self._fd < 0:
            raise KvmClosedError("fileno", self._label)
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close the children, then the fd. KVM frees a VM when its last fd and mapping are gone."""
        if self._fd < 0:
            return
        for child in list(self._children):
            child.close()
        self._release()
        fd, self._fd = self._fd, -1
        self._seam.close(fd)

    def _release(self) -> None:
        """Undo what a subclass holds besides the fd (mappings)."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            try:
                warnings.warn(f"{self._label} was not closed", ResourceWarning, source=self, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        state = f"fd {self._fd}" if self._fd >= 0 else "closed"
        return f"<{self._label}, {state}>"

    def ioctl(self, request: int, argument: Any = None, **operands: object) -> int:
        """An ioctl that this library has no method for, e.g. of a newer kernel; its result.

        `argument`: None, an integer or a ctypes object; `operands` appear in the KvmError that a failure raises.
        """
        return self._ioctl(request, argument, **operands)

    def quick_ioctl(self, request: int, argument: Any, **operands: object) -> Callable[[], object]:
        """A function that does this ioctl with `argument`, a ctypes object, as that then is: for a hot path.

        It holds the interpreter meanwhile, so it is for ioctls that are over at once: giving it up and getting it
        back costs more than they do where other threads want it. Of a vCPU only on the thread that runs it; else it
        would wait for the end of KVM_RUN, and all threads with it. It must not be called after `close()`.
        """
        return self._seam.quick_call(
            self.fileno(), request, argument, _failure(request, operands, self._label)
        )

    def prepared_ioctl(self, request: int, argument: Any, **operands: object) -> Callable[[], object]:
        """As `quick_ioctl`, but other threads may run meanwhile: the fastest where none wants to."""
        return self._seam.prepared_call(
            self.fileno(), request, argument, _failure(request, operands, self._label)
        )

    def _ioctl(self, request: int, argument: Any = None, **operands: object) -> int:
        """The ioctl's result; `operands` are for the message of the KvmError that a failure raises."""
        fd = self._fd
        if fd < 0:
            raise KvmClosedError(IOCTL_NAMES.get(request, hex(request)), self._label)
        try:
            return self._seam.ioctl(fd, request, argument)
        except OSError as error:
            raise error_for(error.errno or 0, request, operands, self._label) from error

    def _filled(self, request: int, argument: Any, **operands: object) -> Any:
        """`argument` after the ioctl has filled it."""
        self._ioctl(request, argument, **operands)
        return argument
