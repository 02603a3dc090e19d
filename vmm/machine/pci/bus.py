# SPDX-License-Identifier: Apache-2.0
"""PCI bus 0: which function sits where, what its BARs decode, and configuration mechanism 1.

Mechanism 1 (PCI 3.0 section 3.2.2.3.2): the guest writes bus, device, function and register to CONFIG_ADDRESS at
0xcf8, four bytes at once, then reads or writes CONFIG_DATA at 0xcfc. Smaller accesses to 0xcf8..0xcfb are ordinary
I/O; 0xcf9 belongs to the reset control register.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from vmm.bus import BusConflictError, MmioBus, PortBus
from vmm.machine.pci import header
from vmm.machine.pci.function import Bar, BarKind, PciFunction
from vmm.machine.pci.header import Status
from vmm.machine.pci.interrupts import IntxRouter
from vmm.machine.pci.routing import SLOTS, irq_of
from vmm.machine.pci.windows import IO_WINDOW, BarWindows
from vmm.outside import InterruptLine

CONFIG_ADDRESS_PORT: Final = 0xCF8
CONFIG_DATA_PORT: Final = 0xCFC
CONFIG_DATA_COUNT: Final = 4
FUNCTIONS_PER_SLOT: Final = 8

_CONFIG_ENABLE: Final = 1 << 31
_CONFIG_ADDRESS_WRITABLE: Final = 0x80FFFFFC
_BARS: Final = range(header.BASE_ADDRESS_0, header.BASE_ADDRESS_0 + 4 * header.BAR_COUNT)


class PciBus:
    """Bus 0 with its functions. Thread-safe: one lock guards configuration spaces and BAR decoding.

    `memory_window` and `io_window` are `(base, size)` of the addresses given to BARs at reset.
    A BAR that a guest moves onto something else stays without effect until the place is free.
    """

    name = "pci"

    def __init__(
        self,
        ports: PortBus,
        mmio: MmioBus,
        lines: Mapping[int, InterruptLine],
        memory_window: tuple[int, int],
        io_window: tuple[int, int] = IO_WINDOW,
    ) -> None:
        """Takes CONFIG_ADDRESS and CONFIG_DATA on `ports`. `lines`: see `IntxRouter`."""
        self._ports = ports
        self._mmio = mmio
        self._intx = IntxRouter(lines)
        self._windows = BarWindows(io_window, memory_window)
        self._functions: dict[int, PciFunction] = {}
        self._mapped: dict[tuple[PciFunction, Bar], int] = {}
        self._lock = threading.Lock()
        self._config = ConfigMechanism(self)
        ports.add(CONFIG_ADDRESS_PORT, 1, _ConfigAddress(self._config), "pci-config-address")
        ports.add(CONFIG_DATA_PORT, CONFIG_DATA_COUNT, self._config, "pci-config-data")

    def add_function(self, slot: int, function: PciFunction, number: int = 0) -> None:
        """Put `function` at device `slot`, function `number`. Before the first `reset` only.

        Errors: `ValueError` for a place that is taken or does not exist, `PciResourceError`.
        """
        devfn = slot * FUNCTIONS_PER_SLOT + number
        if not (0 <= slot < SLOTS and 0 <= number < FUNCTIONS_PER_SLOT):
            raise ValueError(
                f"{function.name}: PCI 00:{slot:02x}.{number} does not exist (32 slots of 8 functions)"
            )
        if devfn in self._functions:
            raise ValueError(
                f"{function.name}: PCI 00:{slot:02x}.{number} already is {self._functions[devfn].name}"
            )
        for bar in function.bars:
            function.config.declare(bar.register(self._windows.place(function.name, bar)))
        self._functions[devfn] = function
        self._intx.connect(slot, function)

    def reset(self) -> None:
        """What firmware would leave: BARs assigned and decoding, interrupt lines noted, no pin asserted."""
        with self._lock:
            self._config.address = 0
            for devfn, function in self._functions.items():
                self._reset_function(devfn, function)
            self._decode()
        self._intx.reset()

    def config_read(self, devfn: int, offset: int, size: int) -> int | None:
        """Configuration space of the function at `devfn` (device * 8 + function); None when there is none.

        `size` is 1 to 4 and the access stays within one aligned dword.
        """
        with self._lock:
            function = self._functions.get(devfn)
            if function is None:
                return None
            value = function.config.read(offset, size)
        if function.interrupt_asserted and offset <= header.STATUS < offset + size:
            value |= Status.INTERRUPT << 8 * (header.STATUS - offset)
        return value

    def config_write(self, devfn: int, offset: int, size: int, value: int) -> None:
        """The guest writes configuration space; nothing happens when there is no function."""
        with self._lock:
            function = self._functions.get(devfn)
            if function is None:
                return
            function.config.guest_write(offset, size, value)
            commands = offset < header.STATUS and offset + size > header.COMMAND
            if commands or offset in _BARS:
                self._decode()
            if commands:
                self._intx.command_changed(devfn // FUNCTIONS_PER_SLOT, function)

    def _reset_function(self, devfn: int, function: PciFunction) -> None:
        config = function.config
        slot = devfn // FUNCTIONS_PER_SLOT
        config.reset()
        decoding = config.read(header.COMMAND, 2)
        for bar in function.bars:
            decoding |= bar.enable
        config.store(header.COMMAND, 2, decoding)
        if function.interrupt_pin:
            config.store(header.INTERRUPT_LINE, 1, irq_of(slot, function.interrupt_pin - 1))
        if any(other // FUNCTIONS_PER_SLOT == slot and other != devfn for other in self._functions):
            config.store(header.HEADER_TYPE, 1, header.MULTI_FUNCTION)

    def _decode(self) -> None:
        """Let ports and MMIO follow the BARs: first free what is left, then take what is wanted and free."""
        before = dict(self._mapped)
        wanted = {
            (function, bar): address
            for function in self._functions.values()
            for bar in function.bars
            if (address := function.decoded_address(bar)) is not None
        }
        for key, address in before.items():
            if wanted.get(key) != address:
                self._unmap(key[1], address)
                del self._mapped[key]
        for key, address in wanted.items():
            if key not in self._mapped and self._map(*key, address):
                self._mapped[key] = address
        for function in self._functions.values():
            for bar in function.bars:
                address = self._mapped.get((function, bar))
                if function.bar_moved is not None and before.get((function, bar)) != address:
                    function.bar_moved(bar.index, address)

    def _map(self, function: PciFunction, bar: Bar, address: int) -> bool:
        bus = self._ports if bar.kind is BarKind.IO else self._mmio
        try:
            bus.add(address, bar.size, bar.region, f"{function.name} BAR{bar.index}")
        except BusConflictError:
            return False
        return True

    def _unmap(self, bar: Bar, address: int) -> None:
        if bar.kind is BarKind.IO:
            self._ports.remove(address, bar.size)
        else:
            self._mmio.remove(address)


class ConfigMechanism:
    """CONFIG_DATA, and the value that CONFIG_ADDRESS holds."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus
        self.address = 0

    def read(self, offset: int, size: int) -> int:
        ones = (1 << 8 * size) - 1
        devfn, register = self._target(offset)
        # The data register ends at 0xcff: what reaches beyond is nobody's.
        inside = min(size, CONFIG_DATA_COUNT - offset)
        value = None if devfn is None else self._bus.config_read(devfn, register, inside)
        if value is None:
            return ones
        return value | ones & ~((1 << 8 * inside) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        devfn, register = self._target(offset)
        inside = min(size, CONFIG_DATA_COUNT - offset)
        if devfn is not None:
            self._bus.config_write(devfn, register, inside, value & (1 << 8 * inside) - 1)

    def _target(self, offset: int) -> tuple[int | None, int]:
        address = self.address
        bus = address >> 16 & 0xFF
        devfn = address >> 8 & 0xFF if address & _CONFIG_ENABLE and bus == 0 else None
        return devfn, (address & 0xFC) + offset


class _ConfigAddress:
    """CONFIG_ADDRESS at 0xcf8: only 4-byte accesses are it."""

    def __init__(self, config: ConfigMechanism) -> None:
        self._config = config

    def read(self, offset: int, size: int) -> int:
        return self._config.address if size == 4 else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 4:
            self._config.address = value & _CONFIG_ADDRESS_WRITABLE
