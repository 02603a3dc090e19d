# SPDX-License-Identifier: Apache-2.0
"""`ProtectedView`: one VTL's mapping of guest RAM, with less in it where the VTL has fewer rights.

A KVM VM reaches guest memory through the mapping that its memory slots show, and can do no more than that one allows:

| rights | in the mapping |
|---|---|
| RWX | read and write |
| RX | read |
| none, R, RW | nothing: a mapping cannot deny execute, so what is allowed is carried out by the VMM |

What a page has in the mapping follows from three things, in this order: an overlay that covers it (the overlay is
another page, the VTL's own; the page's rights count again when it is seen again), that the VMM lets it in for one
instruction, and the VTL's rights. Where the VTL sees an overlay of a higher VTL, that is what the rights are to, and
nothing can be written. The kernel takes translations away, of KVM's too, before mprotect(2) and mmap(2) return.

Implements: VSM-077, VSM-078, MISC-008, VSM-068, IMP-007
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from mmap import PROT_READ, PROT_WRITE
from typing import Final, Protocol

from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.protection.covers import runs_without
from vmm.outside import GuestMemory
from vmm.vsm.outside import RightsChange
from vmm.vsm.ranges import RangeMap
from vmm.vsm.rights import ALL, EXECUTE, READ, WRITE

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
OUT: Final = 0  # PROT_NONE
PROTECTION: Final = tuple(
    {ALL: PROT_READ | PROT_WRITE, READ | EXECUTE: PROT_READ}.get(rights, OUT) for rights in range(ALL + 1)
)
"""Of a page in the mapping, by rights."""
_DATA: Final = tuple(
    (PROT_READ if rights & READ else OUT) | (PROT_WRITE if rights & WRITE else OUT)
    for rights in range(ALL + 1)
)
"""Likewise, while nothing can be executed."""


class RamPages(OverlayView, Protocol):
    """A mapping of guest RAM (`vmm.machine.ram.RamView`). Errors: `OSError`."""

    def put_over(
        self, offset: int, fd: int, fd_offset: int, *, writable: bool, readable: bool = True
    ) -> None:
        """Show a page of another file."""

    def put_back(self, offset: int, protection: int = PROT_READ | PROT_WRITE) -> None:
        """Show RAM again."""

    def protect(self, offset: int, size: int, protection: int) -> None:
        """Change what the mapping allows."""

    def shown(self, offset: int, size: int) -> bytes:
        """Bytes of the mapping. To be asked only for pages that it lets be read."""


class ProtectedView:
    """See the module. Thread-safe. It is an `OverlayView` as well: all overlays of the VTL go through it."""

    def __init__(self, pages: RamPages, ram: GuestMemory, gpa_of: Sequence[tuple[int, int, int]]) -> None:
        """ram: all of it, whatever the rights. gpa_of: RAM as `(gpa, size, offset in the mapping)`."""
        self.offset_of = pages.offset_of
        self._pages = pages
        self._ram = ram
        self._gpa_of = gpa_of
        self._changing = threading.Lock()  # rights, or what is in for a moment; taken before `_lock`
        self._lock = threading.Lock()
        self._rights = RangeMap(ALL)
        self._covered: frozenset[int] = frozenset()
        self._read_only: frozenset[int] = frozenset()  # covered pages that the guest may not write
        self._from_above: Mapping[int, tuple[int, int]] = {}  # page number -> file, offset in it
        self._let_in: dict[int, int] = {}  # page number -> protection
        self._to_stay: dict[int, bytes] = {}  # what is to be as it was, though it can be written

    # ---- rights --------------------------------------------------------------------------------------

    def restricts(self) -> bool:
        """Whether any page has fewer than all rights. Without a lock."""
        return len(self._rights) > 1

    def rights(self, gpn: int) -> int:
        """What the VTL may do with a page of RAM. Without a lock."""
        return self._rights.get(gpn)

    def areas(self, changes: Sequence[RightsChange] = ()) -> int:
        """How many areas of memory (VMAs) the kernel needs for the mapping, once `changes` are made; at most."""
        rights = _changed(self._rights, changes)
        around = 2 * (len(self._covered) + len(self._from_above) + len(self._let_in)) + len(self._gpa_of)
        if len(rights) <= _FEW:
            return len(rights) + around
        protections = (PROTECTION[value] for _, _, value in rights.items())
        last, found = -1, 0
        for protection in protections:
            found += protection != last
            last = protection
        return found + around

    def without_execute(self, changes: Sequence[RightsChange] = ()) -> int:
        """How many pages can be read and not executed, once `changes` are made."""
        rights = _changed(self._rights, changes)
        return sum(pages for _, pages, value in rights.items() if value & READ and not value & EXECUTE)

    def apply(self, changes: Sequence[RightsChange]) -> None:
        """Bring `changes` into force. Errors: `OSError` of a mapping that the host refuses: all is as before then."""
        with self._changing, self._lock:
            before = self._rights
            done: list[RightsChange] = []
            self._rights = _changed(before, changes)
            try:
                for change in changes:
                    done.append(change)
                    self._protect(change, before)
            except OSError:
                self._rights = before
                self._take_back(done)
                raise

    def _protect(self, change: RightsChange, before: RangeMap) -> None:
        """One mprotect for each run of RAM that has it not yet."""
        gpn, pages, protection = change.gpn, change.pages, PROTECTION[change.rights]
        for page in [page for page in self._let_in if gpn <= page < gpn + pages]:
            del self._let_in[page]  # whoever let it in finds out when it faults again
            self._set(page, 1, self._protection(page))
        for page in [page for page in self._from_above if gpn <= page < gpn + pages]:
            self._set(page, 1, self._protection(page))
        for first, count in self._runs_of_ram(gpn, pages):
            value, end = before.run(first)
            if end >= first + count and PROTECTION[value] == protection:
                continue
            self._set(first, count, protection)

    def _take_back(self, done: Iterable[RightsChange]) -> None:
        """Protections as `_rights` says. The kernel had room for them before, so it has now."""
        for change in done:
            for page in self._from_above:
                if change.gpn <= page < change.gpn + change.pages:
                    self._set(page, 1, self._protection(page))
            for first, count in self._runs_of_ram(change.gpn, change.pages):
                end = first + count
                while first < end:
                    value, behind = self._rights.run(first)
                    behind = min(behind, end)
                    self._set(first, behind - first, PROTECTION[value])
                    first = behind

    def _runs_of_ram(self, gpn: int, pages: int) -> Iterator[tuple[int, int]]:
        """The runs of pages that no overlay is in the place of."""
        return runs_without(gpn, pages, self._covered | self._from_above.keys())

    def _protection(self, gpn: int) -> int:
        """What a page that is not covered has in the mapping by the VTL's rights."""
        return self._as_shown(gpn, PROTECTION[self._rights.get(gpn)])

    def _as_shown(self, gpn: int, protection: int) -> int:
        """`protection`, without what a page of a higher VTL does not give."""
        return protection & PROT_READ if gpn in self._from_above else protection

    def _set(self, gpn: int, pages: int, protection: int) -> None:
        size = pages << PAGE_SHIFT
        self._pages.protect(self.offset_of(gpn << PAGE_SHIFT, size), size, protection)

    def reset(self) -> None:
        """All rights to all pages. Overlays stay. Errors: `OSError`."""
        with self._lock:
            self._let_in.clear()
            restricted = [(gpn, pages) for gpn, pages, value in self._rights.items() if value != ALL]
            self._rights = RangeMap(ALL)
            for gpn in self._from_above:
                self._set(gpn, 1, self._protection(gpn))
            for gpn, pages in restricted:
                for first, count in self._runs_of_ram(gpn, pages):
                    self._set(first, count, PROTECTION[ALL])

    # ---- overlays (vmm.backend.hyperv.mapped_overlays.OverlayView) --------------------------------------

    def put_over(self, offset: int, fd: int, fd_offset: int, *, writable: bool) -> None:
        """Show a page of another file in the place of the page at `offset`, whatever the rights to that one are."""
        with self._lock:
            self._pages.put_over(offset, fd, fd_offset, writable=writable)
            gpn = self._gpn(offset)
            self._let_in.pop(gpn, None)
            self._covered = self._covered | {gpn}
            if not writable:
                self._read_only = self._read_only | {gpn}

    def put_from_above(self, offset: int, fd: int, fd_offset: int) -> None:
        """Show a page of a higher VTL's in the place of the page at `offset`, as far as the rights to that one go."""
        with self._lock:
            gpn = self._gpn(offset)
            readable = PROTECTION[self._rights.get(gpn)] != OUT
            self._pages.put_over(offset, fd, fd_offset, writable=False, readable=readable)
            self._let_in.pop(gpn, None)
            self._from_above = {**self._from_above, gpn: (fd, fd_offset)}

    def put_back(self, offset: int) -> None:
        """Show RAM again, as far as the VTL's rights go."""
        with self._lock:
            gpn = self._gpn(offset)
            self._let_in.pop(gpn, None)
            self._pages.put_back(offset, PROTECTION[self._rights.get(gpn)])
            self._covered = self._covered - {gpn}
            self._read_only = self._read_only - {gpn}
            self._from_above = {page: place for page, place in self._from_above.items() if page != gpn}

    def covered(self, gpn: int) -> bool:
        """Whether an overlay of the VTL's own is in the place of the page. Without a lock."""
        return gpn in self._covered

    def read_only(self, gpn: int) -> bool:
        """Whether an overlay is in the place of the page that the guest may not write, whatever its rights to RAM.
        Without a lock."""
        return gpn in self._read_only or gpn in self._from_above

    def shows_read_only(self) -> bool:
        """Whether there is any such page. Without a lock."""
        return bool(self._read_only or self._from_above)

    def is_ram(self, gpn: int) -> bool:
        """Whether there is RAM at that page number."""
        gpa = gpn << PAGE_SHIFT
        return any(start <= gpa < start + size for start, size, _ in self._gpa_of)

    def unreadable(self, gpn: int) -> bool:
        """Whether the mapping does not let a page of RAM be read, for whatever reason. Without a lock."""
        return gpn not in self._covered and PROTECTION[self._rights.get(gpn)] == OUT

    def restrained(self, gpn: int) -> bool:
        """Whether the mapping does not let the VTL both read and write a page of RAM. Without a lock."""
        return self._rights.get(gpn) != ALL and gpn not in self._covered

    def _gpn(self, offset: int) -> int:
        for gpa, size, start in self._gpa_of:
            if start <= offset < start + size:
                return gpa + offset - start >> PAGE_SHIFT
        raise ValueError(f"offset {offset:#x} of the mapping is no guest RAM")

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of one page as the VTL's processors find them, whatever its rights: an overlay, or RAM.

        To find out what a processor did, never for the VTL. Errors: `GuestMemoryError`.
        """
        gpn = gpa >> PAGE_SHIFT
        with self._lock:
            if gpn in self._covered:
                return self._pages.shown(self.offset_of(gpa, size), size)
            if gpn in self._from_above:  # which the mapping may not let be read
                fd, start = self._from_above[gpn]
                return os.pread(fd, size, start + gpa % PAGE_SIZE)
        return self._ram.read(gpa, size)

    # ---- what is allowed though the mapping does not have it --------------------------------------------

    def lacks(self, gpn: int, wanted: int) -> bool:
        """Whether the mapping denies an access of a kind that the rights, and the page, allow. Without a lock."""
        if gpn in self._covered or (wanted == WRITE and gpn in self._from_above):
            return False
        rights = self._rights.get(gpn)
        protection = self._let_in.get(gpn, PROTECTION[rights])
        needed = PROT_READ | PROT_WRITE if wanted == WRITE else PROT_READ
        return bool(rights & wanted) and protection & needed != needed

    def let_in(self, pages: dict[int, int], walked: Iterable[int] = ()) -> bool:
        """Put pages into the mapping for data that the VTL may access: page number to READ or WRITE.

        walked: page tables, which a processor may want to write even where no bit in them changes: those that the VTL
        may read can be written then, and `let_out` undoes what was written to those that it may only read: nobody
        knows all instructions that write. False: it may not do all of that, and nothing is changed. Only while none of
        the VTL's processors runs, but for one instruction of one. `let_out` follows. Errors: `OSError`.
        """
        with self._lock:
            if any(not self._rights.get(gpn) & wanted for gpn, wanted in pages.items()):
                return False
            protections = {gpn: _DATA[self._rights.get(gpn)] for gpn in pages}
            for gpn in walked:
                rights = self._rights.get(gpn)
                if rights & READ:
                    protections[gpn] = PROT_READ | PROT_WRITE
                in_ram = gpn not in self._covered and gpn not in self._from_above
                if rights & READ and not rights & WRITE and in_ram:
                    self._to_stay[gpn] = self._ram.read(gpn << PAGE_SHIFT, PAGE_SIZE)
            for gpn, protection in protections.items():
                if gpn not in self._covered:
                    self._let_in[gpn] = self._as_shown(gpn, protection)
                    self._set(gpn, 1, self._let_in[gpn])
            return True

    def let_out(self) -> bool:
        """Undo `let_in`. False: rights to one of the pages have changed meanwhile, and it is out already."""
        with self._lock:
            pages, self._let_in = self._let_in, {}
            for gpn in pages:
                self._set(gpn, 1, self._protection(gpn))
            kept, self._to_stay = self._to_stay, {}
            for gpn, contents in kept.items():
                if self._ram.read(gpn << PAGE_SHIFT, PAGE_SIZE) != contents:
                    self._ram.write(gpn << PAGE_SHIFT, contents)
            return bool(pages)

    @contextlib.contextmanager
    def without(self, gpns: Sequence[int]) -> Iterator[None]:
        """Pages are out of the mapping for a moment, in which no guest code needs to run. Errors: `OSError`."""
        if not gpns:
            yield
            return
        with self._changing:
            self.take_out(gpns)
            try:
                yield
            finally:
                self.let_out()

    def take_out(self, gpns: Iterable[int]) -> None:
        """Take pages out of the mapping that the VTL has rights to, until `let_out`. Errors: `OSError`."""
        with self._lock:
            for gpn in gpns:
                if gpn not in self._covered and gpn not in self._let_in:
                    self._let_in[gpn] = OUT
                    self._set(gpn, 1, OUT)


_FEW: Final = 1024
"""Ranges that are not worth looking which of them are one area for the kernel."""


def _changed(rights: RangeMap, changes: Sequence[RightsChange]) -> RangeMap:
    for value in sorted({change.rights for change in changes}):
        runs = sorted((change.gpn, change.pages) for change in changes if change.rights == value)
        rights = rights.changed(runs, value)
    return rights
