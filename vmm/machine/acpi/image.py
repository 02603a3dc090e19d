# SPDX-License-Identifier: Apache-2.0
"""Where each table lies in guest memory, and the pointers between them (ACPI 6.3 section 5.2.5 to 5.2.8)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from vmm.machine.acpi.config import RSDP_ALIGNMENT, RSDP_SIZE, AcpiConfig, AcpiConfigError
from vmm.machine.acpi.dsdt import build_dsdt
from vmm.machine.acpi.fadt import FACS_ALIGNMENT, build_facs, build_fadt
from vmm.machine.acpi.header import OEM_ID, checksum, table
from vmm.machine.acpi.madt import build_madt

RSDP_REVISION: Final = 2
XSDT_REVISION: Final = 1
RSDT_REVISION: Final = 1
_RSDP_V1_SIZE: Final = 20  # what the first checksum covers
_TABLE_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class AcpiImage:
    """Tables ready to be copied into guest RAM, at power-on and at each reset.

    `blobs`: sorted, not overlapping `(gpa, bytes)`. `facs_gpa`: where the guest leaves its waking vector
    (`fadt.FACS_WAKING_VECTOR_OFFSET`). `end`: first free GPA of the area.
    """

    rsdp_gpa: int
    facs_gpa: int
    end: int
    blobs: tuple[tuple[int, bytes], ...]


class _Area:
    """Hands out the area from its start, and keeps what was put there."""

    def __init__(self, gpa: int, size: int) -> None:
        self.next_gpa = gpa
        self.end = gpa + size
        self.blobs: list[tuple[int, bytes]] = []

    def reserve(self, what: str, size: int, alignment: int = _TABLE_ALIGNMENT) -> int:
        gpa = -(-self.next_gpa // alignment) * alignment
        if gpa + size > self.end:
            raise AcpiConfigError(
                f"ACPI {what} needs {size} bytes at {gpa:#x}, but the area ends at {self.end:#x}; "
                "give AcpiConfig.area a larger range, for example at the top of RAM below 4 GiB"
            )
        self.next_gpa = gpa + size
        return gpa

    def place(self, what: str, data: bytes, alignment: int = _TABLE_ALIGNMENT) -> int:
        gpa = self.reserve(what, len(data), alignment)
        self.blobs.append((gpa, data))
        return gpa


def build_tables(config: AcpiConfig) -> AcpiImage:
    """All tables of `config`, placed in `config.area`.

    Errors: `AcpiConfigError` when the area is too small, or holds an RSDP put outside its start.
    """
    area = _Area(*config.area)
    rsdp_gpa = _rsdp_gpa(config, area)
    facs_gpa = area.place("FACS", build_facs(), FACS_ALIGNMENT)
    dsdt_gpa = area.place("DSDT", build_dsdt(config))
    tables = [
        area.place("FADT", build_fadt(facs_gpa, dsdt_gpa, config.i8042)),
        area.place("MADT", build_madt(config)),
    ]
    rsdt_gpa = area.place("RSDT", table(b"RSDT", RSDT_REVISION, struct.pack(f"<{len(tables)}I", *tables)))
    xsdt_gpa = area.place("XSDT", table(b"XSDT", XSDT_REVISION, struct.pack(f"<{len(tables)}Q", *tables)))
    blobs = sorted([*area.blobs, (rsdp_gpa, _rsdp(rsdt_gpa, xsdt_gpa))])
    return AcpiImage(rsdp_gpa, facs_gpa, area.next_gpa, tuple(blobs))


def _rsdp_gpa(config: AcpiConfig, area: _Area) -> int:
    gpa, end = config.area[0], sum(config.area)
    if config.rsdp_gpa is None:
        return area.reserve("RSDP", RSDP_SIZE, RSDP_ALIGNMENT)
    if gpa < config.rsdp_gpa + RSDP_SIZE and config.rsdp_gpa < end:
        raise AcpiConfigError(
            f"RSDP at {config.rsdp_gpa:#x} lies in the tables' area [{gpa:#x}, {end:#x}); leave rsdp_gpa out"
        )
    return config.rsdp_gpa


def _rsdp(rsdt_gpa: int, xsdt_gpa: int) -> bytes:
    data = bytearray(
        struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, RSDP_REVISION, rsdt_gpa, RSDP_SIZE, xsdt_gpa, 0)
    )
    data[8] = checksum(data[:_RSDP_V1_SIZE])
    data[32] = checksum(data)
    return bytes(data)
