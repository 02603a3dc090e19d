# SPDX-License-Identifier: Apache-2.0
"""PVH's `hvm_start_info` version 1 (Xen: `public/arch-x86/hvm/start_info.h`).

Memory map, command line, initrd and RSDP in one structure of fixed layout. Plain ELF64 guests and 32-bit raw
binaries get it too, so that one guest parses the same thing whichever way it was booted.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot.image import cstring, pack, printable
from vmm.machine.boot.layout import COMMAND_LINE, FOUR_GIB, MEMORY_MAP, MIB, PAGE_SIZE, START_INFO
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry

START_MAGIC = 0x336EC578
VERSION = 1
_MODULES_OFFSET = 0x40
"""The module list's place in START_INFO; the structure itself has 56 bytes."""


def place_start_info(
    request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int
) -> tuple[int, int]:
    """Store the structure, the command line, the memory map and the initrd.

    Call it when the image has its place. Returns the initrd's address and size, `(0, 0)` without one.
    Errors: `BootError`.
    """
    cmdline = cstring(request.cmdline, COMMAND_LINE.size - 1, "the command line")
    plan.place_area(COMMAND_LINE, cmdline)
    memory_map = b"".join(pack("QQII", area.gpa, area.size, area.type, 0) for area in e820)
    plan.place_area(MEMORY_MAP, memory_map)
    initrd_gpa, initrd_size = place_initrd(request, plan, FOUR_GIB)
    info = pack(
        "IIIIQQQQII",
        START_MAGIC,
        VERSION,
        0,  # flags: neither the initial domain nor a privileged one
        1 if request.initrd else 0,
        START_INFO.gpa + _MODULES_OFFSET if request.initrd else 0,
        COMMAND_LINE.gpa,
        rsdp_gpa,
        MEMORY_MAP.gpa,
        len(e820),
        0,
    )
    modules = pack("QQQQ", initrd_gpa, initrd_size, 0, 0) if request.initrd else b""
    plan.place_area(START_INFO, info.ljust(_MODULES_OFFSET, b"\0") + modules)
    return initrd_gpa, initrd_size


def place_initrd(request: BootRequest, plan: LoadPlan, end: int) -> tuple[int, int]:
    """Put the initrd on the highest free pages below `end`, far from what the kernel takes for itself.

    Returns its address and size, `(0, 0)` without one. Errors: `BootError` when there is no room.
    """
    initrd = request.initrd
    if initrd is None:
        return 0, 0
    what = f"the initrd {printable(initrd.path)}"
    gpa = plan.highest_free(initrd.size, PAGE_SIZE, MIB, end)
    if gpa is None:
        raise plan.no_room(what, initrd.size, MIB, end)
    plan.place(what, gpa, initrd.data)
    return gpa, initrd.size
