# SPDX-License-Identifier: Apache-2.0
"""What the DSDT says of PCI interrupts is what the PCI bus does."""

import re

from tests.pure.pci.pci_board import PciBoard
from vmm.machine.acpi import AcpiConfig
from vmm.machine.acpi.dsdt import build_dsdt

# A _PRT entry: package of 4, address 0x????ffff (a word for slot 0), pin, reference to the link, 0.
PRT_ENTRY = re.compile(
    rb"\x12.\x04(?:\x0b\xff\xff|\x0c\xff\xff(..))(\x00|\x01|\x0a.)(LNK[A-D])\x00", re.DOTALL
)
# A link: its name, and in the current setting the extended interrupt descriptor's only number.
LINK = re.compile(rb"(LNK[A-D])\x08_HID.*?_CRS\x11.{3}\x89\x06\x00\x09\x01(....)", re.DOTALL)


def number(encoded: bytes) -> int:
    """Of an AML integer below 256, with or without a prefix."""
    return encoded[-1]


def test_every_pin_is_routed_to_the_line_that_the_bus_drives() -> None:
    dsdt = build_dsdt(AcpiConfig(apic_ids=(0,)))
    links = {name: int.from_bytes(gsi, "little") for name, gsi in LINK.findall(dsdt)}
    routed = {
        (int.from_bytes(slot, "little"), number(pin) + 1): links[link]
        for slot, pin, link in PRT_ENTRY.findall(dsdt)
    }

    driven = {}
    for slot in range(32):
        for pin in range(1, 5):
            board = PciBoard()
            function = board.add(slot=slot, pin=pin)
            board.bus.reset()
            function.set_interrupt(True)
            driven[slot, pin] = next(irq for irq, line in board.lines.items() if line.level)

    assert len(links) == 4
    assert routed == driven
