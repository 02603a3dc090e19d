# SPDX-License-Identifier: Apache-2.0
"""Which protocol a file is booted with, and the call that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from vmm.machine.boot import bzimage, elf64, multiboot1, pvh, raw
from vmm.machine.boot.elf import is_elf, parse_elf
from vmm.machine.boot.entry import EntryState
from vmm.machine.boot.image import BootError, Image
from vmm.machine.boot.layout import MAX_MEMORY_MAP_ENTRIES
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry
from vmm.outside import GuestMemory


class BootFormat(Enum):
    """The protocols, by the name shown to people."""

    BZIMAGE = "Linux bzImage"
    MULTIBOOT1 = "multiboot 1"
    PVH = "PVH ELF"
    ELF64 = "plain ELF64"
    RAW = "raw binary"


Protocol = Callable[[BootRequest, LoadPlan, Sequence[E820Entry], int], EntryState]
"""`load` of a protocol's module: fills the plan and returns where the guest starts."""

PROTOCOLS: dict[BootFormat, Protocol] = {
    BootFormat.BZIMAGE: bzimage.load,
    BootFormat.MULTIBOOT1: multiboot1.load,
    BootFormat.PVH: pvh.load,
    BootFormat.ELF64: elf64.load,
    BootFormat.RAW: raw.load,
}


def recognise(image: Image) -> BootFormat:
    """The format of `image`; RAW when it has no mark of any other.

    Errors: `BootError` when it has a mark but cannot be booted (an ELF file for another machine ...).
    """
    if bzimage.is_bzimage(image):
        return BootFormat.BZIMAGE
    if multiboot1.find_header(image) is not None:
        return BootFormat.MULTIBOOT1
    if not is_elf(image):
        return BootFormat.RAW
    elf = parse_elf(image)
    if elf.pvh_entry is not None:
        return BootFormat.PVH
    if multiboot1.has_multiboot2_header(image):
        raise image.error(
            "is a multiboot 2 image: multiboot 1, PVH and plain ELF64 are booted, link it as one"
        )
    if elf.has_interpreter:
        raise image.error("is a program for an operating system (it has PT_INTERP), not a kernel")
    if elf.bits == 64 and elf.machine == "EM_X86_64":
        return BootFormat.ELF64
    raise image.error(
        f"is a {elf.bits}-bit ELF file for {elf.machine} with neither a multiboot 1 header nor a PVH entry "
        "note: give it one, or link it as 64-bit x86-64 code"
    )


def load(request: BootRequest, memory: GuestMemory, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Put `request`'s guest into `memory` and say where it starts.

    `e820` is what the guest is told of its memory, `rsdp_gpa` where its ACPI tables begin.
    Errors: `BootError`; guest memory is then as it was.
    """
    boot_format = BootFormat.RAW if request.raw_address is not None else recognise(request.kernel)
    if len(e820) > MAX_MEMORY_MAP_ENTRIES:
        raise BootError(f"the memory map has {len(e820)} entries, at most {MAX_MEMORY_MAP_ENTRIES} fit")
    plan = LoadPlan(memory, request.kernel)
    entry = PROTOCOLS[boot_format](request, plan, e820, rsdp_gpa)
    plan.commit()
    return entry
