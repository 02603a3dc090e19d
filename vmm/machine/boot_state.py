# SPDX-License-Identifier: Apache-2.0
"""What a PC's firmware leaves in low memory and in the interrupt controllers for the program it starts.

No firmware runs here, but real-mode guests rely on its traces: an interrupt vector table whose handlers
acknowledge the 8259s, those at vectors 0x08 and 0x70, the 18.2 Hz tick on IRQ 0, a reset at F000:FFF0.
"""

from __future__ import annotations

from vmm.outside import GuestMemory

VECTORS = 256
ROM_SEGMENT = 0xF000
ROM_GPA = 0xFF000  # the page that holds the stubs and the reset vector
ROM_ALIAS_GPA = 0xFFFFF000  # and where a processor looks for it after INIT (SDM volume 3, 10.1.4)
STUBS_GPA = 0xFFF00  # above the ACPI tables, which grow from 0xe0000
RESET_VECTOR_GPA = 0xFFFF0

MASTER_VECTOR, SLAVE_VECTOR = 0x08, 0x70

_IRET = bytes.fromhex("cf")
_EOI_MASTER = bytes.fromhex(
    "50"  # push ax
    "b020"  # mov al, 0x20 (non-specific end of interrupt)
    "e620"  # out 0x20, al
    "58"  # pop ax
    "cf"  # iret
)
_EOI_BOTH = bytes.fromhex(
    "50"  # push ax
    "b020"  # mov al, 0x20
    "e6a0"  # out 0xa0, al
    "e620"  # out 0x20, al
    "58"  # pop ax
    "cf"  # iret
)
_RESET = bytes.fromhex(
    "baf90c"  # mov dx, 0xcf9
    "b006"  # mov al, 6 (full reset)
    "ee"  # out dx, al
    "f4"  # hlt
    "ebfd"  # jmp to the hlt
)


def write(memory: GuestMemory) -> None:
    """Write the interrupt vector table at 0, its handlers and the reset stub below 1 MiB."""
    iret, master, both = STUBS_GPA, STUBS_GPA + 0x10, STUBS_GPA + 0x20
    for gpa, code in ((iret, _IRET), (master, _EOI_MASTER), (both, _EOI_BOTH), (RESET_VECTOR_GPA, _RESET)):
        memory.write(gpa, code)
    handlers = [iret] * VECTORS
    handlers[MASTER_VECTOR : MASTER_VECTOR + 8] = [master] * 8
    handlers[SLAVE_VECTOR : SLAVE_VECTOR + 8] = [both] * 8
    offsets = (handler - (ROM_SEGMENT << 4) for handler in handlers)
    memory.write(0, b"".join((offset | ROM_SEGMENT << 16).to_bytes(4, "little") for offset in offsets))
