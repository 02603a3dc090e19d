# SPDX-License-Identifier: Apache-2.0
"""Guest memory by linear address: translated page by page, faulting as the processor would."""

from __future__ import annotations

from collections.abc import Callable

from vmm.backend.emulation.faults import DeclinedError, page_fault
from vmm.backend.emulation.page_walk import Access, Denial, Paging, Refusal, walk
from vmm.outside import GuestMemory, GuestMemoryError

_PAGE = 4096


class LinearMemory:
    """Guest memory as one processor sees it.

    paging: asked for at each access, so that it is made only if there is one.
    Errors: `GuestFaultError` (#PF), `DeclinedError` when a page table or the data is not RAM.
    """

    def __init__(self, memory: GuestMemory, paging: Callable[[], Paging]) -> None:
        self._memory = memory
        self._paging = paging

    def read(self, linear_address: int, size: int, access: Access) -> bytes:
        """`size` bytes."""
        try:
            return b"".join(self._memory.read(*part) for part in self._parts(linear_address, size, access))
        except GuestMemoryError as error:
            raise DeclinedError(f"its memory operand is not RAM: {error}") from error

    def write(self, linear_address: int, data: bytes, access: Access) -> None:
        """Store `data`: all of it, or nothing when one of its pages faults. `access.write` must be set."""
        parts = self._parts(linear_address, len(data), access)
        try:
            for gpa, size in parts:
                self._memory.read(gpa, size)  # all is RAM, or nothing is stored
            for gpa, size in parts:
                self._memory.write(gpa, data[:size])
                data = data[size:]
        except GuestMemoryError as error:
            raise DeclinedError(f"its memory operand is not RAM: {error}") from error

    def check(self, linear_address: int, size: int, access: Access) -> None:
        """Only whether `access` is allowed; the memory may be a device's."""
        self._parts(linear_address, size, access)

    def _parts(self, linear_address: int, size: int, access: Access) -> list[tuple[int, int]]:
        """`(gpa, size)` of the pieces, one per page, all checked before the caller touches the first."""
        paging = self._paging()
        wrap = (1 << 64) - 1 if paging.long_mode else 0xFFFF_FFFF
        parts = []
        while size:
            here = min(size, _PAGE - linear_address % _PAGE)
            found = walk(self._memory, paging, linear_address, access)
            if isinstance(found, Refusal):
                if found.denial is Denial.TABLE_NOT_RAM:
                    raise DeclinedError(f"no page table in RAM leads to linear address {linear_address:#x}")
                raise page_fault(linear_address, found.error_code)
            parts.append((found.gpa, here))
            linear_address = linear_address + here & wrap
            size -= here
        return parts
