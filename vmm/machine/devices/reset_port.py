# SPDX-License-Identifier: Apache-2.0
"""Reset control register, port 0xcf9.

Source: Intel 82371SB (PIIX3) data sheet, "RC - Reset Control Register". The port lies between the PCI
configuration registers: only byte accesses at 0xcf9 are this register's, a 4-byte access of 0xcf8 is PCI's.
"""

from __future__ import annotations

import threading
from typing import Final

from vmm.machine.devices.byte_ports import BytePorts
from vmm.outside import MachineControl

RESET_PORT: Final = 0xCF9
RESET_VALUE: Final = 0x06
"""What the FADT tells guests to write: a hard reset."""

SYS_RST, RST_CPU, FULL_RST = 0x02, 0x04, 0x08


class ResetPort(BytePorts):
    """Bits 1 (SYS_RST: hard instead of soft) and 3 (FULL_RST) are stored; bit 2 (RST_CPU) going to 1 resets.

    Hard and soft reset are the same here: the whole machine starts anew.
    """

    name = "reset-port"

    def __init__(self, control: MachineControl) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._value = 0

    def reset(self) -> None:
        """All bits 0."""
        with self._lock:
            self._value = 0

    def read_byte(self, offset: int) -> int:
        """The bits as written."""
        return self._value if offset == 0 else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """Store the bits; reset the machine when RST_CPU goes from 0 to 1."""
        if offset:
            return
        with self._lock:
            rises = value & ~self._value & RST_CPU
            self._value = value & (SYS_RST | RST_CPU | FULL_RST)
        if rises:
            self._control.reset()
