# SPDX-License-Identifier: Apache-2.0
"""A raw binary at an address the user gives (`--raw ADDRESS`); the file is not looked into.

| ADDRESS | guest starts in | with |
|---|---|---|
| below 64 KiB | 16-bit real mode at 0:ADDRESS | other segments 0, SP 0, no BIOS services |
| below 1 MiB | 16-bit real mode at (ADDRESS >> 4):(ADDRESS & 15) | the same |
| 1 MiB to 4 GiB | 32-bit protected mode at ADDRESS, flat segments | EBX = `struct hvm_start_info`, like PVH |

In real mode nothing else is stored in memory, so neither an initrd nor a command line can be given.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmm.machine.boot.entry import GDT, EntryState, protected_mode, real_mode
from vmm.machine.boot.image import Image
from vmm.machine.boot.layout import FOUR_GIB, KIB, MIB, START_INFO
from vmm.machine.boot.layout import GDT as GDT_AREA
from vmm.machine.boot.plan import LoadPlan
from vmm.machine.boot.request import BootRequest, E820Entry
from vmm.machine.boot.start_info import place_start_info

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x89LZO": "lzo",
    b"\x5d\x00\x00": "lzma",
}


def load(request: BootRequest, plan: LoadPlan, e820: Sequence[E820Entry], rsdp_gpa: int) -> EntryState:
    """Place the binary. Errors: `BootError`; without an address it says what the file should have been."""
    image, address = request.kernel, request.raw_address
    if address is None:
        raise image.error(_why_not_a_kernel(image))
    if not 0 <= address < FOUR_GIB:
        raise image.error(f"cannot be loaded at {address:#x}: a raw binary's address is 0 to 0xffffffff")
    plan.place("the raw binary", address, image.data)
    protocol = f"raw binary at {address:#x}"
    if address < MIB:
        if request.initrd or request.cmdline:
            raise image.error(
                "is a raw binary started in real mode, which takes no initrd and no command line: leave them "
                "out, or load it at 0x100000 or above"
            )
        selector = 0 if address < 64 * KIB else address >> 4
        return real_mode(selector, address - (selector << 4), {}, protocol)
    plan.place_area(GDT_AREA, GDT)
    place_start_info(request, plan, e820, rsdp_gpa)
    return protected_mode(address, {"rbx": START_INFO.gpa}, GDT_AREA.gpa, protocol)


def _why_not_a_kernel(image: Image) -> str:
    head = image.head(16)
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic):
            return f"is compressed ({name}), not a kernel: decompress it first"
    return (
        "is in no known format: expected a Linux bzImage, an ELF file or a multiboot 1 image, found "
        f"{head.hex(' ')}; a raw binary needs the address it is loaded at (--raw ADDRESS)"
    )
