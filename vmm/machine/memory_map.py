# SPDX-License-Identifier: Apache-2.0
"""The guest physical memory map, as the guest is told of it (E820, ACPI 6.5 section 15).

| from | to | what |
|---|---|---|
| 0 | 0x9fc00 | RAM |
| 0x9fc00 | 0xa0000 | RAM, reserved (extended BIOS data area) |
| 0xa0000 | 0xc0000 | VGA hole, nothing there |
| 0xc0000 | 0xe0000 | RAM that no map lists (option ROMs on a PC) |
| 0xe0000 | 0x100000 | RAM, reserved: ACPI tables, real-mode interrupt handlers |
| 0x100000 | end of RAM or 3 GiB | RAM |
| 3 GiB | 4 GiB | PCI hole, IOAPIC, local APIC |
| 0xfffff000 | 4 GiB | the page at 0xff000 once more, read-only: the reset vector |
| 4 GiB | | the rest of RAM |
"""

from __future__ import annotations

from vmm.machine.boot.request import E820Entry
from vmm.outside import GuestMemory

E820_RAM, E820_RESERVED = 1, 2
EBDA_GPA = 0x9FC00
ACPI_AREA_GPA, ACPI_AREA_END_GPA = 0xE0000, 0x100000
PCI_HOLE_END_GPA = 0xFEC00000  # the IOAPIC's page


def e820_map(ram: GuestMemory) -> list[E820Entry]:
    """The map above for this RAM."""
    entries = [
        E820Entry(0, EBDA_GPA, E820_RAM),
        E820Entry(EBDA_GPA, 0xA0000 - EBDA_GPA, E820_RESERVED),
        E820Entry(ACPI_AREA_GPA, ACPI_AREA_END_GPA - ACPI_AREA_GPA, E820_RESERVED),
    ]
    for gpa, size in ram.ranges():
        start = max(gpa, ACPI_AREA_END_GPA)
        if start < gpa + size:
            entries.append(E820Entry(start, gpa + size - start, E820_RAM))
    return entries


def pci_hole(ram: GuestMemory) -> tuple[int, int]:
    """`(gpa, size)` of the addresses below 4 GiB that PCI memory windows may use: from RAM's end, at least
    from 3 GiB where RAM reaches above 4 GiB, to the IOAPIC."""
    low_end = max(gpa + size for gpa, size in ram.ranges() if gpa < 1 << 32)
    start = max(low_end, 0xC0000000)
    return start, PCI_HOLE_END_GPA - start
