# SPDX-License-Identifier: Apache-2.0
"""isa-debug-exit: a port through which a test guest ends the run with a status.

Source: QEMU's isa-debug-exit device, as kvm-unit-tests use it (`iobase=0xf4,iosize=0x4`).
"""

from __future__ import annotations

from vmm.outside import MachineControl

DEBUG_EXIT_PORT = 0xF4
DEBUG_EXIT_PORT_COUNT = 4


class DebugExit:
    """Ports 0xf4..0xf7 by default: a write of any size at any of them ends the run; reads give 0.

    The process status is `(value << 1 | 1) & 0xff`, computed by `MachineControl.debug_exit`.
    """

    name = "debug-exit"

    def __init__(self, control: MachineControl) -> None:
        self._control = control

    def reset(self) -> None:
        """Nothing to do: the device has no state."""

    def read(self, offset: int, size: int) -> int:
        """Always 0."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the run with the code `value`."""
        self._control.debug_exit(value)
