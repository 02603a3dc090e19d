# SPDX-License-Identifier: Apache-2.0
"""FADT and FACS: power management ports, reset register, waking vector (ACPI 6.3 sections 5.2.9, 5.2.10)."""

from __future__ import annotations

from typing import Final

from vmm.machine.acpi.header import BYTE_ACCESS, DWORD_ACCESS, WORD_ACCESS, io_address, pack, table
from vmm.machine.devices import acpi_pm
from vmm.machine.devices.reset_port import RESET_PORT, RESET_VALUE
from vmm.machine.devices.rtc_time import CENTURY

FADT_REVISION: Final = 6
FADT_MINOR_REVISION: Final = 3
FACS_SIZE: Final = 64
FACS_ALIGNMENT: Final = 64
FACS_VERSION: Final = 2

# IA-PC boot architecture flags (table 5-10).
_LEGACY_DEVICES: Final = 1 << 0
_8042: Final = 1 << 1
_VGA_NOT_PRESENT: Final = 1 << 2

# Fixed feature flags (table 5-9). PWR_BUTTON, SLP_BUTTON, FIX_RTC, RTC_S4 and HW_REDUCED_ACPI stay 0: both
# buttons and the RTC's wake status are in the PM1 registers, there is no S4.
_WBINVD: Final = 1 << 0
_PROC_C1: Final = 1 << 2
_TMR_VAL_EXT: Final = 1 << 8
_RESET_REG_SUP: Final = 1 << 10

# Latencies above these say "no C2" and "no C3".
_NO_C2_LATENCY_US: Final = 101
_NO_C3_LATENCY_US: Final = 1001

_FADT_FIELDS: Final = (
    ("FIRMWARE_CTRL", "I"),
    ("DSDT", "I"),
    ("Reserved44", "B"),
    ("Preferred_PM_Profile", "B"),
    ("SCI_INT", "H"),
    ("SMI_CMD", "I"),
    ("ACPI_ENABLE", "B"),
    ("ACPI_DISABLE", "B"),
    ("S4BIOS_REQ", "B"),
    ("PSTATE_CNT", "B"),
    ("PM1a_EVT_BLK", "I"),
    ("PM1b_EVT_BLK", "I"),
    ("PM1a_CNT_BLK", "I"),
    ("PM1b_CNT_BLK", "I"),
    ("PM2_CNT_BLK", "I"),
    ("PM_TMR_BLK", "I"),
    ("GPE0_BLK", "I"),
    ("GPE1_BLK", "I"),
    ("PM1_EVT_LEN", "B"),
    ("PM1_CNT_LEN", "B"),
    ("PM2_CNT_LEN", "B"),
    ("PM_TMR_LEN", "B"),
    ("GPE0_BLK_LEN", "B"),
    ("GPE1_BLK_LEN", "B"),
    ("GPE1_BASE", "B"),
    ("CST_CNT", "B"),
    ("P_LVL2_LAT", "H"),
    ("P_LVL3_LAT", "H"),
    ("FLUSH_SIZE", "H"),
    ("FLUSH_STRIDE", "H"),
    ("DUTY_OFFSET", "B"),
    ("DUTY_WIDTH", "B"),
    ("DAY_ALRM", "B"),
    ("MON_ALRM", "B"),
    ("CENTURY", "B"),
    ("IAPC_BOOT_ARCH", "H"),
    ("Reserved111", "B"),
    ("Flags", "I"),
    ("RESET_REG", "12s"),
    ("RESET_VALUE", "B"),
    ("ARM_BOOT_ARCH", "H"),
    ("FADT_Minor_Version", "B"),
    ("X_FIRMWARE_CTRL", "Q"),
    ("X_DSDT", "Q"),
    ("X_PM1a_EVT_BLK", "12s"),
    ("X_PM1b_EVT_BLK", "12s"),
    ("X_PM1a_CNT_BLK", "12s"),
    ("X_PM1b_CNT_BLK", "12s"),
    ("X_PM2_CNT_BLK", "12s"),
    ("X_PM_TMR_BLK", "12s"),
    ("X_GPE0_BLK", "12s"),
    ("X_GPE1_BLK", "12s"),
    ("SLEEP_CONTROL_REG", "12s"),
    ("SLEEP_STATUS_REG", "12s"),
    ("HypervisorVendorIdentity", "Q"),
)

_FACS_FIELDS: Final = (
    ("Signature", "4s"),
    ("Length", "I"),
    ("HardwareSignature", "I"),
    ("FirmwareWakingVector", "I"),
    ("GlobalLock", "I"),
    ("Flags", "I"),
    ("XFirmwareWakingVector", "Q"),
    ("Version", "B"),
    ("Reserved33", "3s"),
    ("OspmFlags", "I"),
    ("Reserved40", "24s"),
)
FACS_WAKING_VECTOR_OFFSET: Final = 12
"""Of the field FirmwareWakingVector, 4 bytes."""


def build_fadt(facs_gpa: int, dsdt_gpa: int, i8042: bool) -> bytes:
    """The FADT. Both pointers have the 32-bit and the 64-bit form: some guests read only the first."""
    timer_flag = _TMR_VAL_EXT if acpi_pm.PM_TIMER_BITS > 24 else 0
    boot_flags = _LEGACY_DEVICES | _VGA_NOT_PRESENT | (_8042 if i8042 else 0)
    body = pack(
        _FADT_FIELDS,
        {
            "FIRMWARE_CTRL": facs_gpa,
            "X_FIRMWARE_CTRL": facs_gpa,
            "DSDT": dsdt_gpa,
            "X_DSDT": dsdt_gpa,
            "SCI_INT": acpi_pm.SCI_IRQ,
            "SMI_CMD": acpi_pm.SMI_CMD,
            "ACPI_ENABLE": acpi_pm.ACPI_ENABLE,
            "ACPI_DISABLE": acpi_pm.ACPI_DISABLE,
            "PM1a_EVT_BLK": acpi_pm.PM1A_EVT,
            "PM1_EVT_LEN": acpi_pm.PM1A_EVT_LEN,
            "X_PM1a_EVT_BLK": io_address(acpi_pm.PM1A_EVT, acpi_pm.PM1A_EVT_LEN, WORD_ACCESS),
            "PM1a_CNT_BLK": acpi_pm.PM1A_CNT,
            "PM1_CNT_LEN": acpi_pm.PM1A_CNT_LEN,
            "X_PM1a_CNT_BLK": io_address(acpi_pm.PM1A_CNT, acpi_pm.PM1A_CNT_LEN, WORD_ACCESS),
            "PM_TMR_BLK": acpi_pm.PM_TMR,
            "PM_TMR_LEN": acpi_pm.PM_TMR_LEN,
            "X_PM_TMR_BLK": io_address(acpi_pm.PM_TMR, acpi_pm.PM_TMR_LEN, DWORD_ACCESS),
            "GPE0_BLK": acpi_pm.GPE0,
            "GPE0_BLK_LEN": acpi_pm.GPE0_LEN,
            "X_GPE0_BLK": io_address(acpi_pm.GPE0, acpi_pm.GPE0_LEN, BYTE_ACCESS),
            "P_LVL2_LAT": _NO_C2_LATENCY_US,
            "P_LVL3_LAT": _NO_C3_LATENCY_US,
            "CENTURY": CENTURY,
            "IAPC_BOOT_ARCH": boot_flags,
            "Flags": _WBINVD | _PROC_C1 | _RESET_REG_SUP | timer_flag,
            "RESET_REG": io_address(RESET_PORT, 1, BYTE_ACCESS),
            "RESET_VALUE": RESET_VALUE,
            "FADT_Minor_Version": FADT_MINOR_REVISION,
        },
    )
    return table(b"FACP", FADT_REVISION, body)


def build_facs() -> bytes:
    """The FACS as firmware hands it over: no waking vector, lock free. The guest writes into it."""
    return pack(_FACS_FIELDS, {"Signature": b"FACS", "Length": FACS_SIZE, "Version": FACS_VERSION})
