# SPDX-License-Identifier: Apache-2.0
"""Steps for `FakeKvm.script`: what one KVM_RUN leaves in the mapped kvm_run, and what it returns."""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import pack_into

from kvmapi.run import EXIT_REASON, EXIT_UNION, PAGE_SIZE
from kvmapi.uapi import kvm_run as uapi

# Fills the mapped pages, returns 0 or the errno of KVM_RUN.
Step = Callable[[memoryview], int]


def exit_with(reason: int, form: str = "", *values: int | bytes, result: int = 0) -> Step:
    """Any exit: `form` is the struct format of what follows in the exit union (byte 32 of kvm_run)."""

    def step(view: memoryview) -> int:
        pack_into("<I", view, EXIT_REASON, reason)
        view[EXIT_UNION : EXIT_UNION + 256] = bytes(256)
        pack_into("<" + form, view, EXIT_UNION, *values)
        return result

    return step


def io_out(port: int, data: bytes, size: int = 1) -> Step:
    """The guest writes `data` to `port`, `size` bytes at a time."""

    def step(view: memoryview) -> int:
        view[PAGE_SIZE : PAGE_SIZE + len(data)] = data
        count = len(data) // size
        return exit_with(uapi.KVM_EXIT_IO, "BBHIQ", uapi.KVM_EXIT_IO_OUT, size, port, count, PAGE_SIZE)(view)

    return step


def io_in(port: int, size: int = 1, count: int = 1) -> Step:
    """The guest reads from `port`; the answer goes to the page at 4096."""
    return exit_with(uapi.KVM_EXIT_IO, "BBHIQ", uapi.KVM_EXIT_IO_IN, size, port, count, PAGE_SIZE)


def mmio_write(gpa: int, data: bytes) -> Step:
    """The guest writes 1 to 8 bytes at `gpa`."""
    value = int.from_bytes(data, "little")
    return exit_with(uapi.KVM_EXIT_MMIO, "QQIB", gpa, value, len(data), 1)


def mmio_read(gpa: int, size: int) -> Step:
    """The guest reads `size` bytes at `gpa`."""
    return exit_with(uapi.KVM_EXIT_MMIO, "QQIB", gpa, 0, size, 0)


def hlt() -> Step:
    """KVM_EXIT_HLT."""
    return exit_with(uapi.KVM_EXIT_HLT)


def shutdown() -> Step:
    """KVM_EXIT_SHUTDOWN: a triple fault."""
    return exit_with(uapi.KVM_EXIT_SHUTDOWN)


def rdmsr(index: int) -> Step:
    """The guest reads a filtered MSR."""
    return exit_with(uapi.KVM_EXIT_X86_RDMSR, "QIIQ", 0, uapi.KVM_MSR_EXIT_REASON_FILTER, index, 0)


def wrmsr(index: int, value: int) -> Step:
    """The guest writes a filtered MSR."""
    return exit_with(uapi.KVM_EXIT_X86_WRMSR, "QIIQ", 0, uapi.KVM_MSR_EXIT_REASON_FILTER, index, value)


def hypercall(control: int, first: int = 0, second: int = 0) -> Step:
    """KVM_EXIT_HYPERV_HCALL: input value and two parameters."""
    return exit_with(uapi.KVM_EXIT_HYPERV, "IIQQQQ", uapi.KVM_EXIT_HYPERV_HCALL, 0, control, 0, first, second)


def memory_fault(
    gpa: int,
    flags: int,
    size: int = PAGE_SIZE,
    insn_len: int = 0,
    access_gpa: int = 0,
    insn_bytes: bytes = b"",
) -> Step:
    """KVM_EXIT_MEMORY_FAULT with KVM_MEMORY_EXIT_FLAG_*; KVM_RUN returns EFAULT."""
    fields = (flags, gpa, size, insn_len, len(insn_bytes), insn_bytes, access_gpa)
    return exit_with(uapi.KVM_EXIT_MEMORY_FAULT, "QQQBB15s7xQ", *fields, result=errno.EFAULT)
