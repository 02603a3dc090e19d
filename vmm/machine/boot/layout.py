# SPDX-License-Identifier: Apache-2.0
"""Where the boot structures lie in guest memory.

They sit high in the first 640 KiB: start-up code for other processors and 16-bit guests take the bottom
(kvm-unit-tests' trampoline is at 0, its `realmode` image at 0x8000), kernels start at 1 MiB. A structure is
only stored when the protocol needs it, and only then is its place closed to the guest's image. All of it is
RAM in the memory map: a guest may overwrite what it has read.
"""

from __future__ import annotations

from typing import NamedTuple

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE_SIZE = 4 * KIB
FOUR_GIB = 4 * GIB


class Area(NamedTuple):
    """`size` bytes at guest physical `gpa` for `what`."""

    gpa: int
    size: int
    what: str


GDT = Area(0x90000, 0x1000, "the GDT")
START_INFO = Area(0x91000, 0x1000, "the boot information")  # multiboot info or hvm_start_info, module list
MEMORY_MAP = Area(0x92000, 0x1000, "the memory map")  # of multiboot or PVH
ZERO_PAGE = Area(0x93000, 0x1000, "the zero page")  # Linux' struct boot_params
STACK = Area(0x94000, 0x1000, "the boot stack")  # plain ELF64 only
COMMAND_LINE = Area(0x95000, 0x2000, "the command line")
MODULE_NAME = Area(0x97000, 0x2000, "the initrd's name")  # multiboot only
PAGE_TABLES = Area(0x99000, 0x6000, "the page tables")  # PML4, PDPT, 4 page directories

BOOT_AREAS = (GDT, START_INFO, MEMORY_MAP, ZERO_PAGE, STACK, COMMAND_LINE, MODULE_NAME, PAGE_TABLES)
"""The table of the structures above, sorted by address."""

BOARD_AREAS = (
    Area(0x9FC00, 0x400, "the extended BIOS data area"),
    Area(0xE0000, 0x20000, "the ACPI tables"),
)
"""RAM that belongs to the board: no image may be loaded there."""

MAX_MEMORY_MAP_ENTRIES = 128
"""Length of `boot_params.e820_table` (x86/include/uapi/asm/bootparam.h), kept by the other protocols too."""
