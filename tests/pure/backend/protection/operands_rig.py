# SPDX-License-Identifier: Apache-2.0
"""What an instruction accesses, and memory to decode it in."""

from __future__ import annotations

from tests.pure.backend.protection.processors import CODE, fake_of, processor
from vmm.backend.protection.decoded import decode
from vmm.backend.protection.operands import operands
from vmm.machine.ram import GuestRam
from vmm.vsm.rights import READ, WRITE

D, S = 0x100100, 0x20000  # where RDI points, and the stack
R, W = READ, WRITE


def of(
    ram: GuestRam, code: str, *, bits: int = 64, state: dict[int, bytes] | None = None, **registers: int
) -> list[tuple[int, int, int]]:
    """What an instruction accesses. state: what is in the XSAVE area, by offset."""
    cpu = processor(ram, bits=bits, **registers)
    for at, data in (state or {}).items():
        fake_of(cpu).put_state(at, data)
    decoded = decode(bytes.fromhex(code) + bytes(15), CODE, bits)
    assert decoded is not None
    return [(operand.wanted, operand.gva, operand.size) for operand in operands(cpu, decoded)]
