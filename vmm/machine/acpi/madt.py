# SPDX-License-Identifier: Apache-2.0
"""MADT: local APICs, the I/O APIC, how ISA interrupts reach it, NMI wiring (ACPI 6.3 section 5.2.12)."""

from __future__ import annotations

import struct
from typing import Final

from vmm.machine.acpi.config import LOCAL_APIC_BASE, AcpiConfig
from vmm.machine.acpi.header import table

MADT_REVISION: Final = 5
_PCAT_COMPAT: Final = 1  # two 8259s exist beside the APICs

_LOCAL_APIC: Final = 0
_IO_APIC: Final = 1
_INTERRUPT_SOURCE_OVERRIDE: Final = 2
_LOCAL_APIC_NMI: Final = 4
_LOCAL_X2APIC: Final = 9
_LOCAL_X2APIC_NMI: Final = 10

_ENABLED: Final = 1
_ISA_BUS: Final = 0
_CONFORMS_TO_BUS: Final = 0
_LEVEL_ACTIVE_HIGH: Final = 0b11 << 2 | 0b01  # MPS INTI flags (table 5-49)
_NMI_LINT: Final = 1

# 255 is the broadcast address of an xAPIC: from this id on a processor needs the x2APIC entry.
FIRST_X2APIC_ONLY_ID: Final = 255

# (ISA interrupt, GSI, flags). The PIT's line 0 arrives at pin 2; SCI (9) and PCI (5, 10, 11) are level lines.
INTERRUPT_SOURCE_OVERRIDES: Final = (
    (0, 2, _CONFORMS_TO_BUS),
    (5, 5, _LEVEL_ACTIVE_HIGH),
    (9, 9, _LEVEL_ACTIVE_HIGH),
    (10, 10, _LEVEL_ACTIVE_HIGH),
    (11, 11, _LEVEL_ACTIVE_HIGH),
)


def build_madt(config: AcpiConfig) -> bytes:
    """The MADT of `config`, processors in the order of `config.apic_ids`."""
    has_x2apic_ids = config.apic_ids[-1] >= FIRST_X2APIC_ONLY_ID
    entries = [_processor(uid, apic_id) for uid, apic_id in enumerate(config.apic_ids)]
    entries.append(_entry(_IO_APIC, "BBII", config.ioapic_id, 0, config.ioapic_base, 0))
    entries += [
        _entry(_INTERRUPT_SOURCE_OVERRIDE, "BBIH", _ISA_BUS, irq, gsi, flags)
        for irq, gsi, flags in INTERRUPT_SOURCE_OVERRIDES
    ]
    entries.append(_entry(_LOCAL_APIC_NMI, "BHB", 0xFF, _CONFORMS_TO_BUS, _NMI_LINT))
    if has_x2apic_ids:
        entries.append(_entry(_LOCAL_X2APIC_NMI, "HIB3x", _CONFORMS_TO_BUS, 0xFFFFFFFF, _NMI_LINT))
    body = struct.pack("<II", LOCAL_APIC_BASE, _PCAT_COMPAT) + b"".join(entries)
    return table(b"APIC", MADT_REVISION, body)


def _processor(uid: int, apic_id: int) -> bytes:
    if apic_id < FIRST_X2APIC_ONLY_ID:
        return _entry(_LOCAL_APIC, "BBI", uid, apic_id, _ENABLED)
    return _entry(_LOCAL_X2APIC, "2xIII", apic_id, _ENABLED, uid)


def _entry(kind: int, code: str, *values: int) -> bytes:
    body = struct.pack("<" + code, *values)
    return struct.pack("<BB", kind, 2 + len(body)) + body
