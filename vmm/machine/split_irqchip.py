# SPDX-License-Identifier: Apache-2.0
"""`--machine irqchip=split`: 8259s, I/O APIC and PIT of the VMM around local APICs in the kernel.

How they hang together (api.rst KVM_CAP_SPLIT_IRQCHIP):

| from | to | by |
|---|---|---|
| a device's line (GSI) | 8259s (0-15 without the cascade), I/O APIC (0 at pin 2) | `SplitLine` |
| PIT counter 0 | GSI 0 | the same |
| I/O APIC | local APICs | KVM_SIGNAL_MSI |
| 8259s' INTR | LINT0 of the boot processor | `ExternalInterrupts` |
| a local APIC's EOI | I/O APIC | KVM_EXIT_IOAPIC_EOI, for vectors that the routing table has as level-triggered |

An EOI that does not come is looked for (`StuckEoiWatch`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from kvmapi import KvmError, Vm, routes
from kvmapi.uapi import kvm as k
from vmm.backend.external_interrupts import ExternalInterrupts
from vmm.backend.stuck_eoi import StuckEoiWatch
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.machine import chip_setup
from vmm.machine.devices.i8259 import CASCADE_IRQ, PIC_IRQS, PicPair
from vmm.machine.devices.ioapic import (
    IOAPIC_GPA,
    IOAPIC_SIZE,
    MSI_DESTINATION_SHIFT,
    MSI_LEVEL,
    MSI_LOGICAL,
    RTE_VECTOR,
    IoApic,
    Message,
)
from vmm.machine.devices.pit import Pit
from vmm.outside import Clock

TIMER_GSI, TIMER_PIN = 0, 2  # as the MADT's interrupt source override says
_EOI_VECTOR = 32  # byte of struct kvm_run


class SplitIrqchip:
    """The three devices on the machine's buses. `connect` before the VPs start."""

    def __init__(self, vm: Vm, clock: Clock, ports: PortBus, mmio: MmioBus, *, pit: bool) -> None:
        """Errors: `BusConflictError`."""
        self._vm = vm
        self._ports = ports
        self._clock = clock
        self._watch: StuckEoiWatch | None = None
        self._external: ExternalInterrupts | None = None
        self._pic = PicPair(self._intr_changed)
        self._pic.attach(ports)
        self._ioapic = IoApic(self._deliver, self._routes_changed)
        mmio.add(IOAPIC_GPA, IOAPIC_SIZE, self._ioapic, self._ioapic.name)
        self._pit: Pit | None = None
        if pit:
            self._pit = Pit(self.line(TIMER_GSI), clock)
            self._pit.attach(ports)

    def line(self, gsi: int) -> SplitLine:
        """The input of interrupt `gsi`, 0..23."""
        return SplitLine(self._pic, self._ioapic, gsi)

    def connect(self, vps: Sequence[VirtualProcessor]) -> None:
        """Let EOIs of all processors reach the I/O APIC, and the 8259s' INTR the first processor."""
        for vp in vps:
            vp.handlers[k.KVM_EXIT_IOAPIC_EOI] = EndOfInterrupt(vp, self._ioapic)
        self._external = ExternalInterrupts(vps[0], self._pic)
        self._watch = StuckEoiWatch(vps, self._clock, self._unfinished)

    def reset(self) -> None:
        """The chips as a PC's firmware leaves them. No VP may run. Lines keep the levels that devices give them."""
        self._ioapic.reset()
        self._pic.reset()
        if self._pit is not None:
            self._pit.reset()
        chip_setup.program(self._ports)
        if self._external is not None:
            self._external.state_replaced()

    def _intr_changed(self, level: bool) -> None:
        if self._external is not None:
            self._external.intr_changed(level)

    def _deliver(self, address: int, data: int) -> bool:
        try:
            delivered = self._vm.signal_msi(address, data) > 0
        except KvmError as error:
            if error.errno == errno.EPERM:  # no local APIC has this destination
                return False
            raise
        if delivered and data & MSI_LEVEL and self._watch is not None:
            self._watch.watch()
        return delivered

    def _unfinished(self) -> list[tuple[int, int]]:
        """`(APIC id, vector)` of interrupts without EOI; a logical destination may be anybody and is left out."""
        return [
            (address >> MSI_DESTINATION_SHIFT & 0xFF, data & RTE_VECTOR)
            for address, data in self._ioapic.unfinished()
            if not address & MSI_LOGICAL
        ]

    def _routes_changed(self, level_triggered: dict[int, Message]) -> None:
        self._vm.set_gsi_routing(routes.to_msi(pin, *message) for pin, message in level_triggered.items())


class EndOfInterrupt:
    """Handler of KVM_EXIT_IOAPIC_EOI on one VP."""

    def __init__(self, vp: VirtualProcessor, ioapic: IoApic) -> None:
        self._vp = vp
        self._ioapic = ioapic

    def __call__(self) -> None:
        self._ioapic.end_of_interrupt(self._vp.vcpu.run.u8[_EOI_VECTOR])


class SplitLine:
    """A line into both interrupt controllers (`vmm.outside.InterruptLine`), by GSI.

    GSI 2 leads nowhere: at the 8259s that input is the cascade, at the I/O APIC it is the timer's.
    """

    def __init__(self, pic: PicPair, ioapic: IoApic, gsi: int) -> None:
        self._pic = pic
        self._ioapic = ioapic
        self._irq = gsi if gsi < PIC_IRQS and gsi != CASCADE_IRQ else None
        self._pin = TIMER_PIN if gsi == TIMER_GSI else None if gsi == TIMER_PIN else gsi

    def set_level(self, level: bool) -> None:
        """Drive the line high or low."""
        if self._irq is not None:
            self._pic.set_irq(self._irq, level)
        if self._pin is not None:
            self._ioapic.set_pin(self._pin, level)

    def pulse(self) -> None:
        """Drive the line high, then low."""
        self.set_level(True)
        self.set_level(False)
