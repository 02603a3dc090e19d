# SPDX-License-Identifier: Apache-2.0
"""Rights of VTLs by memory attributes: what a VTL may not do with a page, its own KVM VM is told (api.rst 4.141).

One ioctl for a run of pages, whatever its length: the kernel keeps ranges, too. It flushes what is cached of the old
rights, and waits for accesses of its own that are under way, before it returns.

Implements: VSM-078, VSM-081, VSM-082
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from kvmapi import KvmError, Vm
from kvmapi.uapi.vsm import KVM_MEMORY_ATTRIBUTE_NR, KVM_MEMORY_ATTRIBUTE_NW, KVM_MEMORY_ATTRIBUTE_NX
from vmm.backend.protection.covers import Covers
from vmm.backend.protection.faults import Alias
from vmm.hv.constants import HV_PAGE_SHIFT
from vmm.hv.status import HvStatus
from vmm.vsm.outside import RightsChange
from vmm.vsm.ranges import RangeMap
from vmm.vsm.rights import ALL, EXECUTE, NONE, READ, WRITE

ATTRIBUTES: Final = tuple(
    (0 if rights & READ else KVM_MEMORY_ATTRIBUTE_NR)
    | (0 if rights & WRITE else KVM_MEMORY_ATTRIBUTE_NW)
    | (0 if rights & EXECUTE else KVM_MEMORY_ATTRIBUTE_NX)
    for rights in range(ALL + 1)
)
"""By rights: what KVM is to forbid."""


class _View:
    """What one VTL's VM has been told."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.rights = RangeMap(ALL)
        self.covers = Covers()

    def keep(self, changes: Sequence[RightsChange]) -> None:
        """These rights are in force."""
        for rights in {change.rights for change in changes}:
            runs = [(change.gpn, change.pages) for change in changes if change.rights == rights]
            self.rights = self.rights.changed(runs, rights)

    def kept(self, gpn: int, pages: int) -> list[RightsChange]:
        """The rights in force for these pages."""
        found, end = [], gpn + pages
        while gpn < end:
            rights, stop = self.rights.run(gpn)
            found.append(RightsChange(gpn, min(stop, end) - gpn, rights))
            gpn = stop
        return found


class Attributes:
    """`vmm.vsm.outside.Enforcement`. Thread-safe."""

    def __init__(self, aliases: Sequence[Alias]) -> None:
        """aliases: of RAM, in every VTL's memory slots."""
        self._aliases = [
            (alias.gpa >> HV_PAGE_SHIFT, alias.size >> HV_PAGE_SHIFT, alias.ram_gpa >> HV_PAGE_SHIFT)
            for alias in aliases
        ]
        self._views: dict[int, _View] = {}  # by VTL
        self._lock = threading.Lock()

    def adopt(self, vtl: int, vm: Vm, restricted: Iterable[RightsChange]) -> None:
        """The VM of a VTL, which runs nothing yet, and the rights that it has not. Errors: `KvmError`."""
        view, changes = _View(vm), list(restricted)
        for change in changes:
            self._tell(view, change)
        view.keep(changes)
        with self._lock:
            self._views[vtl] = view

    def drop_higher(self) -> None:
        """Only VTL0's VM is left."""
        with self._lock:
            self._views = {vtl: view for vtl, view in self._views.items() if not vtl}

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        """See `vmm.vsm.outside.Enforcement`. A VTL without a VM gets its rights with it (`adopt`)."""
        with self._lock:
            view = self._views.get(vtl)
            if view is None:
                return HvStatus.SUCCESS
            done: list[RightsChange] = []
            try:
                for change in view.covers.seen(changes):
                    done.append(change)  # before: it may have been carried out in part
                    self._tell(view, change)
            except KvmError:
                self._restore(view, done)
                return HvStatus.INSUFFICIENT_MEMORY
            view.keep(changes)
            return HvStatus.SUCCESS

    def tell_again(self, vtl: int, gpn: int) -> None:
        """Tell the kernel what `vtl` may do with a page, which it may deny as a whole for want of memory (`apply`).

        Errors: `KvmError`, where there still is none.
        """
        with self._lock:
            if (view := self._views.get(vtl)) is not None:
                for part in view.covers.seen(view.kept(gpn, 1)):
                    self._tell(view, part)

    def reset(self) -> None:
        """See `vmm.vsm.outside.Enforcement`. Errors: `KvmError`."""
        with self._lock:
            for view in self._views.values():
                for first, pages, rights in view.rights.items():
                    if rights != ALL:
                        self._tell(view, RightsChange(first, pages, ALL))
                view.rights = RangeMap(ALL)

    def covered(self, vtl: int, gpa: int) -> None:
        """An overlay of `vtl`'s is in the place of the page at `gpa`, and may be used whatever that one's rights.

        Errors: `KvmError`.
        """
        gpn = gpa >> HV_PAGE_SHIFT
        with self._lock:
            if (view := self._views.get(vtl)) is not None:
                view.covers.add(gpn)
                self._tell(view, RightsChange(gpn, 1, ALL))

    def uncovered(self, vtl: int, gpa: int) -> None:
        """The overlay is about to go: the page's rights come first. Errors: `KvmError`."""
        gpn = gpa >> HV_PAGE_SHIFT
        with self._lock:
            if (view := self._views.get(vtl)) is not None:
                view.covers.discard(gpn)
                self._tell(view, RightsChange(gpn, 1, view.rights.get(gpn)))

    def _restore(self, view: _View, changes: Iterable[RightsChange]) -> None:
        """Back to the rights that were. Where the kernel has no memory for them either, the pages are denied as a
        whole: never is more allowed than the guest was told. Errors: `KvmError`, where not even that can be done.
        """
        for change in changes:
            try:
                for part in view.covers.seen(view.kept(change.gpn, change.pages)):
                    self._tell(view, part)
            except KvmError:
                self._tell(view, RightsChange(change.gpn, change.pages, NONE))

    def _tell(self, view: _View, change: RightsChange) -> None:
        attributes = ATTRIBUTES[change.rights]
        first, end = change.gpn, change.gpn + change.pages
        view.vm.set_memory_attributes(first << HV_PAGE_SHIFT, change.pages << HV_PAGE_SHIFT, attributes)
        for alias, pages, original in self._aliases:
            low, high = max(first, original), min(end, original + pages)
            if low < high:
                gpa = (alias + low - original) << HV_PAGE_SHIFT
                view.vm.set_memory_attributes(gpa, (high - low) << HV_PAGE_SHIFT, attributes)
