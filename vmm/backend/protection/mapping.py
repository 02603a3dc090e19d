# SPDX-License-Identifier: Apache-2.0
"""`Mapping`: rights of VTLs by what each VTL's KVM VM has mapped (`vmm.vsm.outside.Enforcement`), on any KVM.

A change of rights is one mprotect(2) for each run of pages, whatever its length. Memory and time grow with the runs.
Each run is an area of the process' address space, of which the kernel allows vm.max_map_count (65530 as a rule) to a
process: a guest that alternates rights page by page gets INSUFFICIENT_MEMORY at that limit, and keeps the old rights.

Huge pages of the host cannot be split by mprotect: a machine with them has no memory protections (`choose`).

A page that can be read and not executed is out of the mapping, and each access to it is carried out by the VMM. That
holds for page tables, too, and a KVM that emulates ring 0 walks them itself: it would find none. So there a VTL can
have `MOST_EMULATED` such pages, and a guest that asks for more, such as a default mask without execute, is refused with
FEATURE_UNAVAILABLE.

Implements: VSM-077, VSM-078, VSM-079
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from vmm.backend.protection.view import ProtectedView
from vmm.hv.status import HvStatus
from vmm.vsm.outside import RightsChange

RESERVED_AREAS: Final = 4096
"""Areas of the address space that are left to the rest of the process: libraries, threads, the heap, vCPUs."""

MOST_EMULATED: Final = 256
"""Pages that can be read and not executed, of a VTL on a KVM that emulates ring 0: 1 MiB."""

_DEFAULT_LIMIT: Final = 65530  # Linux, DEFAULT_MAX_MAP_COUNT


def area_limit() -> int:
    """vm.max_map_count of this host."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return _DEFAULT_LIMIT


class Mapping:
    """See the module. `views`: VTL to its view of memory."""

    def __init__(
        self,
        areas: int | None = None,
        *,
        most_without_execute: int | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """areas: how many of them all views together may take; None: what the host allows.

        most_without_execute: pages of each VTL that can be read and not executed; None: any number. changed: told
        behind each change of rights, without a lock of this object.
        """
        self._changed = changed
        self._most_without_execute = most_without_execute
        self.views: dict[int, ProtectedView] = {}
        self._areas = area_limit() - RESERVED_AREAS if areas is None else areas
        self._lock = threading.Lock()

    def add(self, vtl: int, view: ProtectedView) -> None:
        """The VM of a VTL has been made; none of its vCPUs runs. Its rights follow, by `apply`."""
        with self._lock:
            self.views[vtl] = view

    def remove(self, vtl: int) -> None:
        """The VM of a VTL is gone."""
        with self._lock:
            self.views.pop(vtl, None)

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        """See `vmm.vsm.outside.Enforcement`. A VTL without a VM has nothing to be kept from.

        FEATURE_UNAVAILABLE where this host cannot deny execution of so many pages.
        """
        status = self._apply(vtl, changes)
        self._changed()
        return status

    def _apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        with self._lock:
            view = self.views.get(vtl)
            if view is None:
                return HvStatus.SUCCESS
            if self._most_without_execute is not None:
                pages = view.without_execute(changes)
                if pages > self._most_without_execute and pages > view.without_execute():
                    return HvStatus.FEATURE_UNAVAILABLE
            others = sum(other.areas() for number, other in self.views.items() if number != vtl)
            if view.areas(changes) + others > self._areas:
                return HvStatus.INSUFFICIENT_MEMORY
            try:
                view.apply(changes)
            except OSError:
                return HvStatus.INSUFFICIENT_MEMORY
            return HvStatus.SUCCESS

    def reset(self) -> None:
        """See `vmm.vsm.outside.Enforcement`. Errors: `OSError`."""
        with self._lock:
            for view in self.views.values():
                view.reset()

    def restricts(self) -> bool:
        """Whether any VTL has fewer than all rights to any page. Any thread."""
        with self._lock:
            return any(view.restricts() for view in self.views.values())
