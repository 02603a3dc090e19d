# SPDX-License-Identifier: Apache-2.0
"""Boot protocols, recognised from the file: multiboot 1, PVH ELF, Linux bzImage, plain ELF64, raw binary.

Pure: an image and guest RAM go in, the boot processor's `EntryState` comes out. No KVM here, and no file
access outside `open_image`.

    kernel = open_image("kernel.flat")
    entry = load(BootRequest(kernel, name="kernel.flat"), memory, e820, rsdp_gpa)
"""

from vmm.machine.boot.entry import EntryState, Segment
from vmm.machine.boot.image import BootError, Image, open_image
from vmm.machine.boot.load import BootFormat, load, recognise
from vmm.machine.boot.request import BootRequest, E820Entry

__all__ = [
    "BootError",
    "BootFormat",
    "BootRequest",
    "E820Entry",
    "EntryState",
    "Image",
    "Segment",
    "load",
    "open_image",
    "recognise",
]
