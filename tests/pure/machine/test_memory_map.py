# SPDX-License-Identifier: Apache-2.0
"""The memory map guests are told."""

from __future__ import annotations

import pytest

from vmm.machine.memory_map import E820_RAM, e820_map, pci_hole
from vmm.machine.ram import GIB, MIB, GuestRam


@pytest.mark.parametrize("size", [2 * MIB, 128 * MIB, 3 * GIB, 3 * GIB + MIB, 6 * GIB])
def test_the_map_is_sorted_disjoint_and_all_ram_in_it_exists(size: int) -> None:
    with GuestRam(size) as ram:
        entries = e820_map(ram)

        ends = [entry.gpa + entry.size for entry in entries]
        starts = [entry.gpa for entry in entries]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
        for entry in entries:
            ram.offset_of(entry.gpa, entry.size)  # raises for what is no RAM


def test_ram_above_4_gib_is_listed_whole() -> None:
    with GuestRam(6 * GIB) as ram:
        last = e820_map(ram)[-1]

    assert (last.gpa, last.size, last.type) == (4 * GIB, 3 * GIB, E820_RAM)


@pytest.mark.parametrize("size", [2 * MIB, 3 * GIB, 6 * GIB])
def test_the_pci_hole_never_overlaps_ram_or_the_ioapic(size: int) -> None:
    with GuestRam(size) as ram:
        base, length = pci_hole(ram)

        assert all(gpa + s <= base or gpa >= base + length for gpa, s in ram.ranges())
        assert base + length == 0xFEC00000
