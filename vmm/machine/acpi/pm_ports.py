# SPDX-License-Identifier: Apache-2.0
"""Ports and sleep types of the power management block, as the FADT and the DSDT give them."""

from typing import Final

SCI_IRQ: Final = 9
SMI_CMD: Final = 0xB2
ACPI_ENABLE: Final = 0xF1
ACPI_DISABLE: Final = 0xF0
PM1A_EVT: Final = 0x600
PM1A_EVT_LEN: Final = 4
PM1A_CNT: Final = 0x604
PM1A_CNT_LEN: Final = 2
PM_TMR: Final = 0x608
PM_TMR_LEN: Final = 4
GPE0: Final = 0xAFE0
GPE0_LEN: Final = 4
SLEEP_TYPE_S3: Final = 1
SLEEP_TYPE_S5: Final = 0
