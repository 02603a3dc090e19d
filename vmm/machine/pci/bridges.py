# SPDX-License-Identifier: Apache-2.0
"""The two bridges guests look for on this kind of board: Intel's 440FX host bridge and PIIX3 ISA bridge.

Only what identifies them, and what firmware leaves in the few registers that guests read: there is no memory
controller to program, and the interrupt routing (`routing`) is wired. Registers: Intel's data sheets 290549 (82441FX)
and 290550 (82371SB).
"""

from __future__ import annotations

from typing import Final

from vmm.machine.pci import header
from vmm.machine.pci.config_space import Register
from vmm.machine.pci.function import PciFunction
from vmm.machine.pci.header import Command, Identity, Status
from vmm.machine.pci.routing import LINK_IRQS

HOST_BRIDGE_SLOT: Final = 0
ISA_BRIDGE_SLOT: Final = 1

_INTEL: Final = 0x8086
# Subsystem ids by which guests tell an emulated PC from a real one (Red Hat, "QEMU virtual machine").
EMULATED_PC: Final = (0x1AF4, 0x1100)
_HOST_BRIDGE_CLASS: Final = 0x060000
_ISA_BRIDGE_CLASS: Final = 0x060100

_STATUS: Final = Register(
    "STATUS",
    header.STATUS,
    2,
    Status.DEVSEL_MEDIUM | Status.FAST_BACK_TO_BACK,
    write_one_clears=header.STATUS_WRITE_ONE_CLEARS,
)
# 82441FX: memory and bus master are wired to 1.
_HOST_COMMAND: Final = Register(
    "PCICMD", header.COMMAND, 2, Command.MEMORY_SPACE | Command.BUS_MASTER, Command.SERR_ENABLE
)
# 82371SB: I/O, memory and bus master are wired to 1.
_ISA_COMMAND: Final = Register(
    "PCICMD", header.COMMAND, 2, Command.IO_SPACE | Command.MEMORY_SPACE | Command.BUS_MASTER
)
# Bits 3:0 are the ISA interrupt, bit 7 clear means routed.
_PIRQ_ROUTES: Final = tuple(
    Register(f"PIRQRC{link}", 0x60 + index, 1, irq)
    for index, (link, irq) in enumerate(zip("ABCD", LINK_IRQS, strict=True))
)
# Bit 0 delayed transactions, bit 1 passive release, which firmware turns on.
_DETERMINISTIC_LATENCY: Final = Register("DLC", 0x82, 1, reset=0b10, writable=0b1111)


def host_bridge() -> PciFunction:
    """Intel 82441FX, for slot `HOST_BRIDGE_SLOT`."""
    return PciFunction(
        "host-bridge",
        Identity(_INTEL, 0x1237, _HOST_BRIDGE_CLASS, 0x02, *EMULATED_PC),
        registers=(_HOST_COMMAND, _STATUS),
    )


def isa_bridge() -> PciFunction:
    """Intel 82371SB function 0, for slot `ISA_BRIDGE_SLOT`."""
    return PciFunction(
        "isa-bridge",
        Identity(_INTEL, 0x7000, _ISA_BRIDGE_CLASS, 0x00, *EMULATED_PC),
        registers=(_ISA_COMMAND, _STATUS, *_PIRQ_ROUTES, _DETERMINISTIC_LATENCY),
    )
