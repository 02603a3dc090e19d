# SPDX-License-Identifier: Apache-2.0
"""A plain ELF64 executable, started in 64-bit mode at its entry point.

There is no standard for this; a guest gets what makes a start in C easy and, with RSI, what Linux' 64-bit
entry asks for (a `vmlinux` without PVH note boots that way):

| register | value |
|---|---|
| RIP | `e_entry` (translated when it is a virtual address of a segment, see `elf.entry_gpa`) |
| RDI | `struct hvm_start_info` (`vmm.machine.boot.start_info`), the first argument of a C function |
| RSI | `struct boot_params`, Linux' zero page |
| RSP | top of a 4 KiB stack with a return address of 0 on it, aligned as behind a CALL |
| CR3 | identity map of the first 4 GiB and all RAM, 2 MiB pages |
| CS; DS, ES, FS, GS, SS | 0x10, 64-bit code; 0x18, data |

Interrupts are off, there is no IDT, SSE is not enabled. Segments are loaded at their physical addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot import zero_page as zp
from vmm.machine.boot.elf import entry_gpa, parse_elf, place_segments
from vmm.machine.boot.entry import GDT, EntryState, long_mode
from vmm.machine.boot.image import pack
from vmm.machine.boot.layout import COMMAND_LINE, MIB, STACK, START_INFO, ZERO_PAGE
from vmm.machine.boot.layout import GDT as GDT_AREA
from vmm.machine.boot.page_tables import place_identity_map
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry
from vmm.machine.boot.start_info import place_start_info

BOOT_PROTOCOL_VERSION = 0x020C


def load(request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Place the guest and all that its registers point at. Errors: `BootError`."""
    elf = parse_elf(request.kernel)
    entry = entry_gpa(request.kernel, elf)
    place_segments(request.kernel, elf, plan)
    plan.place_area(GDT_AREA, GDT)
    plan.place_area(STACK, bytes(STACK.size))
    initrd_gpa, initrd_size = place_start_info(request, plan, e820, rsdp_gpa)
    page = zp.zero_page(_setup_header(), e820, initrd_gpa, initrd_size, rsdp_gpa)
    plan.place_area(ZERO_PAGE, page)
    cr3 = place_identity_map(plan, plan.ram_end)
    gprs = {"rdi": START_INFO.gpa, "rsi": ZERO_PAGE.gpa, "rsp": STACK.gpa + STACK.size - 8}
    return long_mode(entry, gprs, GDT_AREA.gpa, cr3, "plain ELF64")


def _setup_header() -> bytes:
    """The fields that identify a setup header and that a kernel reads although no file brought them."""
    header = bytearray(zp.INIT_SIZE + 4 - zp.SETUP_SECTS)
    for offset, layout, value in (
        (zp.BOOT_FLAG, "H", zp.BOOT_FLAG_VALUE),
        (zp.HEADER_MAGIC, "I", zp.HDRS),
        (zp.VERSION, "H", BOOT_PROTOCOL_VERSION),
        (zp.KERNEL_ALIGNMENT, "I", 2 * MIB),
        (zp.CMDLINE_SIZE, "I", COMMAND_LINE.size - 1),
    ):
        field = pack(layout, value)
        at = offset - zp.SETUP_SECTS
        header[at : at + len(field)] = field
    return bytes(header)
