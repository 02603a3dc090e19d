# SPDX-License-Identifier: Apache-2.0
"""How PCI's INTA..INTD reach the interrupt controllers: one table, read by the bus, PIIX and the DSDT.

The board wires four interrupt links (A..D) to fixed ISA interrupts, the ones PC firmware gives a 440FX board.
An ISA interrupt and its GSI have the same number, so a guest finds the same line through the 8259s and
through the I/O APIC, with ACPI or without.
"""

from __future__ import annotations

from typing import Final

PINS: Final = ("INTA", "INTB", "INTC", "INTD")
LINK_IRQS: Final = (10, 10, 11, 11)
SLOTS: Final = 32


def link_of(slot: int, pin: int) -> int:
    """The link (0..3) that pin `pin` (0 is INTA) of the device in `slot` is wired to.

    The wiring turns by one link per slot, so that neighbours share as little as possible.
    """
    return (slot + pin - 1) % len(LINK_IRQS)


def irq_of(slot: int, pin: int) -> int:
    """The ISA interrupt and GSI that pin `pin` (0 is INTA) of the device in `slot` raises."""
    return LINK_IRQS[link_of(slot, pin)]
