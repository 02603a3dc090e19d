# SPDX-License-Identifier: Apache-2.0
"""The type 0 configuration header as data (PCI 3.0 section 6.1, 6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from vmm.machine.pci.config_space import Register

VENDOR_ID: Final = 0x00
DEVICE_ID: Final = 0x02
COMMAND: Final = 0x04
STATUS: Final = 0x06
HEADER_TYPE: Final = 0x0E
BASE_ADDRESS_0: Final = 0x10
CAPABILITIES_POINTER: Final = 0x34
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D
FIRST_FREE_OFFSET: Final = 0x40

BAR_COUNT: Final = 6
MULTI_FUNCTION: Final = 0x80


class Command(IntFlag):
    """Bits of the COMMAND register that a guest may set."""

    IO_SPACE = 1 << 0
    MEMORY_SPACE = 1 << 1
    BUS_MASTER = 1 << 2
    PARITY_ERROR_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    INTERRUPT_DISABLE = 1 << 10


class Status(IntFlag):
    """Bits of the STATUS register."""

    INTERRUPT = 1 << 3
    CAPABILITIES_LIST = 1 << 4
    FAST_BACK_TO_BACK = 1 << 7
    DEVSEL_MEDIUM = 1 << 9


# Parity and abort reports, 15..11 and 8: set by hardware, cleared by writing ones.
STATUS_WRITE_ONE_CLEARS: Final = 0xF900


@dataclass(frozen=True, slots=True)
class Identity:
    """What a function says it is. `class_code` is base class, sub-class and interface in 24 bits."""

    vendor_id: int
    device_id: int
    class_code: int
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0


def header_registers(identity: Identity, interrupt_pin: int) -> tuple[Register, ...]:
    """The type 0 header without BARs. `interrupt_pin`: 0 for none, 1 for INTA .. 4 for INTD."""
    writable_command = 0
    for bit in Command:
        writable_command |= bit
    return (
        Register("VENDOR_ID", VENDOR_ID, 2, identity.vendor_id),
        Register("DEVICE_ID", DEVICE_ID, 2, identity.device_id),
        Register("COMMAND", COMMAND, 2, writable=writable_command),
        Register("STATUS", STATUS, 2, Status.DEVSEL_MEDIUM, 0, write_one_clears=STATUS_WRITE_ONE_CLEARS),
        Register("REVISION_ID", 0x08, 1, identity.revision),
        Register("CLASS_CODE", 0x09, 3, identity.class_code),
        Register("CACHE_LINE_SIZE", 0x0C, 1, writable=0xFF),
        Register("LATENCY_TIMER", 0x0D, 1, writable=0xFF),
        Register("HEADER_TYPE", HEADER_TYPE, 1),
        Register("SUBSYSTEM_VENDOR_ID", 0x2C, 2, identity.subsystem_vendor_id),
        Register("SUBSYSTEM_ID", 0x2E, 2, identity.subsystem_id),
        Register("CAPABILITIES_POINTER", CAPABILITIES_POINTER, 1),
        Register("INTERRUPT_LINE", INTERRUPT_LINE, 1, writable=0xFF),
        Register("INTERRUPT_PIN", INTERRUPT_PIN, 1, interrupt_pin),
    )
