# SPDX-License-Identifier: Apache-2.0
"""Linux' bzImage through its 64-bit entry (x86/boot.rst, "64-bit Boot Protocol").

The 16-bit set-up code is left out: its header is copied into the zero page, the protected-mode part goes to
its preferred address, and the guest starts at `startup_64`, 0x200 into it, in 64-bit mode, RSI = zero page.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot import zero_page as zp
from vmm.machine.boot.entry import GDT, EntryState, long_mode
from vmm.machine.boot.image import Image, cstring
from vmm.machine.boot.layout import COMMAND_LINE, FOUR_GIB, MIB, PAGE_SIZE, ZERO_PAGE
from vmm.machine.boot.layout import GDT as GDT_AREA
from vmm.machine.boot.page_tables import place_identity_map
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry
from vmm.machine.boot.start_info import place_initrd

MINIMUM_VERSION = 0x020C
"""The first with `xloadflags`; Linux 3.8."""
XLF_KERNEL_64 = 1 << 0
XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1
SECTOR_SIZE = 512
SETUP_SECTS_DEFAULT = 4
PARAGRAPH_SIZE = 16
ENTRY_64_OFFSET = 0x200


def is_bzimage(image: Image) -> bool:
    """Whether `image` has a Linux setup header (of any version)."""
    head = image.head(zp.VERSION)
    return (
        len(head) == zp.VERSION
        and int.from_bytes(head[zp.BOOT_FLAG : zp.BOOT_FLAG + 2], "little") == zp.BOOT_FLAG_VALUE
        and int.from_bytes(head[zp.HEADER_MAGIC : zp.HEADER_MAGIC + 4], "little") == zp.HDRS
    )


def load(request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Place the kernel, its initrd and the zero page. Errors: `BootError`."""
    image = request.kernel
    header = _setup_header(image)
    kernel = _protected_mode_part(image)
    load_gpa = _place_kernel(image, plan, kernel)
    limit = image.u32(zp.CMDLINE_SIZE, "cmdline_size")
    cmdline = cstring(request.cmdline, min(limit, COMMAND_LINE.size - 1), "the command line")
    plan.place_area(COMMAND_LINE, cmdline)
    plan.place_area(GDT_AREA, GDT)
    cr3 = place_identity_map(plan, FOUR_GIB)
    initrd_gpa, initrd_size = place_initrd(request, plan, _initrd_end(request, plan))
    page = zp.zero_page(header, e820, initrd_gpa, initrd_size, rsdp_gpa)
    page[zp.CODE32_START : zp.CODE32_START + 4] = load_gpa.to_bytes(4, "little")
    plan.place_area(ZERO_PAGE, page)
    gprs = {"rsi": ZERO_PAGE.gpa}
    return long_mode(load_gpa + ENTRY_64_OFFSET, gprs, GDT_AREA.gpa, cr3, "Linux bzImage")


def _setup_header(image: Image) -> bytes:
    """The setup header as the zero page takes it, when the kernel can be booted this way."""
    version = image.u16(zp.VERSION, "the boot protocol's version")
    if version < MINIMUM_VERSION:
        raise image.error(
            f"is a bzImage with boot protocol {version >> 8}.{version & 0xFF:02}; 2.12 or newer is needed "
            "(Linux 3.8), older ones have no 64-bit entry that tells of itself"
        )
    # From 2.12 on every field up to init_size is there.
    image.part(zp.SETUP_SECTS, zp.INIT_SIZE + 4 - zp.SETUP_SECTS, "the setup header")
    if not image.u8(zp.LOADFLAGS, "loadflags") & zp.LOADED_HIGH:
        raise image.error("is a zImage, loaded below 1 MiB: build a bzImage")
    if not image.u16(zp.XLOADFLAGS, "xloadflags") & XLF_KERNEL_64:
        raise image.error(
            "is a 32-bit kernel (xloadflags lacks XLF_KERNEL_64): an x86-64 one with a 64-bit entry is needed"
        )
    end = zp.HEADER_MAGIC + image.u8(zp.JUMP_LENGTH, "the setup header's length")
    least, most = zp.INIT_SIZE + 4, zp.SETUP_HEADER_LIMIT
    if not least <= end <= most:
        raise image.error(
            f"its setup header ends at {end:#x}, {least:#x} to {most:#x} was expected: it is corrupt"
        )
    return bytes(image.part(zp.SETUP_SECTS, end - zp.SETUP_SECTS, "the setup header"))


def _protected_mode_part(image: Image) -> memoryview:
    """What is loaded. `syssize` counts it; a signature may follow in the file."""
    sectors = image.u8(zp.SETUP_SECTS, "setup_sects") or SETUP_SECTS_DEFAULT
    start = (sectors + 1) * SECTOR_SIZE
    size = image.u32(zp.SYSSIZE, "syssize") * PARAGRAPH_SIZE
    if size <= ENTRY_64_OFFSET:
        raise image.error(f"its protected-mode part has only {size} bytes (syssize): it is corrupt")
    return image.part(start, size, "the protected-mode part (syssize)")


def _place_kernel(image: Image, plan: LoadPlan, kernel: memoryview) -> int:
    """Put the kernel at `pref_address`, or where it may go instead, with its `init_size` of room."""
    preferred = image.u64(zp.PREF_ADDRESS, "pref_address")
    align = image.u32(zp.KERNEL_ALIGNMENT, "kernel_alignment")
    room = max(image.u32(zp.INIT_SIZE, "init_size"), len(kernel))
    gpa: int | None = preferred
    if image.u8(zp.RELOCATABLE_KERNEL, "relocatable_kernel"):
        if align == 0 or align & (align - 1):
            raise image.error(f"its kernel_alignment {align:#x} is no power of two: it is corrupt")
        if plan.lowest_free(room, 1, preferred, preferred + room) is None:
            # Lower would not help: a kernel below pref_address moves itself up to it.
            gpa = plan.lowest_free(room, align, max(preferred, MIB), FOUR_GIB)
    if gpa is None or gpa + room > FOUR_GIB:
        raise plan.no_room("the kernel (init_size)", room, preferred, FOUR_GIB)
    plan.place("the kernel", gpa, kernel)
    # Not zeroed: the kernel clears what it wants clear.
    plan.claim("the kernel (init_size)", gpa + len(kernel), room - len(kernel))
    return gpa


def _initrd_end(request: BootRequest, plan: LoadPlan) -> int:
    """Where the initrd must end: `initrd_addr_max`, or RAM's end if it fits only there and may lie there."""
    image = request.kernel
    end = min(image.u32(zp.INITRD_ADDR_MAX, "initrd_addr_max") + 1, FOUR_GIB)
    anywhere = image.u16(zp.XLOADFLAGS, "xloadflags") & XLF_CAN_BE_LOADED_ABOVE_4G
    if anywhere and request.initrd and plan.highest_free(request.initrd.size, PAGE_SIZE, MIB, end) is None:
        return plan.ram_end
    return end
