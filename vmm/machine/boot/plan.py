# SPDX-License-Identifier: Apache-2.0
"""What goes where in guest memory, settled before a byte is written.

A protocol places the image, then the structures; each piece must be wholly in RAM and overlap nothing. Only
when everything fits does `commit` store it, so a refused image leaves guest memory as it was.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from vmm.machine.boot.image import BootError, Image
from vmm.machine.boot.layout import BOARD_AREAS, FOUR_GIB, KIB, MIB, Area
from vmm.outside import Buffer, GuestMemory


class _Claim(NamedTuple):
    start: int
    end: int
    what: str


class _Write(NamedTuple):
    gpa: int
    data: Buffer
    zeros: int
    """Bytes to be cleared behind `data`."""


def human_size(size_bytes: int) -> str:
    """`size_bytes` for people: whole MiB, otherwise KiB rounded up."""
    return f"{-(-size_bytes // KIB)} KiB" if size_bytes % MIB else f"{size_bytes // MIB} MiB"


class LoadPlan:
    """Pieces of `image`'s guest and their places in `memory`."""

    def __init__(self, memory: GuestMemory, image: Image) -> None:
        self._memory = memory
        self._image = image
        self._ram: list[tuple[int, int]] = []
        for gpa, size in memory.ranges():
            if self._ram and self._ram[-1][1] == gpa:
                self._ram[-1] = (self._ram[-1][0], gpa + size)
            else:
                self._ram.append((gpa, gpa + size))
        self._claims = [_Claim(area.gpa, area.gpa + area.size, area.what) for area in BOARD_AREAS]
        self._writes: list[_Write] = []

    @property
    def ram_end(self) -> int:
        """First address above all RAM."""
        return self._ram[-1][1] if self._ram else 0

    @property
    def low_ram_end(self) -> int:
        """First address above the RAM below 4 GiB."""
        return max((min(end, FOUR_GIB) for start, end in self._ram if start < FOUR_GIB), default=0)

    def claim(self, what: str, gpa: int, size: int) -> None:
        """Keep `[gpa, gpa + size)` for `what`.

        Errors: `BootError` when it is not all RAM or when something else has a part of it.
        """
        if size == 0:
            return
        end = gpa + size
        wanted = f"{what} needs [{gpa:#x}, {end:#x}), {human_size(size)}"
        block = next(((start, stop) for start, stop in self._ram if start <= gpa < stop), None)
        if block is None or end > block[1]:
            raise self._image.error(f"{wanted}, but RAM is {self._describe_ram()}: {self._advice(end)}")
        index = bisect_left(self._claims, (gpa, end, what))
        for other in self._claims[max(index - 1, 0) : index + 1]:
            if gpa < other.end and other.start < end:
                raise self._image.error(
                    f"{wanted}, but {other.what} takes [{other.start:#x}, {other.end:#x}): "
                    "move the image (link it at 1 MiB or above) or make it smaller"
                )
        insort(self._claims, _Claim(gpa, end, what))

    def place(self, what: str, gpa: int, data: Buffer, memory_size: int | None = None) -> None:
        """Store `data` at `gpa`, zeros behind it up to `memory_size` bytes. Errors: as `claim`."""
        size = len(data) if memory_size is None else memory_size
        self.claim(what, gpa, size)
        self._writes.append(_Write(gpa, data, size - len(data)))

    def place_area(self, area: Area, data: Buffer) -> None:
        """Store a boot structure in its area of `vmm.machine.boot.layout`. Errors: as `claim`."""
        if len(data) > area.size:
            raise self._image.error(f"{area.what} has {len(data)} bytes, there is room for {area.size}")
        # All of it, so that a longer command line does not make an image clash that went well before.
        self.claim(area.what, area.gpa, area.size)
        self._writes.append(_Write(area.gpa, data, 0))

    def lowest_free(self, size: int, align: int, start: int, end: int) -> int | None:
        """The lowest multiple of `align` in `[start, end)` with `size` bytes of RAM that nobody has."""
        for low, high in self._free(start, end):
            gpa = -(-low // align) * align
            if gpa + size <= high:
                return gpa
        return None

    def highest_free(self, size: int, align: int, start: int, end: int) -> int | None:
        """The highest multiple of `align` in `[start, end)` with `size` bytes of RAM that nobody has."""
        for low, high in reversed(self._free(start, end)):
            gpa = (high - size) // align * align
            if gpa >= low:
                return gpa
        return None

    def no_room(self, what: str, size: int, start: int, end: int) -> BootError:
        """The error that `size` bytes for `what` are nowhere free in `[start, end)`."""
        largest = max((high - low for low, high in self._free(start, end)), default=0)
        return self._image.error(
            f"{what} needs {human_size(size)} of free RAM between {start:#x} and {end:#x}, the largest free "
            f"piece there has {largest // KIB} KiB: give the guest more memory or make the file smaller"
        )

    def commit(self) -> None:
        """Write everything that was placed."""
        for gpa, data, zeros in self._writes:
            if len(data):
                self._memory.write(gpa, data)
            if zeros:
                self._memory.fill(gpa + len(data), zeros)

    def _free(self, start: int, end: int) -> list[tuple[int, int]]:
        """Unclaimed RAM inside `[start, end)`, sorted."""
        free = []
        for ram_start, ram_end in self._ram:
            low, high = max(ram_start, start), min(ram_end, end)
            for claim in self._claims:
                if claim.end <= low or claim.start >= high:
                    continue
                if claim.start > low:
                    free.append((low, claim.start))
                low = claim.end
            if low < high:
                free.append((low, high))
        return free

    def _describe_ram(self) -> str:
        return ", ".join(f"[{start:#x}, {end:#x})" for start, end in self._ram) or "missing"

    def _advice(self, end: int) -> str:
        """What may help an image that ends at `end` and does not lie in RAM."""
        if self.low_ram_end < end <= 3 * 1024 * MIB:
            return f"give the guest at least {-(-end // MIB)} MiB of memory"
        return "link the image where there is RAM"
