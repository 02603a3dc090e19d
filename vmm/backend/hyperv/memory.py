# SPDX-License-Identifier: Apache-2.0
"""Guest memory for hypercall parameters (`vmm.hypercall.outside.CallerMemory`), without VTL protections.

Nearly all parameter pages lie in the first gigabytes of RAM behind the VGA hole, one block in one mapping: they are
read and written there directly. All others go the general way.
"""

from __future__ import annotations

from vmm.outside import Buffer, GuestMemory


class DirectMemory:
    """All RAM can be read and written. `GuestMemoryError` where there is none."""

    __slots__ = ("_end", "_memory", "_start", "_view")

    def __init__(self, memory: GuestMemory, block: tuple[int, int], view: memoryview) -> None:
        """block: `(gpa, size)` of a block of RAM; view: its bytes."""
        self._memory = memory
        self._start, self._end = block[0], block[0] + block[1]
        self._view = view

    def close(self) -> None:
        """Give the view back. Nobody reads or writes any more. Idempotent."""
        self._view.release()

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
