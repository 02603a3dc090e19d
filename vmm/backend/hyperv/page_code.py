# SPDX-License-Identifier: Apache-2.0
"""The hypercall page's code: how a guest reaches the VMM.

A guest calls the page and looks at nothing but the registers that the call changes. So the page may leave the guest
by any instruction that exits, with no register or flag touched. `vmm.backend.hyperv.transport` chooses it, the trap;
where KVM hands over no hypercall instruction it is a port write, which every KVM hands over. What lies between the
entries is the page's filler.

| offset | code | |
|---|---|---|
| 0x00 | trap; `ret` | a hypercall, VTL call and return included |
| 0x08 | `jmp 0x00` | make the call again: the VMM continues the guest here |
| 0x10 | `ud2` | refuse the call: the VMM continues the guest here |
| 0x20, 0x40 | `mov %rcx, %rax; mov $0x11, %ecx`; trap; `ret` | VTL call, VTL return (0x12), of 64-bit code |
| 0x30, 0x50 | `mov %eax, %ecx; mov $0x11, %eax`; trap; `ret` | the same of 32-bit code |

The first three mean the same in 32-bit and 64-bit code. The VTL entries load what a guest may load itself before it
calls the start of the page (HCP-011): the call code tells a VTL switch from another hypercall, not the place.

After the exit of a port write RIP is at it or behind it, depending on the KVM (hardware virtualization or emulated
ring 0), and KVM steps over the instruction only if RIP is still there. Continuing somewhere else in the page is right
in both cases; a finished call leaves RIP alone.

Where a port write differs from a trap instruction: #UD points into the page, not at the call's entry; ring 3 gets #GP
instead of #UD, unless it has I/O rights.

The VTL entries have the instructions of other implementations, and offsets of their own, as each of those has, which
guests read from HvRegisterVsmCodePageOffsets (HCP-010). The bytes depend on the transport alone, so that they are the
same at each enable; no guest can write them (WIN-014).

Implements: HCP-009, HCP-010, HCP-011, HCP-013, WIN-014
"""

from __future__ import annotations

from typing import Final

from vmm.hv.call_codes import HypercallCode
from vmm.hv.constants import HV_PAGE_SIZE

PORT: Final = 0xEC
"""The port: decoded by no PC device. A write to it from anywhere but the page does nothing, unless it stands at the
offset of a trap: that is a hypercall, which could be made from the page as well. Who intercepts the port
(`vmm.backend.vsm.port_exits`) is told of all writes but those from the page."""

OUT: Final = bytes((0xE6, PORT))  # out %al, $PORT
_RET: Final = b"\xc3"
_UD2: Final = b"\x0f\x0b"
_TO_64: Final = b"\x48\x89\xc8\xb9"  # mov %rcx, %rax; mov $..., %ecx
_TO_32: Final = b"\x89\xc1\xb8"  # mov %eax, %ecx; mov $..., %eax
_IMMEDIATE: Final = 4

CALL: Final = 0x00
AGAIN: Final = 0x08
REFUSE: Final = 0x10
VTL_CALL_64, VTL_CALL_32, VTL_RETURN_64, VTL_RETURN_32 = 0x20, 0x30, 0x40, 0x50

IN_PAGE: Final = HV_PAGE_SIZE - 1
_FILLER: Final = b"\xcc"  # INT3, as behind the code
_END: Final = 0x60
_VTL_RETURN_OFFSET_SHIFT: Final = 12


def _vtl_switch(load: bytes, code: HypercallCode, trap: bytes) -> bytes:
    return load + int(code).to_bytes(_IMMEDIATE, "little") + trap + _RET


def code(trap: bytes) -> bytes:
    """The page's bytes up to its filler, `trap` being the instruction that leaves the guest (2 or 3 bytes)."""
    page = bytearray(_FILLER * _END)
    entries = {
        CALL: trap + _RET,
        AGAIN: bytes((0xEB, (CALL - AGAIN - 2) & 0xFF)),
        REFUSE: _UD2,
        VTL_CALL_64: _vtl_switch(_TO_64, HypercallCode.HvCallVtlCall, trap),
        VTL_CALL_32: _vtl_switch(_TO_32, HypercallCode.HvCallVtlCall, trap),
        VTL_RETURN_64: _vtl_switch(_TO_64, HypercallCode.HvCallVtlReturn, trap),
        VTL_RETURN_32: _vtl_switch(_TO_32, HypercallCode.HvCallVtlReturn, trap),
    }
    for offset, instructions in entries.items():
        page[offset : offset + len(instructions)] = instructions
    return bytes(page)


CODE: Final = code(OUT)
"""The page whose trap is the port write."""

_TRAPS: Final = (
    CALL,
    *(entry + len(_TO_64) + _IMMEDIATE for entry in (VTL_CALL_64, VTL_RETURN_64)),
    *(entry + len(_TO_32) + _IMMEDIATE for entry in (VTL_CALL_32, VTL_RETURN_32)),
)
AT_TRAP: Final = frozenset({*_TRAPS, *(trap + len(OUT) for trap in _TRAPS)})
"""Offsets of RIP in the page (`IN_PAGE`) at the exit of a port write."""
BEHIND_TRAP: Final = {at: trap + len(OUT) for trap in _TRAPS for at in (trap, trap + len(OUT))}
"""By such an offset: that of the instruction behind the port write."""


def continue_at(rip: int, offset: int) -> int:
    """RIP for going on at `offset` (`AGAIN`, `REFUSE`) of the page in which RIP is at the trap."""
    return (rip & ~IN_PAGE) + offset


def vsm_code_page_offsets(bits_64: bool) -> int:
    """HvRegisterVsmCodePageOffsets for code of that width: VTL call in bits 11:0, VTL return in 23:12 (VSM-004)."""
    if bits_64:
        return VTL_CALL_64 | VTL_RETURN_64 << _VTL_RETURN_OFFSET_SHIFT
    return VTL_CALL_32 | VTL_RETURN_32 << _VTL_RETURN_OFFSET_SHIFT
