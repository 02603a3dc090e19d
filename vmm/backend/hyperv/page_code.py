# SPDX-License-Identifier: Apache-2.0
"""The hypercall page's code: how a guest reaches the VMM on a KVM that hands over no hypercall instruction.

A guest calls the page and looks at nothing but the registers that the call changes. So the page may leave the guest
by any instruction that exits: a port write, which every KVM hands over, with no register or flag touched. The same
bytes mean the same in 32-bit and 64-bit code; what lies between the entries is the page's filler.

| offset | code | |
|---|---|---|
| 0x00 | `out %al, $PORT; ret` | a hypercall |
| 0x08 | `jmp 0x00` | make the call again: the VMM continues the guest here |
| 0x10 | `ud2` | refuse the call: the VMM continues the guest here |

After the exit RIP is at the port write or behind it, depending on the KVM (hardware virtualization or emulated
ring 0), and KVM steps over the instruction only if RIP is still there. Continuing somewhere else in the page is right
in both cases; a finished call leaves RIP alone.

Where this differs from a trap instruction: #UD points into the page, not at the call's entry; ring 3 gets #GP
instead of #UD, unless it has I/O rights.
"""

from __future__ import annotations

from typing import Final

from vmm.hv.constants import HV_PAGE_SIZE

PORT: Final = 0xEC
"""The port: decoded by no PC device. A write to it from anywhere but the page does nothing."""

_OUT: Final = bytes((0xE6, PORT))  # out %al, $PORT
_RET: Final = b"\xc3"
_UD2: Final = b"\x0f\x0b"

CALL: Final = 0x00
AGAIN: Final = 0x08
REFUSE: Final = 0x10

IN_PAGE: Final = HV_PAGE_SIZE - 1
_FILLER: Final = b"\xcc"  # INT3, as behind the code


def _jump(source: int, target: int) -> bytes:
    return bytes((0xEB, (target - source - 2) & 0xFF))


def _lay_out() -> bytes:
    code = bytearray(_FILLER * (REFUSE + len(_UD2)))
    for offset, instructions in ((CALL, _OUT + _RET), (AGAIN, _jump(AGAIN, CALL)), (REFUSE, _UD2)):
        code[offset : offset + len(instructions)] = instructions
    return bytes(code)


CODE: Final = _lay_out()

AT_TRAP: Final = frozenset({CALL, CALL + len(_OUT)})
"""Offsets of RIP in the page (`IN_PAGE`) at the exit of a hypercall."""


def continue_at(rip: int, offset: int) -> int:
    """RIP for going on at `offset` (`AGAIN`, `REFUSE`) of the page in which RIP is at the trap."""
    return (rip & ~IN_PAGE) + offset
