# SPDX-License-Identifier: Apache-2.0
"""Linux' `struct boot_params`, the "zero page" (x86/zero-page.rst, x86/boot.rst, uapi/asm/bootparam.h)."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot.image import pack
from vmm.machine.boot.layout import COMMAND_LINE, PAGE_SIZE
from vmm.machine.boot.request import E820Entry

# Offsets in boot_params; those of the setup header are the same in a bzImage file.
ACPI_RSDP_ADDR = 0x070
EXT_RAMDISK_IMAGE = 0x0C0
EXT_RAMDISK_SIZE = 0x0C4
E820_ENTRIES = 0x1E8
SETUP_SECTS = 0x1F1
SYSSIZE = 0x1F4
BOOT_FLAG = 0x1FE
JUMP_LENGTH = 0x201
HEADER_MAGIC = 0x202
VERSION = 0x206
TYPE_OF_LOADER = 0x210
LOADFLAGS = 0x211
CODE32_START = 0x214
RAMDISK_IMAGE = 0x218
RAMDISK_SIZE = 0x21C
HEAP_END_PTR = 0x224
CMD_LINE_PTR = 0x228
INITRD_ADDR_MAX = 0x22C
KERNEL_ALIGNMENT = 0x230
RELOCATABLE_KERNEL = 0x234
XLOADFLAGS = 0x236
CMDLINE_SIZE = 0x238
PREF_ADDRESS = 0x258
INIT_SIZE = 0x260
SETUP_HEADER_LIMIT = 0x290
E820_TABLE = 0x2D0

HDRS = 0x53726448
BOOT_FLAG_VALUE = 0xAA55
LOADER_UNDEFINED = 0xFF
"""`type_of_loader` of boot loaders without an assigned number."""
LOADED_HIGH = 1 << 0
CAN_USE_HEAP = 1 << 7
HEAP_END = 0xFE00
"""Heap and stack of the 16-bit set-up code end here. boot.rst asks for it, though that code is not run."""


def zero_page(
    setup_header: bytes, e820: Sequence[E820Entry], initrd_gpa: int, initrd_size: int, rsdp_gpa: int
) -> bytearray:
    """The page for a kernel whose command line is at COMMAND_LINE.

    `setup_header` begins at offset 0x1f1; the fields a boot loader writes are set in the copy.
    """
    page = bytearray(PAGE_SIZE)
    page[SETUP_SECTS : SETUP_SECTS + len(setup_header)] = setup_header

    def put(offset: int, layout: str, value: int) -> None:
        field = pack(layout, value)
        page[offset : offset + len(field)] = field

    put(ACPI_RSDP_ADDR, "Q", rsdp_gpa)
    put(TYPE_OF_LOADER, "B", LOADER_UNDEFINED)
    put(LOADFLAGS, "B", page[LOADFLAGS] | LOADED_HIGH | CAN_USE_HEAP)
    put(HEAP_END_PTR, "H", HEAP_END)
    put(CMD_LINE_PTR, "I", COMMAND_LINE.gpa)
    put(RAMDISK_IMAGE, "I", initrd_gpa & 0xFFFFFFFF)
    put(RAMDISK_SIZE, "I", initrd_size & 0xFFFFFFFF)
    put(EXT_RAMDISK_IMAGE, "I", initrd_gpa >> 32)
    put(EXT_RAMDISK_SIZE, "I", initrd_size >> 32)
    put(E820_ENTRIES, "B", len(e820))
    table = b"".join(pack("QQI", area.gpa, area.size, area.type) for area in e820)
    page[E820_TABLE : E820_TABLE + len(table)] = table
    return page
