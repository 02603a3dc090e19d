# SPDX-License-Identifier: Apache-2.0
"""`MemoryProtections`: what each VTL may do with guest memory, as higher VTLs have said (TLFS 15.9).

For each pair of a VTL and one above it there is a table of what the upper one, the owner of these protections, lets the
lower one do. A VTL has the rights that all its owners give. Only RAM has protections: what lies elsewhere, a device or
nothing, is no memory that a VTL could take away.

Rights change in one order: validated, then in force (`vmm.vsm.outside.Enforcement`), then in the tables, then accesses
of the VMM that began before are over. So a table may be an instant behind the processors, and whoever has a fault that
no table explains makes the access again.

| | pages | who |
|---|---|---|
| `configure` | all RAM, at the write that sets EnableVtlProtection | the owner, all VTLs below |
| `modify` | a list | the owner, one VTL below or all |

Implements: VSM-009, VSM-070, VSM-072, VSM-075, VSM-078, VSM-079, VSM-081, VSM-085, VSM-106, VSM-122, OHCL-006
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol
from weakref import WeakSet

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL, HV_PAGE_SHIFT, HV_PAGE_SIZE
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.vsm.outside import Enforcement, Refused, RightsChange
from vmm.vsm.ranges import END, RangeMap, Run, runs_of
from vmm.vsm.rights import ALL, rights_of

RANGES: Final = 1 << 20
"""Ranges that all tables together may have; more is INSUFFICIENT_MEMORY. They are 9 MiB, and 120 MiB for a moment where
all are told to a VM that is new. A secure kernel has some thousands; only one that gives neighbouring pages different
rights throughout 4 GiB comes here."""

_A_MOMENT_S: Final = 20e-6

Tables = tuple[tuple[int, RangeMap], ...]
"""`(owner, what it allows)` by rising owner."""


class MemoryUser(Protocol):
    """Makes accesses of a VTL: `vmm.vsm.memory.VtlMemory` is one."""

    @property
    def vtl(self) -> int:
        """Whose rights it has."""

    @property
    def busy(self) -> bool:
        """True from before it looks at the tables until the access is over."""


class SeenPage(Protocol):
    """An overlay page of a higher VTL that a VTL sees: `vmm.overlay.pages.OverlayPage` is one. Thread-safe."""

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`."""


class MemoryProtections:
    """A partition's. Thread-safe; `reset` with all VPs frozen. It is a `vmm.vsm.outside.Protections`."""

    def __init__(
        self, ram: Sequence[tuple[int, int]], enforcement: Enforcement, *, ranges: int = RANGES
    ) -> None:
        """ram: `(gpa, size)` in bytes, sorted. ranges: how many all tables together may have."""
        self.lock: Final = threading.Lock()
        """Held while rights change."""
        self.from_above: Sequence[Mapping[int, SeenPage]] = [{}] * HV_NUM_VTLS_ARCHITECTURAL
        """By VTL: overlays of higher VTLs that it sees, by guest page number (`vmm.overlay.pages.OverlayMap`). Set
        once, before anybody reads memory; what is in it is replaced, never changed."""
        self._users: WeakSet[MemoryUser] = WeakSet()
        self._enforcement = enforcement
        self._ranges = ranges
        # Blocks that touch are one; no page is RAM in part.
        self._ram = _joined([(gpa >> HV_PAGE_SHIFT, size >> HV_PAGE_SHIFT) for gpa, size in ram])
        self._ram_starts = [first for first, _ in self._ram]
        self.tables: Final[list[Tables]] = [()] * HV_NUM_VTLS_ARCHITECTURAL
        """By VTL that is restricted. What is in the list is replaced, never changed: reading needs no lock."""
        self._restricted = [False] * HV_NUM_VTLS_ARCHITECTURAL

    def _forget(self) -> None:
        for vtl in range(HV_NUM_VTLS_ARCHITECTURAL):
            self.tables[vtl] = ()
            self._restricted[vtl] = False

    def add_user(self, user: MemoryUser) -> None:
        """Changes wait for this one's accesses that have begun. It is forgotten when nobody else knows it."""
        with self.lock:
            self._users.add(user)

    # ---- asking --------------------------------------------------------------------------------------

    def is_ram(self, gpn: int) -> bool:
        """Whether a page is RAM."""
        index = bisect_right(self._ram_starts, gpn) - 1
        return index >= 0 and gpn < self._ram[index][0] + self._ram[index][1]

    def restricts(self, vtl: int) -> bool:
        """Whether `vtl` lacks a right to any page."""
        return self._restricted[vtl]

    def rights(self, vtl: int, gpn: int) -> int:
        """What every higher VTL lets `vtl` do with a page."""
        rights = ALL
        for _, table in self.tables[vtl]:
            rights &= table.get(gpn)
        return rights

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        """Who keeps `vtl` from an access, None if nobody does. wanted: rights, all of which it needs.

        The first byte that any VTL refuses counts; of several VTLs that refuse it, the lowest.
        """
        return refusing(self.tables[vtl], gpa, size, wanted)

    def restricted(self, vtl: int) -> list[RightsChange]:
        """All pages to which `vtl` lacks a right: for a VM that is new. The lock is held, or no VP runs."""
        tables = self.tables[vtl]
        changes = _Changes()
        for first, pages in self._ram if tables else ():
            for start, count, rights in _effective(tables, first, first + pages):
                if rights != ALL:
                    changes.add(start, count, rights)
        return changes.found

    # ---- changing ------------------------------------------------------------------------------------

    def configure(
        self, vtl: int, old: HV_REGISTER_VSM_PARTITION_CONFIG, new: HV_REGISTER_VSM_PARTITION_CONFIG
    ) -> int:
        """HvRegisterVsmPartitionConfig of `vtl`: with EnableVtlProtection the default mask comes into force. An
        `HvStatus`. The register's other bits are no matter of memory."""
        if old.EnableVtlProtection or not new.EnableVtlProtection:
            return HvStatus.SUCCESS
        rights = rights_of(new.DefaultVtlProtectionMask)
        if rights is None:
            return HvStatus.INVALID_REGISTER_VALUE
        return self._give(vtl, range(vtl), self._ram, rights)

    def modify(
        self, caller_vtl: int, target_vtl: int, map_flags: int, gpns: Sequence[int]
    ) -> tuple[HvStatus, int]:
        """HvCallModifyVtlProtectionMask of a VTL that may protect: the status, and how many pages have the rights.

        target_vtl: the one VTL that is restricted; the caller's own: all below it (VSM-072). A page that is not RAM is
        an error, which those before it in the list do not mind. With INSUFFICIENT_MEMORY nothing has changed.
        """
        rights = rights_of(map_flags)
        if rights is None:
            return HvStatus.INVALID_REGISTER_VALUE, 0
        good = next((at for at, gpn in enumerate(gpns) if not self.is_ram(gpn)), len(gpns))
        targets = range(caller_vtl) if target_vtl == caller_vtl else range(target_vtl, target_vtl + 1)
        status = self._give(caller_vtl, targets, runs_of(gpns[:good]), rights) if good else HvStatus.SUCCESS
        if status != HvStatus.SUCCESS:
            return status, 0
        return (HvStatus.SUCCESS if good == len(gpns) else HvStatus.INVALID_PARAMETER), good

    def reset(self) -> None:
        """Nobody restricts anything. All VPs are frozen."""
        with self.lock:
            self._forget()
            self._enforcement.reset()

    def _give(self, owner: int, targets: Sequence[int], runs: Sequence[Run], rights: int) -> HvStatus:
        """`owner` lets these VTLs have `rights` to these pages, or nothing changes."""
        with self.lock:
            plans = [self._plan(owner, vtl, runs, rights) for vtl in targets]
            if self._size(plans) > self._ranges:
                return HvStatus.INSUFFICIENT_MEMORY
            for number, plan in enumerate(plans):
                status = self._enforcement.apply(plan.vtl, plan.changes) if plan.changes else HvStatus.SUCCESS
                if status != HvStatus.SUCCESS:
                    self._take_back(plans[:number])
                    self._wait_for_users(targets)  # of what was in force for a moment
                    return status
                self._keep(plan.vtl, plan.tables)
            self._wait_for_users(targets)
        return HvStatus.SUCCESS

    def _wait_for_users(self, targets: Sequence[int]) -> None:
        """Until nobody makes an access that was checked by older tables: microseconds, a few milliseconds where the
        thread lost its turn in the middle. An access takes no lock and waits for nobody."""
        for user in self._users:
            while user.busy and user.vtl in targets:
                time.sleep(_A_MOMENT_S)

    def _plan(self, owner: int, vtl: int, runs: Sequence[Run], rights: int) -> _Plan:
        before = self.tables[vtl]
        owners = dict(before)
        owners[owner] = owners.get(owner, _UNRESTRICTED).changed(runs, rights)
        after = tuple(sorted(owners.items()))
        changes, undo = _Changes(), _Changes()
        for first, pages in runs:
            # The new table has one range here, so that others' ranges and old ones are all that is looked at.
            for start, count, new in _effective(after, first, first + pages):
                for at, pages_there, old in _effective(before, start, start + count):
                    if old != new:
                        changes.add(at, pages_there, new)
                        undo.add(at, pages_there, old)
        return _Plan(vtl, before, after, changes.found, undo.found)

    def _size(self, plans: Sequence[_Plan]) -> int:
        """Ranges of all tables behind these changes."""
        tables = dict(enumerate(self.tables)) | {plan.vtl: plan.tables for plan in plans}
        return sum(len(table) for of_vtl in tables.values() for _, table in of_vtl)

    def _keep(self, vtl: int, tables: Tables) -> None:
        self.tables[vtl] = tables
        self._restricted[vtl] = any(len(table) > 1 for _, table in tables)

    def _take_back(self, plans: Sequence[_Plan]) -> None:
        """A later VTL's part was refused. Where the host refuses the way back too, the tables say what is in force."""
        for plan in plans:
            if not plan.undo or self._enforcement.apply(plan.vtl, plan.undo) == HvStatus.SUCCESS:
                self._keep(plan.vtl, plan.before)


class _Plan(NamedTuple):
    """A change of one VTL's rights that has not been made."""

    vtl: int
    before: Tables
    tables: Tables
    changes: list[RightsChange]
    undo: list[RightsChange]


class _Changes:
    """Collects rights to pages, in order, as the fewest changes."""

    def __init__(self) -> None:
        self.found: list[RightsChange] = []

    def add(self, gpn: int, pages: int, rights: int) -> None:
        if self.found:
            last = self.found[-1]
            if last.rights == rights and last.gpn + last.pages == gpn:
                self.found[-1] = RightsChange(last.gpn, last.pages + pages, rights)
                return
        self.found.append(RightsChange(gpn, pages, rights))


_UNRESTRICTED: Final = RangeMap(ALL)


def refusing(tables: Tables, gpa: int, size: int, wanted: int) -> Refused | None:
    """`MemoryProtections.refusing` by these tables."""
    if size <= 0:
        return None
    first, end = gpa >> HV_PAGE_SHIFT, (gpa + size + HV_PAGE_SIZE - 1) >> HV_PAGE_SHIFT
    found: Refused | None = None
    for owner, table in tables:
        page = _first_lacking(table, first, end, wanted)
        if page is not None:
            # A VTL further up is asked only about what lies before.
            found, end = Refused(owner, max(gpa, page << HV_PAGE_SHIFT)), page
    return found


def _effective(tables: Tables, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """`(first page, pages, rights)` in pages `first` to `end`, as all owners together give them."""
    while first < end:
        rights, until = ALL, end
        for _, table in tables:
            allowed, stop = table.run(first)
            rights &= allowed
            until = min(until, stop)
        yield first, until - first, rights
        first = until


def _first_lacking(table: RangeMap, first: int, end: int, wanted: int) -> int | None:
    """The first page of `first` to `end` that does not have all the wanted rights."""
    end = min(end, END)
    while first < end:
        rights, stop = table.run(first)
        if wanted & ~rights:
            return first
        first = stop
    return None


def _joined(runs: Sequence[Run]) -> list[Run]:
    joined: list[Run] = []
    for first, pages in runs:
        if joined and joined[-1][0] + joined[-1][1] == first:
            joined[-1] = joined[-1][0], joined[-1][1] + pages
        else:
            joined.append((first, pages))
    return joined
