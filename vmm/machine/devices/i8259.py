# SPDX-License-Identifier: Apache-2.0
"""The PC's two cascaded 8259As and their edge/level control registers.

| ports | what |
|---|---|
| 0x20, 0x21 | master: interrupts 0-7, the slave at input 2 |
| 0xa0, 0xa1 | slave: interrupts 8-15 |
| 0x4d0, 0x4d1 | ELCR: bit n makes interrupt n (8 + n) level-triggered; 0, 1, 2, 8 and 13 are edge-triggered always |

Sources: Intel 8259A data sheet; ICH data sheet for the ELCR.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmm.bus import PortBus
from vmm.machine.devices.byte_ports import BytePorts
from vmm.machine.devices.i8259_chip import I8259, INPUTS, SPURIOUS_LEVEL

MASTER_PORT, SLAVE_PORT = 0x20, 0xA0
CHIP_PORT_COUNT = 2
ELCR_PORT = 0x4D0
ELCR_PORT_COUNT = 2
PIC_IRQS = 2 * INPUTS
CASCADE_IRQ = 2

_ELCR_WRITABLE = (0xF8, 0xDE)


class PicPair:
    """Both chips. Thread-safe.

    `intr` is the master's INT output. `on_intr(level)` is called at each of its changes, with the chips' lock held:
    it must not call back.
    """

    name = "i8259"

    def __init__(self, on_intr: Callable[[bool], None]) -> None:
        self.intr = False
        self._on_intr = on_intr
        self._lock = threading.Lock()
        self._master = I8259(slave_inputs=1 << CASCADE_IRQ)
        self._slave = I8259(slave_inputs=0)

    def attach(self, ports: PortBus) -> None:
        """Decode the ports of the table above. Errors: `BusConflictError`."""
        ports.add(MASTER_PORT, CHIP_PORT_COUNT, _ChipPorts(self, self._master), "i8259-master")
        ports.add(SLAVE_PORT, CHIP_PORT_COUNT, _ChipPorts(self, self._slave), "i8259-slave")
        ports.add(ELCR_PORT, ELCR_PORT_COUNT, _ElcrPorts(self, self._master, self._slave), "elcr")

    def reset(self) -> None:
        """Power-on: no request passes until the chips are initialised. Lines keep the levels they have."""
        with self._lock:
            self._master.power_on()
            self._slave.power_on()
            self._update()

    def set_irq(self, irq: int, high: bool) -> None:
        """Drive the line of interrupt `irq`, 0..15. 2 is the cascade: nobody else can drive it."""
        if irq == CASCADE_IRQ:
            return
        with self._lock:
            chip = self._master if irq < INPUTS else self._slave
            chip.set_input(irq % INPUTS, high)
            self._update()

    def acknowledge(self) -> int:
        """The processor's INTA sequence: the vector. Without a request it is that of level 7, and no IS bit is set."""
        with self._lock:
            level = self._master.request()
            if level is None:
                return self._master.vector(SPURIOUS_LEVEL)
            self._master.acknowledge(level)
            vector = self._master.vector(level)
            if level == CASCADE_IRQ:
                vector = self._acknowledge_slave()
            self._update()
            return vector

    def _acknowledge_slave(self) -> int:
        level = self._slave.request()
        if level is None:
            return self._slave.vector(SPURIOUS_LEVEL)
        self._slave.acknowledge(level)
        # INT goes low in each INTA sequence, so that a request behind this one makes an edge of its own.
        self._master.withdraw(CASCADE_IRQ)
        return self._slave.vector(level)

    def _update(self) -> None:
        """Carry the slave's INT to the master and the master's to the processor. Lock held."""
        if self._slave.request() is None:
            self._master.withdraw(CASCADE_IRQ)
        else:
            self._master.set_input(CASCADE_IRQ, True)
        intr = self._master.request() is not None
        if intr != self.intr:
            self.intr = intr
            self._on_intr(intr)

    # ---- for the ports -------------------------------------------------------------------------------

    def read_chip(self, chip: I8259, a0: int) -> int:
        """Read a chip's register; after a poll command this acknowledges."""
        with self._lock:
            if chip is self._slave and chip.polled:
                self._master.withdraw(CASCADE_IRQ)  # a poll is an acknowledgement too: INT goes low
            value = chip.read(a0)
            self._update()
            return value

    def write_chip(self, chip: I8259, a0: int, value: int) -> None:
        """Write a chip's command word."""
        with self._lock:
            chip.write(a0, value)
            self._update()

    def write_elcr(self, chip: I8259, value: int) -> None:
        """Set a chip's edge/level register."""
        with self._lock:
            chip.set_elcr(value)
            self._update()


class _ChipPorts(BytePorts):
    def __init__(self, pair: PicPair, chip: I8259) -> None:
        self._pair = pair
        self._chip = chip

    def read_byte(self, offset: int) -> int:
        return self._pair.read_chip(self._chip, offset) if offset < CHIP_PORT_COUNT else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        if offset < CHIP_PORT_COUNT:
            self._pair.write_chip(self._chip, offset, value)


class _ElcrPorts(BytePorts):
    def __init__(self, pair: PicPair, *chips: I8259) -> None:
        self._pair = pair
        self._chips = chips

    def read_byte(self, offset: int) -> int:
        return self._chips[offset].elcr if offset < ELCR_PORT_COUNT else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        if offset < ELCR_PORT_COUNT:
            self._pair.write_elcr(self._chips[offset], value & _ELCR_WRITABLE[offset])
