# SPDX-License-Identifier: Apache-2.0
"""The 8259s and the PIT as a PC's firmware leaves them (see `boot_state` for the vectors' handlers)."""

from __future__ import annotations

from kvmapi import Vm
from kvmapi.uapi import x86
from vmm.backend.partition import VmOptions
from vmm.bus import PortBus
from vmm.machine.boot_state import MASTER_VECTOR, SLAVE_VECTOR

# Only the tick (IRQ 0) and the cascade (IRQ 2) are let through: there are handlers for the others, but no drivers.
MASTER_MASK, SLAVE_MASK = 0xFA, 0xFF
# Interrupts 9 (ACPI), 10 and 11 (PCI) are level-triggered: bits of the slave's edge/level register.
MASTER_LEVEL, SLAVE_LEVEL = 0x00, 0x0E

PIT_TICK_COUNT = 0x10000  # 18.2 Hz
PIT_RATE_GENERATOR = 2
PIT_LOW_THEN_HIGH = 3

# The same as port writes. The PIT comes first: what its OUT does meanwhile is forgotten at ICW1.
FIRMWARE_WRITES = (
    (0x43, PIT_LOW_THEN_HIGH << 4 | PIT_RATE_GENERATOR << 1),
    (0x40, PIT_TICK_COUNT & 0xFF),
    (0x40, PIT_TICK_COUNT >> 8 & 0xFF),
    *((0x20, 0x11), (0x21, MASTER_VECTOR), (0x21, 1 << 2), (0x21, 0x01), (0x21, MASTER_MASK)),
    *((0xA0, 0x11), (0xA1, SLAVE_VECTOR), (0xA1, 2), (0xA1, 0x01), (0xA1, SLAVE_MASK)),
    *((0x4D0, MASTER_LEVEL), (0x4D1, SLAVE_LEVEL)),
)


def program(ports: PortBus) -> None:
    """Set up the VMM's own chips (split irqchip), by their ports; those of a missing PIT go nowhere."""
    for port, value in FIRMWARE_WRITES:
        ports.write(port, 1, value)


def as_firmware_leaves(vm: Vm, options: VmOptions) -> None:
    """Set up the kernel's chips: vectors, masks, the 18.2 Hz tick. Errors: `KvmError`."""
    if options.split_irqchip:
        return
    for chip_id, vector, mask, level in (
        (x86.KVM_IRQCHIP_PIC_MASTER, MASTER_VECTOR, MASTER_MASK, MASTER_LEVEL),
        (x86.KVM_IRQCHIP_PIC_SLAVE, SLAVE_VECTOR, SLAVE_MASK, SLAVE_LEVEL),
    ):
        chip = vm.get_irqchip(chip_id)
        chip.chip.pic.elcr = level
        chip.chip.pic.irq_base, chip.chip.pic.imr = vector, mask
        chip.chip.pic.init4 = 1  # initialised by four command words, as on every PC
        vm.set_irqchip(chip)
    if options.pit:
        state = vm.get_pit2()
        tick = state.channels[0]
        tick.count, tick.mode, tick.rw_mode, tick.gate, tick.bcd = (
            PIT_TICK_COUNT,
            PIT_RATE_GENERATOR,
            PIT_LOW_THEN_HIGH,
            1,
            0,
        )
        vm.set_pit2(state)
