# SPDX-License-Identifier: Apache-2.0
"""Overlay pages by mapping: a page of the VMM's own in the place of RAM, in one VTL's view of guest memory.

Each VTL's KVM VM has its memory slots over a mapping of its own of guest RAM. An overlay replaces one host page of that
mapping by one of the overlays' memory file, which the kernel does atomically under running VPs: no memory slot is
split, no VP stopped. RAM below stays as it is, for DMA and for other VTLs; the VMM's own mapping of RAM does not
change. A page that the guest may not write (the hypercall page) is mapped without write permission: see
`vmm.backend.hyperv.refused_writes`. One that lower VTLs see too (the reference TSC page) is mapped into their views so.

Where there is no RAM, nobody sees the page. The VMM's own look at guest memory (hypercall parameters, page walks) sees
RAM, not an overlay of the VTL's own on it; what a VTL sees of a higher one, `vmm.vsm.memory.VtlMemory` sees as well.

Implements: HCP-007, HCP-008, VSM-068, IMP-008
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from vmm.hv.constants import HV_PAGE_SHIFT, HV_PAGE_SIZE
from vmm.outside import GuestMemoryError

FetchOr = Callable[[int, int], int]
"""`(host address, mask) -> old byte`: an atomic OR."""


class OverlayView(Protocol):
    """One VTL's mapping of guest RAM. Errors: `OSError`, nothing is changed then."""

    def offset_of(self, gpa: int, size: int) -> int:
        """Where RAM lies in the mapping. Errors: `GuestMemoryError`."""

    def put_over(self, offset: int, fd: int, fd_offset: int, *, writable: bool) -> None:
        """Show a page of another file in the place of the page at `offset`."""

    def put_from_above(self, offset: int, fd: int, fd_offset: int) -> None:
        """Likewise a page of a higher VTL's: read-only, as far as this VTL's rights to the RAM in its place go."""

    def put_back(self, offset: int) -> None:
        """Show RAM again."""


class MappedPage:
    """A page of the pool that a guest sees now (`vmm.overlay.pages.ShownPage`)."""

    __slots__ = ("_at", "_gpn", "_key", "_offset", "_overlays", "_view")

    def __init__(
        self,
        overlays: MappedOverlays,
        at: int,
        view: OverlayView,
        gpn: int,
        offset: int,
        key: tuple[int, int] | None,
    ) -> None:
        self._overlays = overlays
        self._at = at
        self._view = view
        self._gpn = gpn
        self._offset = offset
        self._key = key

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`."""
        return self._overlays.pool[self._at + offset : self._at + offset + size]

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        self._overlays.pool[self._at + offset : self._at + offset + len(data)] = data

    def fetch_or(self, offset: int, mask: int) -> int:
        """Set the bits of `mask` in the byte at `offset`; its value before."""
        return self._overlays.fetch_or(self._at + offset, mask)

    def hide(self) -> bytes:
        """Let the guest see RAM again. The overlay's last contents."""
        self._view.put_back(self._offset)
        contents = self.read(0, HV_PAGE_SIZE)
        self._overlays.give_back(self._at, self._key)
        return contents

    def share(self, vtl: int) -> bool:
        """Show the page in a lower VTL's view too."""
        return self._overlays.share(vtl, self._gpn, self._offset, self._at)

    def withdraw(self, vtl: int) -> None:
        """Let a lower VTL see RAM again."""
        self._overlays.withdraw(vtl, self._gpn, self._offset)


class MappedOverlays:
    """Overlay pages mapped into VTLs' views (`vmm.overlay.pages.OverlayBackend`).

    `views`: VTL to its view; one may be added while no VP of that VTL runs (`OverlayMap.view_added` follows). All of
    them have RAM at the same offsets. `refused` are the VTL's own pages, `(VTL, guest page number)`, that it may not
    write; `from_above` those of higher VTLs that it sees and may not write either. Both are read without the lock.
    """

    separate_views = True

    def __init__(self, views: Mapping[int, OverlayView], pages: int, fetch_or: FetchOr | None) -> None:
        """pages: how many can be shown at once. fetch_or: the machine's atomic OR, where it has one.

        Errors: `OSError`.
        """
        self.views = dict(views)
        self.refused: frozenset[tuple[int, int]] = frozenset()
        self.from_above: frozenset[tuple[int, int]] = frozenset()
        self._lock = threading.Lock()
        size = pages * HV_PAGE_SIZE
        self._fd = os.memfd_create("hyperv-overlays", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, size)
            self.pool = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError:
            os.close(self._fd)
            raise
        pin = ctypes.c_char.from_buffer(self.pool)
        self._address = ctypes.addressof(pin)
        self._free = list(range(0, size, HV_PAGE_SIZE))
        self._fetch_or = fetch_or

    def close(self) -> None:
        """Free the pool's own mapping; pages that are shown stay so. Nobody reads or writes any more. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.pool.close()

    def drop_higher(self) -> None:
        """Reset: the views of VTLs above 0 are gone. They show no page any more, and none of another VTL's."""
        self.views = {vtl: view for vtl, view in self.views.items() if not vtl}

    def show(self, vtl: int, gpn: int, contents: bytes, writable: bool) -> MappedPage | None:
        """Put `contents` in the place of the page `gpn` of `vtl`; None where there is no RAM, or no page is left."""
        view = self.views.get(vtl)
        if view is None or not self._free:
            return None
        try:
            offset = view.offset_of(gpn << HV_PAGE_SHIFT, HV_PAGE_SIZE)
        except GuestMemoryError:
            return None
        with self._lock:
            at = self._free.pop()
            key = None if writable else (vtl, gpn)
            if key is not None:
                self.refused = self.refused | {key}
        self.pool[at : at + HV_PAGE_SIZE] = contents
        view.put_over(offset, self._fd, at, writable=writable)
        return MappedPage(self, at, view, gpn, offset, key)

    def give_back(self, at: int, key: tuple[int, int] | None) -> None:
        """A page is no longer shown."""
        with self._lock:
            self._free.append(at)
            if key is not None:
                self.refused = self.refused - {key}

    def share(self, vtl: int, gpn: int, offset: int, at: int) -> bool:
        """Show the page at `at` of the pool in the view of `vtl`, a lower one than its own; False without a view."""
        view = self.views.get(vtl)
        if view is None:
            return False
        with self._lock:
            self.from_above = self.from_above | {(vtl, gpn)}
        view.put_from_above(offset, self._fd, at)
        return True

    def withdraw(self, vtl: int, gpn: int, offset: int) -> None:
        """Undo `share`."""
        self.views[vtl].put_back(offset)
        with self._lock:
            self.from_above = self.from_above - {(vtl, gpn)}

    def fetch_or(self, at: int, mask: int) -> int:
        """Set bits of a byte of the pool; its value before."""
        if self._fetch_or is not None:
            return self._fetch_or(self._address + at, mask)
        before = self.pool[at]
        self.pool[at] = before | mask
        return before
