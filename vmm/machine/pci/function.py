# SPDX-License-Identifier: Apache-2.0
"""One PCI function: its configuration space, its BARs, its interrupt pin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vmm.machine.pci import header
from vmm.machine.pci.config_space import CONFIG_SIZE, ConfigSpace, Register
from vmm.machine.pci.header import Command, Identity, Status
from vmm.outside import Region

_PORTS: Final = 0x10000
_LIMIT_32: Final = 1 << 32
# No KVM guest has more physical address bits; a 64-bit BAR that is being sized lies above.
_LIMIT_64: Final = 1 << 52


class BarKind(Enum):
    """What a BAR decodes; the value is the read-only low bits of the register (PCI 3.0 section 6.2.5.1)."""

    IO = 0b01
    MEMORY_32 = 0b0000
    MEMORY_64 = 0b0100


@dataclass(frozen=True, slots=True, eq=False)
class Bar:
    """Base address register `index`: `size` bytes (a power of two) answered by `region`.

    A `MEMORY_64` BAR also takes register `index + 1`.
    """

    index: int
    kind: BarKind
    size: int
    region: Region

    def __post_init__(self) -> None:
        smallest = 4 if self.kind is BarKind.IO else 16
        largest = 256 if self.kind is BarKind.IO else _LIMIT_32 >> 1
        if self.size & (self.size - 1) or not smallest <= self.size <= largest:
            raise ValueError(
                f"BAR {self.index}: {self.size} bytes is not a power of two in {smallest}..{largest}"
            )
        if not 0 <= self.index <= header.BAR_COUNT - self.register_count:
            raise ValueError(f"BAR {self.index} of kind {self.kind.name}: registers are 0..5")

    @property
    def register_count(self) -> int:
        return 2 if self.kind is BarKind.MEMORY_64 else 1

    @property
    def offset(self) -> int:
        """Where the register lies in configuration space."""
        return header.BASE_ADDRESS_0 + 4 * self.index

    @property
    def enable(self) -> Command:
        """The COMMAND bit that lets it decode."""
        return Command.IO_SPACE if self.kind is BarKind.IO else Command.MEMORY_SPACE

    def register(self, address: int) -> Register:
        """The register (or pair) that comes out of reset with `address`."""
        size = 4 * self.register_count
        address_bits = (1 << 8 * size) - self.size
        return Register(f"BAR{self.index}", self.offset, size, address | self.kind.value, address_bits)


@dataclass(frozen=True, slots=True)
class Capability:
    """A capability: `body` follows the two bytes of id and next pointer; `writable` has a mask byte for each."""

    cap_id: int
    body: bytes
    writable: bytes

    def __post_init__(self) -> None:
        if len(self.body) != len(self.writable):
            raise ValueError(f"capability {self.cap_id:#x}: body and writable differ in length")


class PciFunction:
    """A function to be put on a `PciBus`, which owns its address and guards it with a lock.

    `interrupt_pin`: 0 none, 1 INTA .. 4 INTD. `registers` add to or replace parts of the type 0 header.
    `bar_moved(index, address)` tells where a BAR decodes from now on, None for nowhere; it is called with the bus
    locked, so it must not touch the bus.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        *,
        bars: Sequence[Bar] = (),
        interrupt_pin: int = 0,
        registers: Sequence[Register] = (),
        capabilities: Sequence[Capability] = (),
        bar_moved: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.name = name
        self.bars = tuple(bars)
        self.interrupt_pin = interrupt_pin
        self.bar_moved = bar_moved
        self.config = ConfigSpace((*header.header_registers(identity, interrupt_pin), *registers))
        self.interrupt_asserted = False
        self._set_interrupt: Callable[[bool], None] | None = None
        self._check_bars()
        for bar in self.bars:
            self.config.declare(bar.register(0))
        self._chain(capabilities)

    def _check_bars(self) -> None:
        taken = [bar.index + number for bar in self.bars for number in range(bar.register_count)]
        if len(taken) != len(set(taken)):
            raise ValueError(f"{self.name}: two BARs use the same register")
        if not 0 <= self.interrupt_pin <= 4:
            raise ValueError(f"{self.name}: interrupt pin {self.interrupt_pin} is not 0..4")

    def _chain(self, capabilities: Sequence[Capability]) -> None:
        pointer, offset = header.CAPABILITIES_POINTER, header.FIRST_FREE_OFFSET
        for capability in capabilities:
            end = offset + 2 + len(capability.body)
            if end > CONFIG_SIZE:
                raise ValueError(
                    f"{self.name}: capability {capability.cap_id:#x} does not fit into 256 bytes"
                )
            self.config.declare(Register("CAP_POINTER", pointer, 1, offset))
            self.config.declare(Register("CAP_ID", offset, 2, capability.cap_id))
            for position, (value, writable) in enumerate(
                zip(capability.body, capability.writable, strict=True), offset + 2
            ):
                self.config.declare(Register("CAP_BODY", position, 1, value, writable))
            pointer, offset = offset + 1, -(-end // 4) * 4
        if capabilities:
            status = Status.DEVSEL_MEDIUM | Status.CAPABILITIES_LIST
            self.config.declare(
                Register("STATUS", header.STATUS, 2, status, 0, header.STATUS_WRITE_ONE_CLEARS)
            )

    def connect(self, set_interrupt: Callable[[bool], None]) -> None:
        """The bus took the function; `set_interrupt` drives its pin. Called once, by the bus."""
        self._set_interrupt = set_interrupt

    def set_interrupt(self, level: bool) -> None:
        """Assert or release the interrupt pin. Thread-safe; the caller may hold the device's lock."""
        if self._set_interrupt is not None:
            self._set_interrupt(level)

    @property
    def interrupt_enabled(self) -> bool:
        """The guest did not set INTERRUPT_DISABLE."""
        return not self.config.read(header.COMMAND, 2) & Command.INTERRUPT_DISABLE

    def decoded_address(self, bar: Bar) -> int | None:
        """Where `bar` would decode now: None while disabled, at 0, or where the address space ends."""
        if not self.config.read(header.COMMAND, 2) & bar.enable:
            return None
        value = self.config.read(bar.offset, 4 * bar.register_count)
        address = value & -bar.size
        if bar.kind is BarKind.IO:
            return address if 0 < address <= _PORTS - bar.size else None
        limit = _LIMIT_64 if bar.kind is BarKind.MEMORY_64 else _LIMIT_32
        # All ones, written to find the size, is the last position and never a real one.
        return address if 0 < address < limit - bar.size else None
