# SPDX-License-Identifier: Apache-2.0
"""Identity page tables for guests that start in 64-bit mode (SDM volume 3, 4.5: 4-level paging)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from vmm.machine.boot.layout import FOUR_GIB, GIB, MIB, PAGE_SIZE, PAGE_TABLES
from vmm.machine.boot.plan import LoadPlan

ENTRIES = 512
LARGE_PAGE_SIZE = 2 * MIB
PRESENT_WRITABLE = 0x3
PRESENT_WRITABLE_LARGE = 0x83


def place_identity_map(plan: LoadPlan, end: int) -> int:
    """Map `[0, end)`, at least the first 4 GiB, on itself with 2 MiB pages, writable and executable.

    1 GiB pages would need less room, but not every processor model has them. The tables of 4 GiB lie in
    PAGE_TABLES, longer ones on the highest free pages below 4 GiB. Call it when the image has its place.
    Returns CR3. Errors: `BootError` when there is no room.
    """
    directories = -(-max(end, FOUR_GIB) // GIB)
    pointer_tables = -(-directories // ENTRIES)
    size = (1 + pointer_tables + directories) * PAGE_SIZE
    gpa: int | None = PAGE_TABLES.gpa
    if size > PAGE_TABLES.size:
        gpa = plan.highest_free(size, PAGE_SIZE, MIB, FOUR_GIB)
    if gpa is None:
        raise plan.no_room(PAGE_TABLES.what, size, MIB, FOUR_GIB)
    pointers_gpa = gpa + PAGE_SIZE
    directories_gpa = pointers_gpa + pointer_tables * PAGE_SIZE
    tables = _table(range(pointers_gpa, directories_gpa, PAGE_SIZE), PRESENT_WRITABLE)
    tables += _table(range(directories_gpa, gpa + size, PAGE_SIZE), PRESENT_WRITABLE)
    tables += _table(range(0, directories * GIB, LARGE_PAGE_SIZE), PRESENT_WRITABLE_LARGE)
    plan.place(PAGE_TABLES.what, gpa, tables)
    return gpa


def _table(targets: Iterable[int], bits: int) -> bytes:
    """Entries for `targets`, filled up to whole pages."""
    entries = array("Q", (target | bits for target in targets))
    entries.extend([0] * (-len(entries) % ENTRIES))
    return entries.tobytes()
