# SPDX-License-Identifier: Apache-2.0
"""Where BARs lie after reset. A PC's firmware hands them out; this board starts guests without one."""

from __future__ import annotations

from typing import Final

from vmm.machine.pci.function import Bar, BarKind

# Above every fixed port of the board; PC firmware uses the same range.
IO_WINDOW: Final = (0xC000, 0x4000)
# Each memory BAR gets pages of its own, so that a guest can map one without its neighbour.
_PAGE_SIZE: Final = 4096


class PciResourceError(ValueError):
    """The BARs of the board's functions do not fit into its windows."""


class BarWindows:
    """Hands out addresses in the order in which functions are added. Windows are `(base, size)`."""

    def __init__(self, io: tuple[int, int], memory: tuple[int, int]) -> None:
        self._io = _Window("I/O", *io)
        self._memory = _Window("memory", *memory)

    def place(self, name: str, bar: Bar) -> int:
        """An address for `bar`. Errors: `PciResourceError`."""
        if bar.kind is BarKind.IO:
            return self._io.take(name, bar.size, bar.size)
        return self._memory.take(name, bar.size, max(bar.size, _PAGE_SIZE))


class _Window:
    def __init__(self, what: str, base: int, size: int) -> None:
        self._what = what
        self._next = base
        self._end = base + size

    def take(self, name: str, size: int, alignment: int) -> int:
        address = -(-self._next // alignment) * alignment
        if address + size > self._end:
            raise PciResourceError(
                f"{name}: a BAR of {size:#x} bytes does not fit behind {self._next:#x} into the PCI "
                f"{self._what} window, which ends at {self._end:#x}; use fewer or smaller BARs"
            )
        self._next = address + size
        return address
