# SPDX-License-Identifier: Apache-2.0
"""What the library raises: `KvmError`, which names the ioctl, the errno, the operands and the usual cause.

KvmError(OSError)            any ioctl, open or mmap that failed
  KvmUnavailableError             /dev/kvm cannot be used at all
  KvmUnsupportedError            this kernel or this VM does not offer the operation
  KvmTooBigError                  the answer needs more entries than there was room for
  KvmMsrError                KVM stopped at one MSR of a list
  KvmClosedError                  the object was closed before
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from kvmapi import causes
from kvmapi.names import CAP_NAMES, IOCTL_NAMES, name_of

# Python's errno module does not have it.
EHWPOISON = 133
# 95 has two names; api.rst says EOPNOTSUPP.
_ERRNO_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", EHWPOISON: "EHWPOISON"}


class KvmError(OSError):
    """A failed call to KVM.

    `call` is the ioctl's name (or "open", "mmap"), `operands` what was passed, `errno` the positive error
    number, `where` the object ("Vm fd 5"), `hint` the usual cause and what to do, "" when not known.
    """

    def __init__(
        self,
        number: int,
        call: str,
        operands: Mapping[str, object] | None = None,
        where: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(number, os.strerror(number))
        self.call = call
        self.operands = dict(operands or {})
        self.where = where
        self.hint = hint or causes.usual_cause(call, number)

    def __str__(self) -> str:
        number = self.errno or 0
        name = _ERRNO_NAMES.get(number, str(number))
        operands = ", ".join(f"{key}={_shown(key, value)}" for key, value in self.operands.items())
        where = f" on {self.where}" if self.where else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.call}({operands}){where} failed: {name} ({os.strerror(number)}){hint}"


class KvmUnavailableError(KvmError):
    """/dev/kvm is missing, may not be opened, is not KVM, or speaks another API version."""


class KvmUnsupportedError(KvmError):
    """The kernel does not know the ioctl, or does not offer it here."""


class KvmTooBigError(KvmError):
    """E2BIG: more entries than KVM takes, or than there was room for."""


class KvmMsrError(KvmError):
    """KVM_GET_MSRS or KVM_SET_MSRS stopped. `index` is the MSR refused, `done` the pairs handled before it."""

    def __init__(
        self, call: str, index: int, done: list[tuple[int, int]], total: int, where: str = ""
    ) -> None:
        super().__init__(
            errno.EINVAL,
            call,
            {"index": index, "position": f"{len(done)} of {total}"},
            where,
            f"KVM refused MSR {index:#x}: not supported for this guest's CPUID, or not a legal value. "
            "The MSRs before it were handled, those after it were not",
        )
        self.index = index
        self.done = done


class KvmClosedError(KvmError):
    """The object, or the one it belongs to, was closed."""

    def __init__(self, call: str, where: str) -> None:
        super().__init__(errno.EBADF, call, None, where, f"{where} was closed before this call")


def error_for(number: int, request: int, operands: Mapping[str, object], where: str) -> KvmError:
    """The exception for an ioctl that failed with errno `number`."""
    call = IOCTL_NAMES.get(request, f"ioctl {request:#x}")
    kind = KvmUnsupportedError if (call, number) in causes.NOT_OFFERED else _KINDS.get(number, KvmError)
    return kind(number, call, operands, where)


_KINDS: dict[int, type[KvmError]] = {
    errno.ENOTTY: KvmUnsupportedError,
    errno.EOPNOTSUPP: KvmUnsupportedError,
    errno.ENOSYS: KvmUnsupportedError,
    errno.E2BIG: KvmTooBigError,
}


def _shown(key: str, value: object) -> str:
    if key == "cap" and isinstance(value, int):
        return name_of(CAP_NAMES, value)
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return str(value) if -10 < value < 10 else hex(value)
