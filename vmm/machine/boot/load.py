# SPDX-License-Identifier: Apache-2.0
"""Which protocol a file is booted with, and the call that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from vmm.machine.boot import multiboot1
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
    BootFormat.MULTIBOOT1: multiboot1.load,
}


def recognise(image: Image) -> BootFormat:
    """The format of `image`; RAW when it has no mark of any other.

    Errors: `BootError` when it has a mark but cannot be booted (an ELF file for another machine ...).
    """
    if multiboot1.find_header(image) is not None:
        return BootFormat.MULTIBOOT1
    return BootFormat.RAW


def load(request: BootRequest, memory: GuestMemory, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Put `request`'s guest into `memory` and say where it starts.

    `e820` is what the guest is told of its memory, `rsdp_gpa` where its ACPI tables begin.
    Errors: `BootError`; guest memory is then as it was.
    """
    boot_format = BootFormat.RAW if request.raw_address is not None else recognise(request.kernel)
    if len(e820) > MAX_MEMORY_MAP_ENTRIES:
        raise BootError(f"the memory map has {len(e820)} entries, at most {MAX_MEMORY_MAP_ENTRIES} fit")
    if boot_format not in PROTOCOLS:
        raise request.kernel.error("is in no known boot format")
    plan = LoadPlan(memory, request.kernel)
    entry = PROTOCOLS[boot_format](request, plan, e820, rsdp_gpa)
    plan.commit()
    return entry
