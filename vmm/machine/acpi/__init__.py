# SPDX-License-Identifier: Apache-2.0
"""ACPI tables of the board: from an `AcpiConfig` to bytes at guest physical addresses.

`build_tables` is the way in. The tables follow ACPI 6.3; nothing here touches guest memory, ports or KVM. The
AML encoder (`aml`, `resources`) knows the language and not this board; `dsdt` knows the board.
"""

from vmm.machine.acpi.config import AcpiConfig, AcpiConfigError, ComPort
from vmm.machine.acpi.image import AcpiImage, build_tables

__all__ = ["AcpiConfig", "AcpiConfigError", "AcpiImage", "ComPort", "build_tables"]
