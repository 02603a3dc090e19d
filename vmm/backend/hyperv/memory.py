# SPDX-License-Identifier: Apache-2.0
"""Guest memory as each VTL may use it: `VtlMemories` gives out who reads and writes it for a VTL.

Nearly all parameter pages of hypercalls lie in the first gigabytes of RAM behind the VGA hole, one block in one
mapping: they are read and written there directly. All others go the general way.
"""

from __future__ import annotations

from typing import Final, Protocol

from vmm.hypercall.outside import CallerMemory, ProcessorMemory, UnprotectedMemory
from vmm.outside import Buffer, ProcessorRam
from vmm.vsm.memory import Block, VtlMemory
from vmm.vsm.protections import MemoryProtections

BLOCK_BELOW_GPA: Final = 1 << 32
"""Guests put what they share with a hypervisor low, whatever RAM there is above."""


class HostMemory(ProcessorRam, Protocol):
    """Guest RAM of which the host address can be had."""

    def host_address(self, gpa: int, size: int) -> int:
        """Where `[gpa, gpa + size)` lies in this process. Errors: `GuestMemoryError`."""

    def view(self, gpa: int, size: int) -> memoryview:
        """The bytes of `[gpa, gpa + size)`, to be read and written. Errors: `GuestMemoryError`."""


class DirectMemory:
    """`vmm.hypercall.outside.CallerMemory` of a VTL that nobody restricts: all RAM can be read and written."""

    __slots__ = ("_end", "_memory", "_start", "_view")

    def __init__(self, memory: ProcessorRam, block: Block) -> None:
        self._memory = memory
        self._start, self._end, self._view = block

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""
        start = self._start
        if start <= gpa and gpa + size <= self._end:
            return self._view[gpa - start : gpa - start + size].tobytes()
        return self._memory.read(gpa, size)

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""
        start = self._start
        if start <= gpa and gpa + len(data) <= self._end:
            self._view[gpa - start : gpa - start + len(data)] = data
        else:
            self._memory.write(gpa, data)

    def require_writable(self, gpa: int, size: int) -> None:
        """Raise `GuestMemoryError` when a byte of the range is not RAM."""
        if not (self._start <= gpa and gpa + size <= self._end):
            self._memory.read(gpa, size)


class VtlMemories:
    """A machine's. What it gives out is for one thread at a time; making it is thread-safe."""

    def __init__(
        self, memory: HostMemory, protections: MemoryProtections | None = None, maximum_vtl: int = 0
    ) -> None:
        """protections: None where nobody can restrict anybody. maximum_vtl: nobody restricts that one."""
        self._memory = memory
        self._protections = protections
        self._maximum_vtl = maximum_vtl
        gpa, size = max(memory.ranges(), key=lambda block: (block[0] < BLOCK_BELOW_GPA, block[1]))
        self._block = Block(gpa, gpa + size, memory.view(gpa, size))

    def close(self) -> None:
        """Give the view back. Nobody reads or writes any more. Idempotent."""
        self._block.view.release()

    def parameters(self, vtl: int) -> CallerMemory:
        """For the hypercalls of a VTL of a VP."""
        if self._protections is None or vtl >= self._maximum_vtl:
            return DirectMemory(self._memory, self._block)
        return VtlMemory(self._memory, self._protections, vtl, self._block)

    def of(self, vtl: int) -> ProcessorMemory:
        """For a processor of a VTL: page walks and emulated instructions."""
        if self._protections is None or vtl >= self._maximum_vtl:
            return UnprotectedMemory(self._memory)
        return VtlMemory(self._memory, self._protections, vtl)
