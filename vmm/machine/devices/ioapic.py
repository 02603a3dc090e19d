# SPDX-License-Identifier: Apache-2.0
"""I/O APIC: 24 pins, each routed to local APICs by a redirection entry.

Sources: Intel 82093AA data sheet (names), ICH data sheet for version 0x20 and its EOI register, SDM volume 3,
section 11.11 for the messages. The version is 0x20 because local APICs whose I/O APIC is not in the kernel
offer to suppress EOI broadcasts (KVM sets bit 24 of their version register): who uses that needs the register.

| address | register |
|---|---|
| 0x00 | IOREGSEL: index, bits 0-7 |
| 0x10 | IOWIN: the indexed register: 0 ID, 1 version, 2 arbitration ID, 0x10 + 2n, 0x11 + 2n redirection entry n |
| 0x40 | EOI: a vector, write-only |

The 8259s' INTR reaches processors by LINT0 only, as with the kernel's I/O APIC: an ExtINT entry delivers nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

IOAPIC_GPA, IOAPIC_SIZE = 0xFEC00000, 0x1000
IOAPIC_PINS = 24
IOAPIC_VERSION = 0x20

IOREGSEL, IOWIN, EOI_REGISTER = 0x00, 0x10, 0x40
REG_ID, REG_VERSION, REG_ARBITRATION, REG_REDIRECTION = 0, 1, 2, 0x10

RTE_VECTOR, RTE_DELIVERY_MODE, RTE_LOGICAL = 0xFF, 0x700, 1 << 11
RTE_REMOTE_IRR, RTE_LEVEL, RTE_MASKED = 1 << 14, 1 << 15, 1 << 16
RTE_DESTINATION_SHIFT = 56
_RTE_WRITABLE = 0xFF << RTE_DESTINATION_SHIFT | 0x1AFFF  # not delivery status (12) and remote IRR (14)

FIXED, LOWEST_PRIORITY, SMI, NMI, INIT = (mode << 8 for mode in (0, 1, 2, 4, 5))
_LEVEL_MODES = (FIXED, LOWEST_PRIORITY)
_EDGE_MODES = (SMI, NMI, INIT)  # edge-triggered whatever the entry says

MSI_ADDRESS = 0xFEE00000
MSI_DESTINATION_SHIFT, MSI_LOGICAL = 12, 1 << 2
MSI_ASSERT, MSI_LEVEL = 1 << 14, 1 << 15

_ID_WRITABLE = 0x0F000000
_ALL_ONES = 0xFFFFFFFF

Message = tuple[int, int]
"""Address and data of an MSI."""


class IoApic:
    """The device, an MMIO region of `IOAPIC_SIZE` bytes. Thread-safe.

    `deliver(address, data)` sends an MSI and says whether a local APIC took it; `routes_changed(routes)` is told
    which pins are level-triggered, `{pin: message}`, whenever that changes: their vectors' EOIs are to come back
    through `end_of_interrupt`. Both are called with the lock held and must not call back.
    """

    name = "ioapic"

    def __init__(
        self,
        deliver: Callable[[int, int], bool],
        routes_changed: Callable[[dict[int, Message]], None],
    ) -> None:
        self._deliver = deliver
        self._routes_changed = routes_changed
        self._lock = threading.Lock()
        self._levels = 0  # pins as driven from outside; they outlive a reset
        self._entries = [RTE_MASKED] * IOAPIC_PINS
        self._select = self._id = 0
        self._routes: dict[int, Message] = {}

    def reset(self) -> None:
        """Power-on: all entries masked. Pins keep the levels they have."""
        with self._lock:
            self._entries = [RTE_MASKED] * IOAPIC_PINS
            self._select = self._id = 0
            self._update_routes()

    def set_pin(self, pin: int, high: bool) -> None:
        """Drive pin `pin`, 0..23, active high whatever polarity its entry says, as devices mean it."""
        bit = 1 << pin
        with self._lock:
            rises = high and not self._levels & bit
            self._levels = self._levels | bit if high else self._levels & ~bit
            if is_level(self._entries[pin]):
                self._service_level(pin)
            elif rises:
                self._send(pin)  # an edge at a masked pin is lost

    def end_of_interrupt(self, vector: int) -> None:
        """An EOI for `vector` from a local APIC: its level-triggered pins may interrupt again, and do if still high."""
        with self._lock:
            for pin, entry in enumerate(self._entries):
                if is_level(entry) and entry & RTE_VECTOR == vector:
                    self._entries[pin] &= ~RTE_REMOTE_IRR
                    self._service_level(pin)

    def unfinished(self) -> list[Message]:
        """The messages of level-triggered interrupts that were delivered and had no EOI yet."""
        with self._lock:
            return [message(entry) for entry in self._entries if entry & RTE_REMOTE_IRR]

    # ---- region --------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """IOREGSEL or IOWIN, cut to `size` bytes. Other offsets are reserved and read as 0."""
        value = 0
        if offset == IOREGSEL:
            value = self._select
        elif offset == IOWIN:
            value = self._read_register(self._select)
        return value & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """IOREGSEL, IOWIN or EOI. A narrow store to IOWIN writes zeros above; of a wide one, 32 bits count."""
        if offset == IOREGSEL:
            self._select = value & 0xFF
        elif offset == IOWIN:
            self._write_register(self._select, value & _ALL_ONES)
        elif offset == EOI_REGISTER:
            self.end_of_interrupt(value & 0xFF)

    def _read_register(self, index: int) -> int:
        if index in (REG_ID, REG_ARBITRATION):
            return self._id
        if index == REG_VERSION:
            return (IOAPIC_PINS - 1) << 16 | IOAPIC_VERSION
        pin, high = divmod(index - REG_REDIRECTION, 2)
        if 0 <= pin < IOAPIC_PINS:
            return self._entries[pin] >> 32 * high & _ALL_ONES
        return _ALL_ONES

    def _write_register(self, index: int, value: int) -> None:
        if index == REG_ID:
            self._id = value & _ID_WRITABLE
            return
        pin, high = divmod(index - REG_REDIRECTION, 2)
        if not 0 <= pin < IOAPIC_PINS:
            return
        with self._lock:
            shift = 32 * high
            entry = self._entries[pin]
            writable = _RTE_WRITABLE & _ALL_ONES << shift
            entry = entry & ~writable | value << shift & writable
            if not is_level(entry):
                entry &= ~RTE_REMOTE_IRR  # how guests that know no EOI register get rid of it
            self._entries[pin] = entry
            self._update_routes()
            if is_level(entry):
                self._service_level(pin)

    # ---- delivery, lock held -------------------------------------------------------------------------

    def _service_level(self, pin: int) -> None:
        """Interrupt for a level-triggered pin that is high, once per EOI."""
        entry = self._entries[pin]
        if self._levels >> pin & 1 and not entry & RTE_REMOTE_IRR and self._send(pin):
            self._entries[pin] |= RTE_REMOTE_IRR

    def _send(self, pin: int) -> bool:
        entry = self._entries[pin]
        if entry & RTE_MASKED or entry & RTE_DELIVERY_MODE not in (*_LEVEL_MODES, *_EDGE_MODES):
            return False
        return self._deliver(*message(entry))

    def _update_routes(self) -> None:
        # Masked entries too: a guest may mask a pin between its interrupt and the EOI.
        routes = {pin: message(entry) for pin, entry in enumerate(self._entries) if is_level(entry)}
        if routes != self._routes:
            self._routes = routes
            self._routes_changed(routes)


def is_level(entry: int) -> bool:
    """Whether a redirection entry is level-triggered."""
    return bool(entry & RTE_LEVEL) and entry & RTE_DELIVERY_MODE in _LEVEL_MODES


def message(entry: int) -> Message:
    """The MSI that a redirection entry stands for (SDM volume 3, 11.11)."""
    address = MSI_ADDRESS | entry >> RTE_DESTINATION_SHIFT << MSI_DESTINATION_SHIFT
    if entry & RTE_LOGICAL:
        address |= MSI_LOGICAL
    data = entry & (RTE_VECTOR | RTE_DELIVERY_MODE) | MSI_ASSERT
    if is_level(entry):
        data |= MSI_LEVEL
    return address, data
