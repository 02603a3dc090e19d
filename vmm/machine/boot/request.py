# SPDX-License-Identifier: Apache-2.0
"""What the user asks to boot, and what the board tells the guest about itself."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.machine.boot.image import Image


@dataclass(frozen=True)
class BootRequest:
    """A guest to be booted: `--kernel`, `--initrd`, `--append` and `--raw ADDRESS` of the command line."""

    kernel: Image
    initrd: Image | None = None
    cmdline: str = ""
    name: str = ""
    """First word of a multiboot guest's command line, by custom the kernel's path as the user gave it."""
    raw_address: int | None = None
    """Guest physical address of a raw binary; the file is then not looked into."""


@dataclass(frozen=True)
class E820Entry:
    """One range of the memory map. `type` as in ACPI 6.5, 15: 1 RAM, 2 reserved, 3 ACPI, 4 NVS."""

    gpa: int
    size: int
    type: int
