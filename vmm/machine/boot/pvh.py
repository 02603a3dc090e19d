# SPDX-License-Identifier: Apache-2.0
"""PVH direct boot of an ELF file with the note XEN_ELFNOTE_PHYS32_ENTRY: `vmlinux` and others.

Source: Xen's `docs/misc/pvh.pandoc`. The guest starts in 32-bit protected mode, EBX = `hvm_start_info`.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot.elf import check_in_segment, parse_elf, place_segments
from vmm.machine.boot.entry import GDT, EntryState, protected_mode
from vmm.machine.boot.layout import FOUR_GIB, START_INFO
from vmm.machine.boot.layout import GDT as GDT_AREA
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry
from vmm.machine.boot.start_info import place_start_info


def load(request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Place the guest and its start information. Errors: `BootError`."""
    elf = parse_elf(request.kernel)
    if elf.pvh_entry is None:
        raise request.kernel.error("has no PVH entry note (Xen, type 18)")
    check_in_segment(request.kernel, elf, elf.pvh_entry, "its PVH entry point")
    if elf.pvh_entry >= FOUR_GIB:
        raise request.kernel.error(
            f"its PVH entry point {elf.pvh_entry:#x} must be below 4 GiB: the guest starts in 32-bit mode"
        )
    place_segments(request.kernel, elf, plan)
    plan.place_area(GDT_AREA, GDT)
    place_start_info(request, plan, e820, rsdp_gpa)
    return protected_mode(elf.pvh_entry, {"rbx": START_INFO.gpa}, GDT_AREA.gpa, "PVH")
