# SPDX-License-Identifier: Apache-2.0
"""What the calling convention needs of the world around it, as small protocols.

`dispatch` gets two of them: `CallerRegisters` of this one call, and the `HypercallContext` of a virtual processor
in one VTL, which lives as long as they do. Whatever the backend uses (the registers in a mapped `kvm_run`, the fields
of a KVM_EXIT_HYPERV) fits them without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vmm.outside import Buffer, ProcessorRam


class CallerRegisters(Protocol):
    """The general registers that a hypercall may read or write: unsigned 64-bit numbers, read and set by name.

    `kvmapi`'s `kvm_regs` is one. Of RAX, RCX and RDX the convention sets what TLFS 3.9 allows, RDX and R8 also carry
    fast output; the others are only read.
    """

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    r8: int


class XmmBlock(Protocol):
    """XMM0 to XMM5 of the caller as 96 consecutive bytes, XMM0's lowest byte first."""

    def read(self, size: int) -> bytes:
        """The first `size` bytes, 96 at most."""

    def write(self, offset: int, data: Buffer) -> None:
        """Replace `data`'s length of bytes from `offset` on; the others keep their value."""


class AccessInterceptedError(Exception):
    """A parameter page is RAM, but a higher VTL does not let this caller read or write it (HC-005, HC-022)."""

    def __init__(self, gpa: int, write: bool) -> None:
        super().__init__(f"{'write to' if write else 'read of'} {gpa:#x} is not allowed to the caller's VTL")
        self.gpa = gpa
        self.write = write


class CallerMemory(Protocol):
    """Guest physical memory as the caller's VTL may use it. Addresses are any 64-bit number, sizes at most a page.

    `vmm.outside.GuestMemoryError` when a byte is not RAM, `AccessInterceptedError` when a protection forbids it;
    nothing is then changed. Parameters in an overlay page are undefined in the TLFS; what is read and written there is
    whatever this memory has at that address.

    Implements: HC-021
    """

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""

    def require_writable(self, gpa: int, size: int) -> None:
        """Raise what `write` would raise, and change nothing."""


class ProcessorMemory(CallerMemory, Protocol):
    """Guest physical memory as a processor may use it in one VTL: the same errors."""

    def fetch(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes of instructions."""

    def write_all(self, parts: Sequence[tuple[int, Buffer]]) -> None:
        """Store data at each of some addresses, or change nothing: nobody can take one of them away in between."""

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        """See `ProcessorRam`. The memory must be readable and writable."""


class UnprotectedMemory:
    """`ProcessorMemory` for a partition without VTL protections: all RAM can be read, written and executed."""

    __slots__ = ("_memory", "compare_exchange", "fetch", "read", "write")

    def __init__(self, memory: ProcessorRam) -> None:
        self._memory = memory
        self.read = self.fetch = memory.read
        self.write = memory.write
        self.compare_exchange = memory.compare_exchange

    def require_writable(self, gpa: int, size: int) -> None:
        """Raise `GuestMemoryError` when a byte of the range is not RAM."""
        self._memory.read(gpa, size)

    def write_all(self, parts: Sequence[tuple[int, Buffer]]) -> None:
        """Store data at each of some addresses; `GuestMemoryError`, and nothing, when one is not RAM."""
        for gpa, data in parts:
            self._memory.read(gpa, len(data))
        for gpa, data in parts:
            self._memory.write(gpa, data)


class HypercallContext(Protocol):
    """The caller: a virtual processor in one VTL. Its attributes may change between calls, not within one.

    The owner of the handlers passes a richer class of its own; the dispatcher hands it through unseen.
    """

    @property
    def vtl(self) -> int:
        """The VTL that issues the call."""

    @property
    def privileges(self) -> int:
        """HV_PARTITION_PRIVILEGE_MASK of the partition: what CPUID leaf 0x40000003 shows as EBX:EAX."""

    @property
    def hypercalls_enabled(self) -> bool:
        """Whether this VTL has reported its guest OS id and enabled its hypercall page (HCP-001, HCP-004)."""

    @property
    def memory(self) -> CallerMemory:
        """Guest memory with the rights of this VTL."""

    @property
    def xmm(self) -> XmmBlock:
        """XMM0 to XMM5. Touched only by calls that carry parameters there."""

    def intercept_memory_access(self, gpa: int, write: bool) -> None:
        """Report the refused access to the VTL that protects the page. The caller makes the call again when it runs."""
