# SPDX-License-Identifier: Apache-2.0
"""Overlay pages and what happens when they are enabled, moved, stacked and disabled (TLFS 5.2.1).

A page belongs to the VMM and lives as long as its owner. Its contents survive being disabled and enabled
elsewhere; only `reset` clears them. While enabled, it hides what the guest had at that GPA; that comes back
unchanged.

The TLFS leaves undefined what a guest sees where it enables several overlays on one page. Here the one enabled
last is seen, those below keep their contents and come back in the opposite order, guest RAM at the very end.

A GPA that is not RAM is allowed: whether the guest can reach a page there is up to the backend. If not, the page
works as if nobody looked at it.

Each VTL has overlays of its own and does not see those of others, so that no VTL changes what a higher one finds in
memory. One kind is seen from below as well, the reference TSC page: a partition has one (TLFS 12.7), and it holds no
secret. At each GPA a VTL sees

1. the page of its own that was enabled last,
2. else, of the VTLs above that see such a page there, the lowest one's: read-only, as far as its rights to RAM go,
3. else RAM.

Where all VTLs find the same memory (`OverlayBackend.separate_views` is false), all see what was enabled last.

Implements: SYN-003, MISC-008, VSM-068
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, Protocol

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL, HV_PAGE_SHIFT, HV_PAGE_SIZE

_U32: Final = 4
_ENABLE: Final = 1


class ShownPage(Protocol):
    """An overlay page that a guest sees now. Offsets and sizes stay inside the page."""

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`."""

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`, first byte first."""

    def fetch_or(self, offset: int, mask: int) -> int:
        """Set the bits of `mask` in the byte at `offset`; its value before. Atomic as far as `write` can be."""

    def hide(self) -> bytes:
        """Let the guest see what was there before. The page's last contents; the object is used up."""

    def share(self, vtl: int) -> bool:
        """Show the page to a lower VTL too, which sees RAM there now: read-only, as far as its rights to that RAM go.

        False where the VTL has no view yet. Never called where all VTLs have the same one.
        """

    def withdraw(self, vtl: int) -> None:
        """Undo `share`: `vtl` sees RAM."""


class OverlayBackend(Protocol):
    """How a page comes to be seen by a guest. Called with the overlay lock held: it must not call back."""

    separate_views: bool
    """Whether each VTL has a view of guest memory of its own. If not, all VTLs see every overlay."""

    def show(self, vtl: int, gpn: int, contents: bytes, writable: bool) -> ShownPage | None:
        """Put a page with `contents` (4096 bytes) at guest page number `gpn` of `vtl`'s view.

        writable: whether the guest may store to it (the hypercall page: no).
        None when no guest can reach that GPA here. Never called for a GPA where a page is shown already.
        """


class OverlayMap:
    """All overlay pages of a partition. Thread-safe.

    One lock for all: enabling is rare, and two VPs may enable pages on the same GPA. It is taken below the
    locks of the pages' owners and held while the backend touches guest memory, never while anything else runs.
    """

    def __init__(self, backend: OverlayBackend) -> None:
        self.lock: Final = threading.Lock()
        self.from_above: Final[list[Mapping[int, OverlayPage]]] = [{}] * HV_NUM_VTLS_ARCHITECTURAL
        """By VTL: where it sees pages of higher ones, by guest page number. What is in the list is replaced, never
        changed: reading needs no lock."""
        self._backend = backend
        # By (view, gpn): pages, last the one enabled last; and the one that the view's own VTL sees.
        self._stacks: dict[tuple[int, int], list[OverlayPage]] = {}
        self._seen: dict[tuple[int, int], OverlayPage] = {}

    def page(self, vtl: int, name: str, *, writable: bool = True, seen_below: bool = False) -> OverlayPage:
        """A new page of zeros for `vtl`, disabled. `name` is for traces ("SIMP of VP 1").

        writable: by a guest in `vtl`. seen_below: whether lower VTLs may see it.
        """
        return OverlayPage(self, vtl, name, writable, seen_below)

    def at(self, vtl: int, gpn: int) -> OverlayPage | None:
        """The page that `vtl` sees at `gpn`, if any (TranslateVirtualAddress reports it)."""
        with self.lock:
            return self._seen.get((self._view(vtl), gpn)) or self.from_above[vtl].get(gpn)

    @property
    def separate_views(self) -> bool:
        """Whether each VTL has overlays that others do not see."""
        return self._backend.separate_views

    def view_added(self, vtl: int) -> None:
        """The backend has a view of `vtl` now, which shows RAM: pages of VTLs that were there before are to be seen."""
        with self.lock:
            for gpn in {gpn for view, gpn in self._seen if view > vtl}:
                self._share(vtl, gpn, self._wanted_from_above(vtl, gpn))

    def _view(self, vtl: int) -> int:
        return vtl if self._backend.separate_views else 0

    # What follows runs with the lock held.

    def put(self, page: OverlayPage, gpn: int) -> None:
        """Make `page` the one seen at `gpn`."""
        self._stacks.setdefault((self._view(page.vtl), gpn), []).append(page)
        self._settle(page.vtl, gpn)

    def take(self, page: OverlayPage, gpn: int) -> None:
        """Remove `page` from `gpn`; the one below it, or guest RAM, is seen if it was on top."""
        key = (self._view(page.vtl), gpn)
        stack = self._stacks[key]
        stack.remove(page)
        if not stack:
            del self._stacks[key]
        self._settle(page.vtl, gpn)

    def _settle(self, vtl: int, gpn: int) -> None:
        """Have `vtl` and those below see what they should, after a change of `vtl`'s pages."""
        key = (self._view(vtl), gpn)
        stack, seen = self._stacks.get(key), self._seen.get(key)
        wanted = stack[-1] if stack else None
        if wanted is seen:
            return
        if wanted is None:
            del self._seen[key]
        else:
            self._seen[key] = wanted
        views = range(vtl, -1, -1) if self._backend.separate_views else ()
        from_above = {view: self._wanted_from_above(view, gpn) for view in views}
        for view, page in from_above.items():
            self._withdraw(view, gpn, page)
        if seen is not None:
            seen.conceal()
        if wanted is not None:
            wanted.expose(self._backend, gpn)
        for view, page in from_above.items():
            self._share(view, gpn, page)

    def _wanted_from_above(self, vtl: int, gpn: int) -> OverlayPage | None:
        """The page of a higher VTL that `vtl` is to see at `gpn`."""
        if (vtl, gpn) in self._seen:
            return None
        above = (self._seen.get((view, gpn)) for view in range(vtl + 1, HV_NUM_VTLS_ARCHITECTURAL))
        return next((page for page in above if page is not None and page.seen_below), None)

    def _withdraw(self, vtl: int, gpn: int, wanted: OverlayPage | None) -> None:
        """No longer show `vtl` another page of a higher VTL than `wanted`."""
        shown = self.from_above[vtl].get(gpn)
        if shown is not None and shown is not wanted:
            self.from_above[vtl] = {at: page for at, page in self.from_above[vtl].items() if at != gpn}
            shown.withdraw(vtl)  # last: a guest that can write there again must not be told that it cannot

    def _share(self, vtl: int, gpn: int, wanted: OverlayPage | None) -> None:
        """Show `vtl` the page `wanted` of a higher VTL, if there is one."""
        if wanted is not None and self.from_above[vtl].get(gpn) is not wanted and wanted.share(vtl):
            self.from_above[vtl] = {**self.from_above[vtl], gpn: wanted}


class OverlayPage:
    """One page of the VMM's own. Reads and writes reach it whether the guest sees it or not. Thread-safe."""

    __slots__ = ("_kept", "_lock", "_map", "_shown", "gpn", "name", "seen_below", "vtl", "writable")

    def __init__(self, overlays: OverlayMap, vtl: int, name: str, writable: bool, seen_below: bool) -> None:
        self.vtl = vtl
        self.name = name
        self.writable = writable
        self.seen_below = seen_below
        self.gpn: int | None = None
        """Guest page number where it is enabled; None when disabled."""
        self._map = overlays
        self._lock = overlays.lock
        self._kept = bytearray(HV_PAGE_SIZE)  # the contents while `_shown` is None
        self._shown: ShownPage | None = None

    def enable(self, gpn: int) -> None:
        """Show the page at guest page number `gpn`, moving it there if it is shown elsewhere."""
        with self._lock:
            if self.gpn == gpn:
                return
            if self.gpn is not None:
                self._map.take(self, self.gpn)
            self.gpn = gpn
            self._map.put(self, gpn)

    def disable(self) -> None:
        """Let the guest see again what is below. Harmless when disabled."""
        with self._lock:
            if self.gpn is not None:
                self._map.take(self, self.gpn)
                self.gpn = None

    def follow(self, msr: int) -> None:
        """Be where the value of an MSR says: enabled by bit 0, at the guest page number in bits 63:12."""
        if msr & _ENABLE:
            self.enable(msr >> HV_PAGE_SHIFT)
        else:
            self.disable()

    def reset(self) -> None:
        """Disable and fill with zeros."""
        self.disable()
        self.write(0, bytes(HV_PAGE_SIZE))

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`."""
        with self._lock:
            if self._shown is not None:
                return self._shown.read(offset, size)
            return bytes(self._kept[offset : offset + size])

    def read_u32(self, offset: int) -> int:
        """The little-endian 32-bit word at `offset`."""
        return int.from_bytes(self.read(offset, _U32), "little")

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`, first byte first."""
        with self._lock:
            if self._shown is not None:
                self._shown.write(offset, data)
            else:
                self._kept[offset : offset + len(data)] = data

    def write_u32(self, offset: int, value: int) -> None:
        """Store a little-endian 32-bit word at `offset`."""
        self.write(offset, value.to_bytes(_U32, "little"))

    def fetch_or(self, offset: int, mask: int) -> int:
        """Set the bits of `mask` in the byte at `offset`; its value before."""
        with self._lock:
            if self._shown is not None:
                return self._shown.fetch_or(offset, mask)
            before = self._kept[offset]
            self._kept[offset] = before | mask
            return before

    # Called by `OverlayMap` with the lock held.

    def expose(self, backend: OverlayBackend, gpn: int) -> None:
        """Become what the guest sees."""
        self._shown = backend.show(self.vtl, gpn, bytes(self._kept), self.writable)

    def conceal(self) -> None:
        """No longer be what the guest sees; keep the contents."""
        if self._shown is not None:
            self._kept[:] = self._shown.hide()
            self._shown = None

    def share(self, vtl: int) -> bool:
        """Be what a lower VTL sees, too. False where it cannot see it: then nobody else does, or it has no view yet."""
        return self._shown is not None and self._shown.share(vtl)

    def withdraw(self, vtl: int) -> None:
        """No longer be what a lower VTL sees."""
        assert self._shown is not None  # it was shared, and has not been concealed since
        self._shown.withdraw(vtl)
