# SPDX-License-Identifier: Apache-2.0
"""The port bus and the MMIO bus: from a guest's access to the device's method.

A port is looked up in a dict (ports are few and each look-up must be flat), an MMIO address by bisection
over sorted ranges. Neither raises for an address nobody decodes: reads give all ones, as on a PC.

A VP's loop looks a single IN or OUT up by the eight bytes with which KVM describes it, whole, and keeps what it found
of the last OUT: the interpreter is held meanwhile, and what one VP saves there no other VP waits for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from vmm.outside import Region

ReadMethod = Callable[[int, int], int]
WriteMethod = Callable[[int, int, int], None]
MmioEntry = tuple[int, int, Region, str]
PORT_COUNT = 0x10000
SIZES = (1, 2, 4)


class BusConflictError(ValueError):
    """Two regions claim the same address; says which and where."""


def access(is_out: bool, size: int, port: int) -> int:
    """The first eight bytes of kvm_run's `io` for one item: (direction u8, size u8, port u16, count u32 = 1)."""
    return is_out | size << 8 | port << 16 | 1 << 32


def _read_ones(offset: int, size: int) -> int:
    return (1 << 8 * size) - 1


def _write_nothing(offset: int, size: int, value: int) -> None:
    """Nobody takes the value."""


NO_OUT: Final[tuple[WriteMethod, int, int, int]] = (_write_nothing, 0, 0, 0)
"""An entry of `PortBus.outs` that does nothing."""


class PortBus:
    """I/O ports 0..0xffff.

    `ports[port]` is `(read, write, offset, name)` of whoever decodes the port; `ins[access]` is
    `(read, offset, size, mask)` and `outs[access]` `(write, offset, size, mask)` for each `access` of one item to
    such a port.
    """

    def __init__(self) -> None:
        self.ports: dict[int, tuple[ReadMethod, WriteMethod, int, str]] = {}
        self.ins: dict[int, tuple[ReadMethod, int, int, int]] = {}
        self.outs: dict[int, tuple[WriteMethod, int, int, int]] = {}
        self._kept: list[Callable[[], None]] = []

    def add(self, base: int, count: int, region: Region, name: str) -> None:
        """Let `region` decode ports `base .. base + count - 1`.

        Errors: `BusConflictError` when a port is taken or lies outside 0..0xffff.
        """
        self._claim(base, count, name)
        for port in range(base, base + count):
            self.ports[port] = (region.read, region.write, port - base, name)
            for size in SIZES:
                mask = (1 << 8 * size) - 1
                self.ins[access(False, size, port)] = (region.read, port - base, size, mask)
                self.outs[access(True, size, port)] = (region.write, port - base, size, mask)

    def reserve(self, base: int, count: int, name: str) -> None:
        """Let no region have these ports: VPs handle them. As `add`; an access that gets here does nothing."""
        self._claim(base, count, name)
        for port in range(base, base + count):
            self.ports[port] = (_read_ones, _write_nothing, port - base, name)

    def _claim(self, base: int, count: int, name: str) -> None:
        if base < 0 or count < 1 or base + count > PORT_COUNT:
            raise BusConflictError(f"{name}: ports {base:#x}+{count:#x} do not fit into 0..0xffff")
        for port in range(base, base + count):
            if port in self.ports:
                raise BusConflictError(f"{name}: port {port:#x} already belongs to {self.ports[port][3]}")

    def on_remove(self, forget: Callable[[], None]) -> None:
        """Have `forget` called, on any thread, after each removal: what was taken from `outs` may be out of date."""
        self._kept.append(forget)

    def remove(self, base: int, count: int) -> None:
        """Nobody decodes `base .. base + count - 1` any more (a PCI BAR moved)."""
        for port in range(base, base + count):
            self.ports.pop(port, None)
            for size in SIZES:
                self.ins.pop(access(False, size, port), None)
                self.outs.pop(access(True, size, port), None)
        for forget in self._kept:
            forget()

    def read(self, port: int, size: int) -> int:
        """The value of a `size`-byte (1, 2, 4) IN; all ones where nobody decodes `port`."""
        entry = self.ports.get(port)
        if entry is None:
            return (1 << (8 * size)) - 1
        return entry[0](entry[2], size)

    def write(self, port: int, size: int, value: int) -> None:
        """A `size`-byte OUT; ignored where nobody decodes `port`."""
        entry = self.ports.get(port)
        if entry is not None:
            entry[1](entry[2], size, value)


class MmioBus:
    """Memory-mapped regions, by guest physical address."""

    def __init__(self) -> None:
        # Bases and regions live in one tuple that is replaced whole: VP threads look up without a lock.
        self._map: tuple[list[int], list[MmioEntry]] = ([], [])

    def add(self, base: int, size: int, region: Region, name: str) -> None:
        """Let `region` decode `[base, base + size)`. Errors: `BusConflictError` on overlap."""
        if base < 0 or size < 1:
            raise BusConflictError(f"{name}: {base:#x}+{size:#x} is no address range")
        bases, entries = self._map
        index = bisect_right(bases, base)
        for start, end, _, owner in entries[max(index - 1, 0) : index + 1]:
            if base < end and start < base + size:
                raise BusConflictError(
                    f"{name}: [{base:#x}, {base + size:#x}) overlaps {owner} [{start:#x}, {end:#x})"
                )
        self._publish([*entries[:index], (base, base + size, region, name), *entries[index:]])

    def remove(self, base: int) -> None:
        """Nobody decodes the region that starts at `base` any more. Unknown bases are ignored."""
        self._publish([entry for entry in self._map[1] if entry[0] != base])

    def _publish(self, entries: list[MmioEntry]) -> None:
        self._map = ([entry[0] for entry in entries], entries)

    def find(self, gpa: int) -> MmioEntry | None:
        """`(base, end, region, name)` of the region that decodes `gpa`."""
        bases, entries = self._map
        index = bisect_right(bases, gpa) - 1
        if index < 0:
            return None
        entry = entries[index]
        return entry if gpa < entry[1] else None

    def read(self, gpa: int, size: int) -> int:
        """The value of a `size`-byte (1, 2, 4, 8) load; all ones where nobody decodes `gpa`."""
        entry = self.find(gpa)
        if entry is None:
            return (1 << (8 * size)) - 1
        return entry[2].read(gpa - entry[0], size)

    def write(self, gpa: int, size: int, value: int) -> None:
        """A `size`-byte store; ignored where nobody decodes `gpa`."""
        entry = self.find(gpa)
        if entry is not None:
            entry[2].write(gpa - entry[0], size, value)
