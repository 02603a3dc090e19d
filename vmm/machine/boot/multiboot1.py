# SPDX-License-Identifier: Apache-2.0
"""Multiboot 1 (Multiboot Specification 0.6.96): what kvm-unit-tests' `.flat` and `.elf` images are.

The image is an ELF file loaded by its program headers, or any file whose header has flag bit 16 and tells the
addresses itself. One initrd becomes one module, right above the image. The guest starts in 32-bit protected
mode with EAX = 0x2BADB002 and EBX = the information structure.

The information's values are QEMU's (flags 0x24f, boot device, `mem_upper` 128 KiB short of the RAM below
4 GiB), as kvm-unit-tests take `mem_upper * 1024` for the end of their heap. Only addresses differ, see
`vmm.machine.boot.layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vmm.machine.boot.elf import entry_gpa, is_elf, parse_elf, place_segments
from vmm.machine.boot.entry import GDT, EntryState, protected_mode
from vmm.machine.boot.image import Image, cstring, pack, printable
from vmm.machine.boot.layout import (
    COMMAND_LINE,
    FOUR_GIB,
    KIB,
    MEMORY_MAP,
    MIB,
    MODULE_NAME,
    PAGE_SIZE,
    START_INFO,
)
from vmm.machine.boot.layout import GDT as GDT_AREA
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry

HEADER_MAGIC = 0x1BADB002
HEADER_SEARCH_BYTES = 8192
MULTIBOOT2_MAGIC = 0xE85250D6
MULTIBOOT2_SEARCH_BYTES = 32768
LOADER_MAGIC = 0x2BADB002
ADDRESS_FIELDS = 1 << 16

REQUIRED_FLAGS = {0: "modules on page boundaries", 1: "memory information", 2: "video mode information"}
"""Bits 0..15 are demands: a loader that cannot meet one must refuse the image (3.1.2)."""
HONOURED_FLAGS = 1 << 0 | 1 << 1

INFO_MEMORY, INFO_BOOT_DEVICE, INFO_CMDLINE, INFO_MODULES, INFO_MMAP, INFO_LOADER_NAME = (
    1 << bit for bit in (0, 1, 2, 3, 6, 9)
)
BOOT_DEVICE = 0x8000FFFF
"""First hard disk, whole: what QEMU gives, with no disk behind it."""
MEM_LOWER_KIB = 639
"""Up to the extended BIOS data area."""
MEM_UPPER_GAP_BYTES = 128 * KIB
"""QEMU's room for ACPI data at the end of the RAM below 4 GiB. Ours is elsewhere, the figure stays."""

# Inside START_INFO, behind the information structure (116 bytes at most).
_MODULES_OFFSET = 0x100
_LOADER_NAME_OFFSET = 0x200
_LOADER_NAME = b"vmm\0"


class Header(NamedTuple):
    """The header found at `offset` of the file; the addresses count only with flag bit 16."""

    offset: int
    flags: int
    header_addr: int = 0
    load_addr: int = 0
    load_end_addr: int = 0
    bss_end_addr: int = 0
    entry_addr: int = 0


def find_header(image: Image) -> Header | None:
    """The multiboot header: 4-aligned and wholly inside the first 8 KiB, the three first fields' sum 0."""
    head = image.head(HEADER_SEARCH_BYTES)
    magic = pack("I", HEADER_MAGIC)
    offset = head.find(magic)
    while 0 <= offset <= len(head) - 12:
        flags, checksum = (int.from_bytes(head[offset + at : offset + at + 4], "little") for at in (4, 8))
        if offset % 4 == 0 and (HEADER_MAGIC + flags + checksum) & 0xFFFFFFFF == 0:
            if not flags & ADDRESS_FIELDS:
                return Header(offset, flags)
            addresses = (image.u32(offset + at, "the multiboot header") for at in range(12, 32, 4))
            return Header(offset, flags, *addresses)
        offset = head.find(magic, offset + 1)
    return None


def has_multiboot2_header(image: Image) -> bool:
    """Whether `image` has the header of the later, different protocol (Multiboot2 2.0, 3.1.1)."""
    head = image.head(MULTIBOOT2_SEARCH_BYTES)
    magic = pack("I", MULTIBOOT2_MAGIC)
    offset = head.find(magic)
    while 0 <= offset <= len(head) - 16:
        fields = (int.from_bytes(head[offset + at : offset + at + 4], "little") for at in range(0, 16, 4))
        if offset % 8 == 0 and sum(fields) & 0xFFFFFFFF == 0:
            return True
        offset = head.find(magic, offset + 1)
    return False


def load(request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Place the guest, its module and the information structure. Errors: `BootError`."""
    header = find_header(request.kernel)
    if header is None:
        raise request.kernel.error("has no multiboot 1 header in its first 8 KiB")
    _check_flags(request.kernel, header)
    if header.flags & ADDRESS_FIELDS:
        entry, end = _place_by_addresses(request.kernel, plan, header)
    else:
        entry, end = _place_by_elf(request.kernel, plan)
    if end > FOUR_GIB:
        raise request.kernel.error(f"reaches up to {end:#x}, a multiboot 1 image must end below 4 GiB")
    name = request.name or request.kernel.path
    cmdline = f"{name} {request.cmdline}" if request.cmdline else name
    plan.place_area(COMMAND_LINE, cstring(cmdline, COMMAND_LINE.size - 1, "the command line"))
    plan.place_area(GDT_AREA, GDT)
    mmap = b"".join(pack("IQQI", 20, area.gpa, area.size, area.type) for area in e820)
    plan.place_area(MEMORY_MAP, mmap)
    modules = _place_module(request.initrd, plan, end) if request.initrd else b""
    info = pack(
        "11I",
        INFO_MEMORY | INFO_BOOT_DEVICE | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME,
        MEM_LOWER_KIB,
        max(plan.low_ram_end - MIB - MEM_UPPER_GAP_BYTES, 0) // KIB,
        BOOT_DEVICE,
        COMMAND_LINE.gpa,
        1 if modules else 0,
        START_INFO.gpa + _MODULES_OFFSET,
        *(0, 0, 0, 0),  # symbols: neither a.out nor ELF ones are given
    )
    info += pack("2I", len(mmap), MEMORY_MAP.gpa)
    info += pack("4I", 0, 0, 0, START_INFO.gpa + _LOADER_NAME_OFFSET)  # no drives, no ROM configuration table
    page = bytearray(info.ljust(_LOADER_NAME_OFFSET, b"\0"))
    page[_MODULES_OFFSET : _MODULES_OFFSET + len(modules)] = modules
    plan.place_area(START_INFO, bytes(page) + _LOADER_NAME)
    return protected_mode(entry, {"rax": LOADER_MAGIC, "rbx": START_INFO.gpa}, GDT_AREA.gpa, "multiboot 1")


def _check_flags(image: Image, header: Header) -> None:
    refused = header.flags & 0xFFFF & ~HONOURED_FLAGS
    if refused:
        names = ", ".join(
            f"bit {bit} ({REQUIRED_FLAGS.get(bit, 'not defined by the specification')})"
            for bit in range(16)
            if refused >> bit & 1
        )
        raise image.error(f"its multiboot header demands {names}, which is not offered: build it without")


def _place_by_elf(image: Image, plan: LoadPlan) -> tuple[int, int]:
    """Entry and first address above the image."""
    if not is_elf(image):
        raise image.error(
            "has a multiboot header without address fields (flag bit 16), so an ELF file was expected, "
            f"but it begins with {image.head(4).hex(' ')}"
        )
    elf = parse_elf(image)
    entry = entry_gpa(image, elf)
    return entry, place_segments(image, elf, plan)


def _place_by_addresses(image: Image, plan: LoadPlan, header: Header) -> tuple[int, int]:
    """Entry and first address above the image, from the header's address fields (3.1.3)."""
    start = header.offset - (header.header_addr - header.load_addr)
    if header.header_addr < header.load_addr or start < 0:
        raise image.error(
            f"its multiboot header says that it lies at {header.header_addr:#x} of an image loaded at "
            f"{header.load_addr:#x}, which does not fit its file offset {header.offset:#x}: it is corrupt"
        )
    load_end = header.load_end_addr or header.load_addr + image.size - start
    bss_end = header.bss_end_addr or load_end
    if not header.load_addr <= header.entry_addr < load_end <= bss_end:
        raise image.error(
            f"its multiboot header's addresses are not in order: load {header.load_addr:#x}, entry "
            f"{header.entry_addr:#x}, load end {load_end:#x}, bss end {bss_end:#x}: it is corrupt"
        )
    data = image.part(start, load_end - header.load_addr, "the image")
    plan.place("the image", header.load_addr, data, bss_end - header.load_addr)
    return header.entry_addr, bss_end


def _place_module(initrd: Image, plan: LoadPlan, image_end: int) -> bytes:
    """The module list with `initrd` in it, on the first free page above the image."""
    start = max(image_end, MIB)
    gpa = plan.lowest_free(initrd.size, PAGE_SIZE, start, FOUR_GIB)
    if gpa is None:
        raise plan.no_room(f"the initrd {printable(initrd.path)}", initrd.size, start, FOUR_GIB)
    plan.place("the initrd", gpa, initrd.data)
    name = cstring(initrd.path, MODULE_NAME.size - 1, "the initrd's name")
    plan.place_area(MODULE_NAME, name)
    return pack("4I", gpa, gpa + initrd.size, MODULE_NAME.gpa, 0)
