# SPDX-License-Identifier: Apache-2.0
"""Overlay pages by copying: the page is written into guest RAM, what was there is saved and written back.

It works everywhere: in tests, and where huge pages back guest RAM, so that a page of the VMM's own cannot be mapped in
(`vmm.backend.hyperv.mapped_overlays`). What differs from a real overlay:

- The guest can write to every page, the hypercall page too; TLFS 3.13 asks for #GP. What it wrote is gone when
  the overlay is disabled.
- All VTLs share guest RAM, so an overlay of one VTL is seen, and can be written, by all others (`separate_views` is
  False); the TLFS gives each its own (VSM-068). Stacks then span VTLs, so nothing is lost when they overlap. It is
  no door: where overlays are copied nobody can protect memory, and VTL0 may write all of RAM anyway.
- The RAM below changes for whoever looks past the processors: DMA into such a page is lost at disable (undefined
  in the TLFS).
- Where there is no RAM, the guest sees nothing; a real overlay is seen there.
- `fetch_or` is atomic against guests only if the machine lends its own; else a flag that a guest clears with a
  locked instruction in the same instant may come back: a spurious event, never a lost one.
"""

from __future__ import annotations

from collections.abc import Callable

from vmm.hv.constants import HV_PAGE_SHIFT, HV_PAGE_SIZE
from vmm.outside import GuestMemory, GuestMemoryError

FetchOr = Callable[[int, int], int]
"""`(gpa, mask) -> old byte`: an atomic OR on a byte of guest RAM."""


class CopiedPage:
    """A page that lies in guest RAM now (`vmm.overlay.pages.ShownPage`)."""

    __slots__ = ("_below", "_fetch_or", "_gpa", "_memory")

    def __init__(self, memory: GuestMemory, gpa: int, below: bytes, fetch_or: FetchOr | None) -> None:
        self._memory = memory
        self._gpa = gpa
        self._below = below
        self._fetch_or = fetch_or

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`."""
        return self._memory.read(self._gpa + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        self._memory.write(self._gpa + offset, data)

    def fetch_or(self, offset: int, mask: int) -> int:
        """Set the bits of `mask` in the byte at `offset`; its value before."""
        if self._fetch_or is not None:
            return self._fetch_or(self._gpa + offset, mask)
        before = self._memory.read(self._gpa + offset, 1)[0]
        self._memory.write(self._gpa + offset, bytes((before | mask,)))
        return before

    def hide(self) -> bytes:
        """Write the guest's own page back. The overlay's last contents."""
        contents = self._memory.read(self._gpa, HV_PAGE_SIZE)
        self._memory.write(self._gpa, self._below)
        return contents

    def share(self, vtl: int) -> bool:
        """Every VTL sees it already."""
        return True

    def withdraw(self, vtl: int) -> None:
        """It goes with `hide`."""


class CopyingBackend:
    """Overlay pages copied into `memory` (`vmm.overlay.pages.OverlayBackend`)."""

    separate_views = False

    def __init__(self, memory: GuestMemory, fetch_or: FetchOr | None = None) -> None:
        """fetch_or: the machine's atomic OR on guest RAM, where it has one."""
        self._memory = memory
        self._fetch_or = fetch_or

    def show(self, vtl: int, gpn: int, contents: bytes, writable: bool) -> CopiedPage | None:
        """Save what is at `gpn` and put `contents` there; None where there is no RAM."""
        gpa = gpn << HV_PAGE_SHIFT
        try:
            below = self._memory.read(gpa, HV_PAGE_SIZE)
            self._memory.write(gpa, contents)
        except GuestMemoryError:
            return None
        return CopiedPage(self._memory, gpa, below, self._fetch_or)
