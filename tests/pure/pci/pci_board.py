# SPDX-License-Identifier: Apache-2.0
"""A PCI bus with fakes around it, and a guest's way of using it."""

from collections.abc import Sequence

from tests.pure.devices.fakes import FakeLine
from vmm.bus import MmioBus, PortBus
from vmm.machine.pci.bus import PciBus
from vmm.machine.pci.function import Bar, Capability, PciFunction
from vmm.machine.pci.header import Identity
from vmm.machine.pci.routing import LINK_IRQS

MEMORY_WINDOW = (0xC0000000, 0x3EC00000)
SLOT = 3
# Red Hat's vendor id; the device id belongs to no device.
IDENTITY = Identity(0x1B36, 0x1234, 0x00FF00, 7, 0x1AF4, 0x1100)


class FakeRegion:
    """A region that answers every read with `value`, cut to the access's size."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return self.value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


class PciBoard:
    """The bus, its surroundings, and configuration accesses as a guest makes them."""

    def __init__(self) -> None:
        self.ports = PortBus()
        self.mmio = MmioBus()
        self.lines = {irq: FakeLine() for irq in LINK_IRQS}
        self.bus = PciBus(self.ports, self.mmio, self.lines, MEMORY_WINDOW)

    def add(
        self,
        bars: Sequence[Bar] = (),
        *,
        slot: int = SLOT,
        number: int = 0,
        pin: int = 0,
        capabilities: Sequence[Capability] = (),
    ) -> PciFunction:
        self.moves: list[tuple[int, int | None]] = []
        function = PciFunction(
            "device",
            IDENTITY,
            bars=bars,
            interrupt_pin=pin,
            capabilities=capabilities,
            bar_moved=lambda index, address: self.moves.append((index, address)),
        )
        self.bus.add_function(slot, function, number)
        return function

    def select(self, offset: int, slot: int = SLOT, number: int = 0, bus: int = 0) -> int:
        """Write CONFIG_ADDRESS; the port for the data of `offset`."""
        self.ports.write(0xCF8, 4, 1 << 31 | bus << 16 | slot << 11 | number << 8 | offset & 0xFC)
        return 0xCFC + (offset & 3)

    def read(self, offset: int, size: int, slot: int = SLOT, number: int = 0) -> int:
        return self.ports.read(self.select(offset, slot, number), size)

    def write(self, offset: int, size: int, value: int, slot: int = SLOT, number: int = 0) -> None:
        self.ports.write(self.select(offset, slot, number), size, value)
