# SPDX-License-Identifier: Apache-2.0
"""Whole XMM and YMM registers to memory, from it and to each other: MOVAPS, MOVDQU, VMOVNTDQ, ... (SDM volume 2)."""

from __future__ import annotations

from vmm.backend.emulation.addressing import linear
from vmm.backend.emulation.decode import Instruction
from vmm.backend.emulation.faults import general_protection, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Feature, Processor
from vmm.backend.emulation.vector import avx_state, sse_state
from vmm.backend.emulation.vector_state import VectorState

_AVX2 = Feature(7, "ebx", 5)


def load(cpu: Processor, instruction: Instruction) -> None:
    """register <- register or memory, any alignment."""
    state, size = _state(cpu, instruction)
    if instruction.memory is None:
        value = state.vector(instruction.rm_register, size)
    else:
        at = _address(cpu, instruction, size, write=False)
        value = int.from_bytes(cpu.memory.read(at, size, Access(user=cpu.cpl == 3)), "little")
    _assign(cpu, instruction, state, instruction.register_operand, value)


def store(cpu: Processor, instruction: Instruction) -> None:
    """register or memory <- register, any alignment."""
    state, size = _state(cpu, instruction)
    value = state.vector(instruction.register_operand, size)
    if instruction.memory is None:
        _assign(cpu, instruction, state, instruction.rm_register, value)
    else:
        at = _address(cpu, instruction, size, write=True)
        cpu.memory.write(at, value.to_bytes(size, "little"), Access(write=True, user=cpu.cpl == 3))


def load_aligned(cpu: Processor, instruction: Instruction) -> None:
    """`load` that wants its memory aligned to the operand's size: else #GP(0)."""
    _check_alignment(cpu, instruction, write=False)
    load(cpu, instruction)


def store_aligned(cpu: Processor, instruction: Instruction) -> None:
    """`store` that wants its memory aligned to the operand's size: else #GP(0)."""
    _check_alignment(cpu, instruction, write=True)
    store(cpu, instruction)


def load_streaming(cpu: Processor, instruction: Instruction) -> None:
    """(V)MOVNTDQA: `load_aligned`, whose 32-byte form came with AVX2."""
    if instruction.vex is not None and instruction.vex.wide and not cpu.cpuid.has(_AVX2):
        raise undefined_opcode()
    load_aligned(cpu, instruction)


def _state(cpu: Processor, instruction: Instruction) -> tuple[VectorState, int]:
    if instruction.vex is None:
        return sse_state(cpu), 16
    return avx_state(cpu, instruction.vex), 32 if instruction.vex.wide else 16


def _address(cpu: Processor, instruction: Instruction, size: int, *, write: bool) -> int:
    assert instruction.memory is not None  # only called for memory forms
    return linear(cpu, instruction.memory, size, write=write)


def _check_alignment(cpu: Processor, instruction: Instruction, *, write: bool) -> None:
    _, size = _state(cpu, instruction)
    if instruction.memory is not None and _address(cpu, instruction, size, write=write) % size:
        raise general_protection()


def _assign(cpu: Processor, instruction: Instruction, state: VectorState, register: int, value: int) -> None:
    """A VEX instruction clears what lies above its operand, an SSE one keeps it."""
    state.set_xmm(register, value & (1 << 128) - 1)
    if instruction.vex is not None:
        state.set_upper(register, value >> 128, cpu.xcr0())
    state.store()
