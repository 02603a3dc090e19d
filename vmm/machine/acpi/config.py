# SPDX-License-Identifier: Apache-2.0
"""What the ACPI tables say of the board: one value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Where guests look for the RSDP on a PC without UEFI (ACPI 6.3 section 5.2.5.1), `(gpa, size)`.
BIOS_AREA: Final = (0xE0000, 0x20000)
RSDP_ALIGNMENT: Final = 16
RSDP_SIZE: Final = 36

GIB: Final = 1 << 30
IOAPIC_BASE: Final = 0xFEC00000
LOCAL_APIC_BASE: Final = 0xFEE00000
# The largest KVM_MAX_VCPUS a kernel can be built with; processor names in the DSDT have three hex digits.
MAX_CPUS: Final = 4096


class AcpiConfigError(ValueError):
    """The tables cannot describe this board; the message says which value, why, and what would do."""


@dataclass(frozen=True, slots=True)
class ComPort:
    """A 16550 at `io_base` (8 ports) that raises ISA interrupt `irq`."""

    io_base: int
    irq: int


COM1: Final = ComPort(0x3F8, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiConfig:
    """The board, as far as ACPI describes it.

    `apic_ids`: APIC ids of the processors, the boot processor first, ascending; processor `n` gets `_UID` n.
    `pci_hole`: `(gpa, size)` of the window below 4 GiB for PCI memory BARs; `pci_hole64`: above, or None.
    `area`: `(gpa, size)` of writable guest RAM, reported to the guest as reserved, that takes the tables.
    `rsdp_gpa`: where the RSDP goes, inside `BIOS_AREA`; None puts it first in `area`.
    `com_ports`, `i8042`: the optional ISA devices that exist; `isa_bridge_slot`: PCI slot of their bridge.
    `s3`: announce sleep state S3. Errors: `AcpiConfigError`.
    """

    apic_ids: tuple[int, ...]
    pci_hole: tuple[int, int] = (0xC0000000, IOAPIC_BASE - 0xC0000000)
    pci_hole64: tuple[int, int] | None = None
    area: tuple[int, int] = BIOS_AREA
    rsdp_gpa: int | None = None
    ioapic_id: int = 0
    ioapic_base: int = IOAPIC_BASE
    com_ports: tuple[ComPort, ...] = (COM1,)
    i8042: bool = True
    isa_bridge_slot: int = 1
    s3: bool = True

    def __post_init__(self) -> None:
        self._check_processors()
        self._check_pci_windows()
        self._check_placement()

    def _check_processors(self) -> None:
        if not 1 <= len(self.apic_ids) <= MAX_CPUS:
            raise AcpiConfigError(f"{len(self.apic_ids)} processors: the tables describe 1 to {MAX_CPUS}")
        if list(self.apic_ids) != sorted(set(self.apic_ids)):
            raise AcpiConfigError("APIC ids must be ascending and different: the MADT lists them so")
        if self.apic_ids[0] < 0 or self.apic_ids[-1] >= 0xFFFFFFFF:
            raise AcpiConfigError(f"APIC ids {self.apic_ids[0]}..{self.apic_ids[-1]} are not in 0..2^32-2")

    def _check_pci_windows(self) -> None:
        base, size = self.pci_hole
        if size < 1 or not 0x100000 <= base < base + size <= 4 * GIB:
            raise AcpiConfigError(f"PCI hole {base:#x}+{size:#x} does not lie between 1 MiB and 4 GiB")
        if self.pci_hole64 is not None:
            base, size = self.pci_hole64
            if size < 1 or not 4 * GIB <= base < base + size < 1 << 64:
                raise AcpiConfigError(f"64-bit PCI hole {base:#x}+{size:#x} does not lie above 4 GiB")

    def _check_placement(self) -> None:
        gpa, size = self.area
        if size < 1 or not 0 < gpa < gpa + size <= 4 * GIB:
            raise AcpiConfigError(f"ACPI area {gpa:#x}+{size:#x} does not lie below 4 GiB")
        rsdp = gpa if self.rsdp_gpa is None else self.rsdp_gpa
        first, end = BIOS_AREA[0], sum(BIOS_AREA)
        if not first <= rsdp <= end - RSDP_SIZE or rsdp % RSDP_ALIGNMENT:
            raise AcpiConfigError(
                f"RSDP at {rsdp:#x}: guests look for its {RSDP_SIZE} bytes at multiples of {RSDP_ALIGNMENT} in "
                f"[{first:#x}, {end:#x}); give rsdp_gpa when the tables lie elsewhere"
            )
