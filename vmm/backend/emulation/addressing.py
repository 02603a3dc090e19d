# SPDX-License-Identifier: Apache-2.0
"""Memory operands: effective address, segment checks, linear address (SDM volume 3, chapter 5)."""

from __future__ import annotations

from kvmapi.uapi.x86 import GP_VECTOR, SS_VECTOR, kvm_segment
from vmm.backend.emulation.decode import Instruction, MemoryOperand
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor

_CODE, _EXPAND_DOWN_OR_CONFORMING, _WRITABLE_OR_READABLE = 8, 4, 2


def offset(cpu: Processor, operand: MemoryOperand) -> int:
    """The effective address, cut to the address size. RIP must already be at the next instruction."""
    total = operand.displacement + sum(cpu.gpr(number) * factor for number, factor in operand.registers)
    if operand.rip_relative:
        total += cpu.regs.rip
    return total & ((1 << operand.address_bits) - 1)


def linear(
    cpu: Processor, operand: MemoryOperand, size: int, *, write: bool = False, execute_only: bool = False
) -> int:
    """The linear address of a read, or write, of `size` bytes.

    execute_only: allowed from code segments that cannot be read (CLFLUSH and its like).
    Errors: `GuestFaultError`: #SS(0) for the stack segment, else #GP(0), if the segment forbids it.
    """
    at = offset(cpu, operand)
    return in_segment(cpu, operand.segment, at, size, write=write, execute_only=execute_only)


def register_or_memory(cpu: Processor, instruction: Instruction, size: int) -> int:
    """The low `size` bytes of the operand that ModRM.r/m names. Errors: as `linear`, and those of a read."""
    if instruction.memory is None:
        return cpu.gpr(instruction.rm_register) & (1 << 8 * size) - 1
    at = linear(cpu, instruction.memory, size)
    return int.from_bytes(cpu.memory.read(at, size, Access(user=cpu.cpl == 3)), "little")


def in_segment(
    cpu: Processor, name: str, at: int, size: int, *, write: bool = False, execute_only: bool = False
) -> int:
    """The linear address of `size` bytes at an offset of segment `name`. The rest: see `linear`."""
    segment: kvm_segment = getattr(cpu.sregs, name)
    if cpu.bits == 64:
        if name in ("fs", "gs"):
            at = at + segment.base & 0xFFFF_FFFF_FFFF_FFFF
        if not (cpu.canonical(at) and cpu.canonical(at + size - 1 & 0xFFFF_FFFF_FFFF_FFFF)):
            raise _violation(name)
        return at
    if cpu.protected and not cpu.virtual_8086:
        code, open_to_it = segment.type & _CODE, segment.type & _WRITABLE_OR_READABLE
        forbidden = code or not open_to_it if write else code and not open_to_it and not execute_only
        if segment.unusable or not segment.present or forbidden:
            raise _violation(name)
    if not inside(segment, at, size):
        raise _violation(name)
    return int(segment.base + at) & 0xFFFF_FFFF


def inside(segment: kvm_segment, at: int, size: int) -> bool:
    """Whether offsets `[at, at + size)` are within the limit of a legacy segment."""
    last = at + size - 1
    if segment.type & (_CODE | _EXPAND_DOWN_OR_CONFORMING) == _EXPAND_DOWN_OR_CONFORMING and segment.s:
        return segment.limit < at and last <= (0xFFFF_FFFF if segment.db else 0xFFFF)
    return last <= int(segment.limit)


def _violation(segment: str) -> GuestFaultError:
    return GuestFaultError(SS_VECTOR if segment == "ss" else GP_VECTOR, 0)
