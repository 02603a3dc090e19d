# SPDX-License-Identifier: Apache-2.0
"""Guest memory by linear address: translated page by page, faulting as the processor would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vmm.backend.emulation.faults import DeclinedError, ProtectedError, page_fault
from vmm.backend.emulation.page_walk import Access, Denial, Paging, Refusal, walk
from vmm.hypercall.outside import AccessInterceptedError, ProcessorMemory
from vmm.outside import GuestMemoryError

_PAGE = 4096


class _Part(NamedTuple):
    """What of an access lies in one page."""

    linear_address: int
    gpa: int
    size: int


class LinearMemory:
    """Guest memory as one processor sees it.

    paging: asked for at each access, so that it is made only if there is one.
    Errors: `GuestFaultError` (#PF), `ProtectedError` when a higher VTL forbids it, `DeclinedError` when a page table or
    the data is not RAM.
    """

    def __init__(self, memory: ProcessorMemory, paging: Callable[[], Paging]) -> None:
        self._memory = memory
        self._paging = paging

    def read(self, linear_address: int, size: int, access: Access) -> bytes:
        """`size` bytes."""
        read = self._memory.fetch if access.fetch else self._memory.read
        found = b""
        for part in self._parts(linear_address, size, access):
            with _refusals(part, access):
                found += read(part.gpa, part.size)
        return found

    def write(self, linear_address: int, data: bytes, access: Access) -> None:
        """Store `data`: all of it, or nothing when one of its pages faults. `access.write` must be set."""
        parts = self._parts(linear_address, len(data), access)
        for part in parts:
            with _refusals(part, access):
                self._memory.require_writable(part.gpa, part.size)
        for part in parts:
            with _refusals(part, access):
                self._memory.write(part.gpa, data[: part.size])
            data = data[part.size :]

    def check(self, linear_address: int, size: int, access: Access) -> None:
        """Only whether `access`, a read, is allowed; the memory may be a device's."""
        for part in self._parts(linear_address, size, access):
            try:
                self._memory.read(part.gpa, part.size)
            except GuestMemoryError:
                continue
            except AccessInterceptedError as error:
                raise ProtectedError(error.gpa, part.linear_address) from error

    def _parts(self, linear_address: int, size: int, access: Access) -> list[_Part]:
        """The pieces, one per page, all checked before the caller touches the first."""
        paging = self._paging()
        wrap = (1 << 64) - 1 if paging.long_mode else 0xFFFF_FFFF
        parts = []
        while size:
            here = min(size, _PAGE - linear_address % _PAGE)
            try:
                found = walk(self._memory, paging, linear_address, access)
            except AccessInterceptedError as error:
                raise ProtectedError(error.gpa, linear_address, write=error.write, page_walk=True) from error
            if isinstance(found, Refusal):
                if found.denial is Denial.TABLE_NOT_RAM:
                    raise DeclinedError(f"no page table in RAM leads to linear address {linear_address:#x}")
                raise page_fault(linear_address, found.error_code)
            parts.append(_Part(linear_address, found.gpa, here))
            linear_address = linear_address + here & wrap
            size -= here
        return parts


@contextmanager
def _refusals(part: _Part, access: Access) -> Iterator[None]:
    """What memory raises, as an end of the instruction."""
    try:
        yield
    except GuestMemoryError as error:
        raise DeclinedError(f"its memory operand is not RAM: {error}") from error
    except AccessInterceptedError as error:
        gva = part.linear_address + error.gpa - part.gpa
        raise ProtectedError(error.gpa, gva, write=error.write, fetch=access.fetch) from error
