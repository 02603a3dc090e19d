# SPDX-License-Identifier: Apache-2.0
"""Overlay pages and what happens when they are enabled, moved, stacked and disabled (TLFS 5.2.1).

A page belongs to the VMM and lives as long as its owner. Its contents survive being disabled and enabled
elsewhere; only `reset` clears them. While enabled, it hides what the guest had at that GPA; that comes back
unchanged.

The TLFS leaves undefined what a guest sees where it enables several overlays on one page. Here the one enabled
last is seen, those below keep their contents and come back in the opposite order, guest RAM at the very end.

A GPA that is not RAM is allowed: whether the guest can reach a page there is up to the backend. If not, the page
works as if nobody looked at it. So does a page that lies in guest RAM, where its VTL may not read and write that RAM:
it does not hide those below either.

Implements: SYN-003, MISC-008
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from vmm.hv.constants import HV_PAGE_SHIFT, HV_PAGE_SIZE

_U32: Final = 4
_ENABLE: Final = 1

Withdraw = Callable[[int, Callable[[int], bool]], None]
"""`(vtl, loses)`: no page of `vtl` is seen any more at guest page numbers that `loses` names."""


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


class OverlayBackend(Protocol):
    """How a page comes to be seen by a guest. Called with the overlay lock held: it must not call back."""

    separate_views: bool
    """Whether each VTL has a view of guest memory of its own. If not, all VTLs see every overlay."""

    def allowed(self, vtl: int, gpn: int) -> bool:
        """Whether a page of `vtl` may be shown at `gpn`. It may change, within `OverlayMap.changing`."""

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
        self._backend = backend
        # By (view, gpn): pages, last the one enabled last; and the one that is seen.
        self._stacks: dict[tuple[int, int], list[OverlayPage]] = {}
        self._seen: dict[tuple[int, int], OverlayPage] = {}

    def page(self, vtl: int, name: str, *, writable: bool = True) -> OverlayPage:
        """A new page of zeros for `vtl`, disabled. `name` is for traces ("SIMP of VP 1")."""
        return OverlayPage(self, vtl, name, writable)

    def at(self, vtl: int, gpn: int) -> OverlayPage | None:
        """The page that `vtl` sees at `gpn`, if any (TranslateVirtualAddress reports it)."""
        with self.lock:
            return self._seen.get((self._view(vtl), gpn))

    @property
    def separate_views(self) -> bool:
        """Whether each VTL sees its own overlays only."""
        return self._backend.separate_views

    @contextmanager
    def changing(self) -> Iterator[Withdraw]:
        """What `OverlayBackend.allowed` says changes within. No page is shown meanwhile, and from the end on those are
        that may be. What it gives is to be called before any VTL loses a page."""
        with self.lock:
            try:
                yield self._withdraw
            finally:
                for key in self._stacks:
                    self._settle(key)

    def _withdraw(self, vtl: int, loses: Callable[[int], bool]) -> None:
        for key, page in list(self._seen.items()):
            if page.vtl == vtl and loses(key[1]):
                page.conceal()
                del self._seen[key]

    def _view(self, vtl: int) -> int:
        return vtl if self._backend.separate_views else 0

    # What follows runs with the lock held.

    def put(self, page: OverlayPage, gpn: int) -> None:
        """Make `page` the one seen at `gpn`, if it may be."""
        key = (self._view(page.vtl), gpn)
        self._stacks.setdefault(key, []).append(page)
        self._settle(key)

    def take(self, page: OverlayPage, gpn: int) -> None:
        """Remove `page` from `gpn`; the one below it, or guest RAM, is seen if it was on top."""
        key = (self._view(page.vtl), gpn)
        stack = self._stacks[key]
        stack.remove(page)
        self._settle(key)
        if not stack:
            del self._stacks[key]

    def _settle(self, key: tuple[int, int]) -> None:
        """Have the last page seen that may be."""
        allowed, gpn = self._backend.allowed, key[1]
        wanted = next((page for page in reversed(self._stacks[key]) if allowed(page.vtl, gpn)), None)
        seen = self._seen.get(key)
        if wanted is seen:
            return
        if seen is not None:
            seen.conceal()
            del self._seen[key]
        if wanted is not None:
            wanted.expose(self._backend, gpn)
            self._seen[key] = wanted


class OverlayPage:
    """One page of the VMM's own. Reads and writes reach it whether the guest sees it or not. Thread-safe."""

    __slots__ = ("_kept", "_lock", "_map", "_shown", "gpn", "name", "vtl", "writable")

    def __init__(self, overlays: OverlayMap, vtl: int, name: str, writable: bool) -> None:
        self.vtl = vtl
        self.name = name
        self.writable = writable
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
