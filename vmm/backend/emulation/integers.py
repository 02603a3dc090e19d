# SPDX-License-Identifier: Apache-2.0
"""POPCNT and CMPXCHG16B (SDM volume 2)."""

from __future__ import annotations

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import linear, register_or_memory
from vmm.backend.emulation.decode import Instruction
from vmm.backend.emulation.faults import DeclinedError, general_protection, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Feature, Processor

CX16 = Feature(1, "ecx", 13)
_ARITHMETIC_FLAGS = r.RFLAGS_CF | r.RFLAGS_PF | r.RFLAGS_AF | r.RFLAGS_ZF | r.RFLAGS_SF | r.RFLAGS_OF


def popcnt(cpu: Processor, instruction: Instruction) -> None:
    """POPCNT r, r/m: how many bits of the source are set; ZF if none is, the other arithmetic flags are cleared."""
    size = _operand_size(cpu, instruction)
    source = register_or_memory(cpu, instruction, size)
    kept = cpu.gpr(instruction.register_operand) & ~0xFFFF if size == 2 else 0
    cpu.set_gpr(instruction.register_operand, kept | source.bit_count())
    cpu.regs.rflags &= ~_ARITHMETIC_FLAGS
    if not source:
        cpu.regs.rflags |= r.RFLAGS_ZF


def _operand_size(cpu: Processor, instruction: Instruction) -> int:
    """In bytes, of an instruction whose default is the code segment's, 32 bits in 64-bit mode."""
    if cpu.bits == 64 and instruction.rex & r.REX_W:
        return 8
    return 2 if (cpu.bits == 16) is not instruction.operand_size else 4


def cmpxchg16b(cpu: Processor, instruction: Instruction) -> None:
    """CMPXCHG16B m128: if RDX:RAX is there, RCX:RBX takes its place and ZF is set; else RDX:RAX becomes what is there.

    Always atomic, and always a write, as far as rights to the memory go.
    """
    if cpu.bits != 64 or not instruction.rex & r.REX_W:
        raise DeclinedError("CMPXCHG8B is not carried out here")
    if not cpu.cpuid.has(CX16):
        raise undefined_opcode()
    assert instruction.memory is not None  # the table has a memory form only
    at = linear(cpu, instruction.memory, 16, write=True)
    if at % 16:
        raise general_protection()
    regs = cpu.regs
    expected = _pair(regs.rdx, regs.rax)
    found = cpu.memory.compare_exchange(
        at, expected, _pair(regs.rcx, regs.rbx), Access(write=True, user=cpu.cpl == 3)
    )
    regs.rflags &= ~r.RFLAGS_ZF
    if found == expected:
        regs.rflags |= r.RFLAGS_ZF
    else:
        regs.rax, regs.rdx = (int.from_bytes(half, "little") for half in (found[:8], found[8:]))


def _pair(high: int, low: int) -> bytes:
    return int(high << 64 | low).to_bytes(16, "little")
