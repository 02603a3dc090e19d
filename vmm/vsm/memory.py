# SPDX-License-Identifier: Apache-2.0
"""Guest memory with the rights of one VTL: what the VMM uses for everything that it does for a guest.

These are hypercall parameters, page walks and emulated instructions; for devices see `device_memory`. What the machine
does itself (loading a guest, zeroing memory, overlay pages) is no VTL's and needs no right.

Where the VTL sees an overlay of a higher VTL, that is what is read, with the rights to the RAM in its place; a write
finds no memory. The VTL's own overlays are not looked at: parameters in one are undefined in the TLFS (HC-021).

Check and access are one: a change of rights waits for accesses that began before it (`MemoryProtections`). That costs
an access two stores; a lock would cost more than the access itself, and each hypercall makes one. For the same reason
`read`, `write` and `require_writable` have the look-up written out: as a call it costs a fifth of the access, or half.

Implements: HC-005, HC-022, VSM-082, VSM-083
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from vmm.hv.constants import HV_PAGE_SHIFT, HV_PAGE_SIZE
from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import Buffer, GuestMemoryError, ProcessorRam
from vmm.vsm.outside import MemoryAccess, MemoryIntercepts, Protections
from vmm.vsm.protections import MemoryProtections, refusing
from vmm.vsm.rights import EXECUTE, READ, WRITE

PAGES_KEPT: Final = 64
"""Pages whose rights are remembered until rights change. A VP's hypercalls use two or three."""
_IN_PAGE: Final = HV_PAGE_SIZE - 1


class Block(NamedTuple):
    """A block of RAM that is reached directly: guest physical `start` to `end`, and its bytes."""

    start: int
    end: int
    view: memoryview


NO_BLOCK: Final = Block(0, 0, memoryview(b""))


class VtlMemory:
    """`memory` with the rights of `vtl` (`vmm.hypercall.outside.ProcessorMemory`, and `fill`).

    For one thread at a time. Each method raises `AccessInterceptedError` where a higher VTL forbids it,
    `GuestMemoryError` where there is no RAM; nothing is then changed.
    """

    __slots__ = (
        "__weakref__",
        "_above",
        "_end",
        "_executable",
        "_known",
        "_memory",
        "_readable",
        "_start",
        "_tables",
        "_view",
        "_writable",
        "busy",
        "vtl",
    )

    def __init__(
        self, memory: ProcessorRam, protections: MemoryProtections, vtl: int, block: Block = NO_BLOCK
    ) -> None:
        self.vtl: Final = vtl
        self.busy = False
        """An access is under way: it may have been checked already."""
        self._memory = memory
        self._start, self._end, self._view = block
        self._tables = protections.tables
        self._above = protections.from_above
        self._known: object = None  # the tables that the following were looked up in
        self._readable: set[int] = set()
        self._writable: set[int] = set()
        self._executable: set[int] = set()
        protections.add_user(self)

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""
        self.busy = True
        try:
            tables = self._tables[self.vtl]
            if tables and not (
                tables is self._known
                and gpa >> HV_PAGE_SHIFT in self._readable
                and (gpa & _IN_PAGE) + size <= HV_PAGE_SIZE
            ):
                self._check(gpa, size, READ, self._readable)
            if self._above[self.vtl]:
                return self._read_seen(gpa, size)
            start = self._start
            if start <= gpa and gpa + size <= self._end:
                return self._view[gpa - start : gpa - start + size].tobytes()
            return self._memory.read(gpa, size)
        finally:
            self.busy = False

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""
        self.busy = True
        try:
            size = len(data)
            tables = self._tables[self.vtl]
            if tables and not (
                tables is self._known
                and gpa >> HV_PAGE_SHIFT in self._writable
                and (gpa & _IN_PAGE) + size <= HV_PAGE_SIZE
            ):
                self._check(gpa, size, WRITE, self._writable)
            if self._above[self.vtl]:
                self._require_ram(gpa, size)
            start = self._start
            if start <= gpa and gpa + size <= self._end:
                self._view[gpa - start : gpa - start + size] = data
            else:
                self._memory.write(gpa, data)
        finally:
            self.busy = False

    def write_all(self, parts: Sequence[tuple[int, Buffer]]) -> None:
        """Store data at each of some addresses, or nothing. A change of rights comes before all of them or after."""
        self.busy = True
        try:
            for gpa, data in parts:
                self._check(gpa, len(data), WRITE, self._writable)
                self._require_ram(gpa, len(data))
                self._memory.read(gpa, len(data))
            for gpa, data in parts:
                self._memory.write(gpa, data)
        finally:
            self.busy = False

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        """See `vmm.outside.ProcessorRam`. The VTL must have both rights, whatever is found."""
        self.busy = True
        try:
            self._check(gpa, len(expected), WRITE, self._writable)
            self._check(gpa, len(expected), READ, self._readable)
            self._require_ram(gpa, len(expected))
            return self._memory.compare_exchange(gpa, expected, new)
        finally:
            self.busy = False

    def require_writable(self, gpa: int, size: int) -> None:
        """Raise what `write` would raise."""
        tables = self._tables[self.vtl]
        if tables and not (
            tables is self._known
            and gpa >> HV_PAGE_SHIFT in self._writable
            and (gpa & _IN_PAGE) + size <= HV_PAGE_SIZE
        ):
            self._check(gpa, size, WRITE, self._writable)
        if self._above[self.vtl]:
            self._require_ram(gpa, size)
        if not (self._start <= gpa and gpa + size <= self._end):
            self._memory.read(gpa, size)

    def fetch(self, gpa: int, size: int) -> bytes:
        """A copy of `size` instruction bytes at `gpa`, which the VTL may execute."""
        self.busy = True
        try:
            self._check(gpa, size, EXECUTE, self._executable)
            return self._read_seen(gpa, size)
        finally:
            self.busy = False

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        """Set `size` bytes at `gpa` to the byte `value`."""
        self.busy = True
        try:
            self._check(gpa, size, WRITE, self._writable)
            self._require_ram(gpa, size)
            self._memory.fill(gpa, size, value)
        finally:
            self.busy = False

    def _read_seen(self, gpa: int, size: int) -> bytes:
        """What the VTL sees, be it RAM or overlays of higher VTLs."""
        above = self._above[self.vtl]
        found = self._memory.read(gpa, size)
        for gpn in _pages(gpa, size) if above else ():
            page = above.get(gpn)
            if page is not None:
                start, end = max(gpa, gpn << HV_PAGE_SHIFT), min(gpa + size, gpn + 1 << HV_PAGE_SHIFT)
                seen = page.read(start & _IN_PAGE, end - start)
                found = found[: start - gpa] + seen + found[end - gpa :]
        return found

    def _require_ram(self, gpa: int, size: int) -> None:
        """Raise `GuestMemoryError` where the VTL sees an overlay of a higher VTL."""
        above = self._above[self.vtl]
        for gpn in _pages(gpa, size) if above else ():
            if gpn in above:
                raise GuestMemoryError(f"page {gpn:#x} is a higher VTL's overlay, which may only be read")

    def _check(self, gpa: int, size: int, wanted: int, allowed: set[int]) -> None:
        """Raise if any byte is refused; the first page is one of `allowed` then."""
        tables = self._tables[self.vtl]
        if not tables:
            return
        refused = refusing(tables, gpa, size, wanted)
        if refused is not None:
            raise AccessInterceptedError(refused.gpa, wanted == WRITE)
        if tables is not self._known or len(allowed) >= PAGES_KEPT:
            self._readable.clear()
            self._writable.clear()
            self._executable.clear()
            self._known = tables
        if size > 0:  # the first page: rights are the same in all of it
            allowed.add(gpa >> HV_PAGE_SHIFT)


def _pages(gpa: int, size: int) -> range:
    """Guest page numbers of a range."""
    return range(gpa >> HV_PAGE_SHIFT, (gpa + size + _IN_PAGE) >> HV_PAGE_SHIFT)


def report(
    protections: Protections, intercepts: MemoryIntercepts, vp: int, vtl: int, access: MemoryAccess
) -> None:
    """Tell the VTL that refuses `access`. Nobody may by now: then the access is made again, and told again if it fails.

    On the VP's thread, which is outside the guest; RIP is at the instruction.
    """
    refused = protections.refusing(vtl, access.gpa, 1, access.wanted)
    if refused is not None:
        intercepts.memory(vp, vtl, refused.owner, access)
