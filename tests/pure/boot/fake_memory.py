# SPDX-License-Identifier: Apache-2.0
"""Guest RAM for boot tests: a PC's map, every byte dirty, every write noted."""

from __future__ import annotations

import mmap

from vmm.machine.boot import E820Entry
from vmm.outside import Buffer, GuestMemoryError

MIB, GIB = 1 << 20, 1 << 30
MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h; the mmap module of Python 3.11 lacks it
DIRTY = 0xA5
"""What RAM up to `DIRTY_END` holds before a load, so that a byte which must be cleared is seen to be."""
DIRTY_END = 8 * MIB
RSDP_GPA = 0xE0000


class FakeMemory:
    """`size` bytes of RAM with the VGA hole and, from 3 GiB on, the 32-bit hole (`GuestMemory`)."""

    def __init__(self, size: int = 16 * MIB) -> None:
        low = min(size, 3 * GIB)
        spans = [(0, 0xA0000), (0xC0000, low - 0xC0000)]
        if size > low:
            spans.append((4 * GIB, size - low))
        # Gigabytes cost nothing until touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self.blocks = [(gpa, mmap.mmap(-1, length, flags=flags)) for gpa, length in spans]
        for gpa, block in self.blocks:
            count = max(min(len(block), DIRTY_END - gpa), 0)
            block[:count] = bytes([DIRTY]) * count
        self.writes: list[tuple[int, int]] = []

    def ranges(self) -> list[tuple[int, int]]:
        return [(gpa, len(block)) for gpa, block in self.blocks]

    def read(self, gpa: int, size: int) -> bytes:
        block, offset = self._find(gpa, size)
        return block[offset : offset + size]

    def write(self, gpa: int, data: Buffer) -> None:
        block, offset = self._find(gpa, len(data))
        block[offset : offset + len(data)] = bytes(data)
        self.writes.append((gpa, len(data)))

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        block, offset = self._find(gpa, size)
        block[offset : offset + size] = bytes([value]) * size
        self.writes.append((gpa, size))

    def number(self, gpa: int, size: int) -> int:
        """The little-endian number of `size` bytes at `gpa`."""
        return int.from_bytes(self.read(gpa, size), "little")

    def string(self, gpa: int) -> str:
        """The NUL-terminated string at `gpa`."""
        return self.read(gpa, 4096).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")

    def e820(self) -> list[E820Entry]:
        """The map a board would give: EBDA and ACPI tables reserved, RAM from 1 MiB."""
        entries = [E820Entry(0, 0x9FC00, 1), E820Entry(0x9FC00, 0x400, 2), E820Entry(0xE0000, 0x20000, 2)]
        for gpa, block in self.blocks[1:]:
            start = max(gpa, MIB)
            entries.append(E820Entry(start, gpa + len(block) - start, 1))
        return entries

    def _find(self, gpa: int, size: int) -> tuple[mmap.mmap, int]:
        for base, block in self.blocks:
            if base <= gpa and gpa + size <= base + len(block):
                return block, gpa - base
        raise GuestMemoryError(f"[{gpa:#x}, {gpa + size:#x}) is not RAM")
