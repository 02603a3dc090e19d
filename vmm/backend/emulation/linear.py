# SPDX-License-Identifier: Apache-2.0
"""Guest memory by linear address: translated page by page, faulting as the processor would."""

from __future__ import annotations

from collections.abc import Callable
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
        """`size` bytes. With `access.write`, of memory that is to be written next, and has to allow both."""
        read = self._memory.fetch if access.fetch else self._memory.read
        found = b""
        for part in self._parts(linear_address, size, access):
            try:
                if access.write:
                    self._memory.require_writable(part.gpa, part.size)
                found += read(part.gpa, part.size)
            except GuestMemoryError as error:
                raise _declined(error) from error
            except AccessInterceptedError as error:
                raise _protected(part, error, fetch=access.fetch) from error
        return found

    def write(self, linear_address: int, data: bytes, access: Access) -> None:
        """Store `data`: all of it, or nothing when one of its pages faults. `access.write` must be set."""
        parts = self._parts(linear_address, len(data), access)
        stores, done = [], 0
        for part in parts:
            stores.append((part.gpa, data[done : done + part.size]))
            done += part.size
        try:
            self._memory.write_all(stores)
        except GuestMemoryError as error:
            raise _declined(error) from error
        except AccessInterceptedError as error:
            part = next(part for part in parts if part.gpa <= error.gpa < part.gpa + part.size)
            raise _protected(part, error) from error

    def compare_exchange(self, linear_address: int, expected: bytes, new: bytes, access: Access) -> bytes:
        """The 16 bytes there, within a page; if they are `expected`, `new` takes their place. `access.write` is set."""
        (part,) = self._parts(linear_address, len(expected), access)
        try:
            return self._memory.compare_exchange(part.gpa, expected, new)
        except GuestMemoryError as error:
            raise _declined(error) from error
        except OSError as error:
            raise DeclinedError(f"an exchange of 16 bytes needs {error.strerror or error}") from error
        except AccessInterceptedError as error:
            raise _protected(part, error) from error

    def check(self, linear_address: int, size: int, access: Access) -> None:
        """Only whether `access`, a read, is allowed; the memory may be a device's."""
        for part in self._parts(linear_address, size, access):
            try:
                self._memory.read(part.gpa, part.size)
            except GuestMemoryError:
                continue
            except AccessInterceptedError as error:
                raise _protected(part, error) from error

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


def _declined(error: GuestMemoryError) -> DeclinedError:
    return DeclinedError(f"its memory operand is not RAM: {error}")


def _protected(part: _Part, error: AccessInterceptedError, *, fetch: bool = False) -> ProtectedError:
    gva = part.linear_address + error.gpa - part.gpa
    return ProtectedError(error.gpa, gva, write=error.write, fetch=fetch)
