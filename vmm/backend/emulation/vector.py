# SPDX-License-Identifier: Apache-2.0
"""MOVD and MOVQ between general and MMX or XMM registers, VZEROALL, VZEROUPPER, FWAIT (SDM volume 2)."""

from __future__ import annotations

from kvmapi.uapi.x86 import MF_VECTOR, NM_VECTOR
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import linear, register_or_memory
from vmm.backend.emulation.decode import P66, Instruction, Vex
from vmm.backend.emulation.faults import GuestFaultError, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.emulation.vector_state import AVX, SSE, VectorState


def sse_state(cpu: Processor) -> VectorState:
    """The registers, once an SSE instruction may use them: #UD, #NM."""
    if cpu.sregs.cr0 & r.CR0_EM or not cpu.sregs.cr4 & r.CR4_OSFXSR:
        raise undefined_opcode()
    if cpu.sregs.cr0 & r.CR0_TS:
        raise GuestFaultError(NM_VECTOR)
    return VectorState(cpu)


def _mmx_state(cpu: Processor) -> VectorState:
    """The registers, once an MMX instruction may use them: #UD, #NM, #MF."""
    if cpu.sregs.cr0 & r.CR0_EM:
        raise undefined_opcode()
    if cpu.sregs.cr0 & r.CR0_TS:
        raise GuestFaultError(NM_VECTOR)
    state = VectorState(cpu)
    if state.x87_exception_pending:
        raise GuestFaultError(MF_VECTOR)
    return state


def fwait(cpu: Processor, instruction: Instruction) -> None:
    """FWAIT: only what it waits for, an x87 exception that has not been raised yet: #MF; #NM with CR0.TS and CR0.MP."""
    if cpu.sregs.cr0 & r.CR0_TS and cpu.sregs.cr0 & r.CR0_MP:
        raise GuestFaultError(NM_VECTOR)
    if VectorState(cpu).x87_exception_pending:
        raise GuestFaultError(MF_VECTOR)


def _size(cpu: Processor, instruction: Instruction) -> int:
    return 8 if cpu.bits == 64 and instruction.rex & r.REX_W else 4


def move_to_vector(cpu: Processor, instruction: Instruction) -> None:
    """MOVD/MOVQ mm or xmm, r/m: the rest of the destination is cleared."""
    state = sse_state(cpu) if instruction.prefix == P66 else _mmx_state(cpu)
    size = _size(cpu, instruction)
    value = register_or_memory(cpu, instruction, size)
    if instruction.prefix == P66:
        state.set_xmm(instruction.register_operand, value)
    else:
        state.enter_mmx()
        state.set_mm(instruction.reg, value)
    state.store()


def move_from_vector(cpu: Processor, instruction: Instruction) -> None:
    """MOVD/MOVQ r/m, mm or xmm: a 32-bit move clears the upper half of the general register."""
    state = sse_state(cpu) if instruction.prefix == P66 else _mmx_state(cpu)
    size = _size(cpu, instruction)
    mmx = instruction.prefix != P66
    value = state.mm(instruction.reg) if mmx else state.xmm(instruction.register_operand)
    value &= (1 << 8 * size) - 1
    if instruction.memory is None:
        cpu.set_gpr(instruction.rm_register, value)
    else:
        at = linear(cpu, instruction.memory, size, write=True)
        cpu.memory.write(at, value.to_bytes(size, "little"), Access(write=True, user=cpu.cpl == 3))
    if mmx:
        state.enter_mmx()
        state.store()


def avx_state(cpu: Processor, vex: Vex) -> VectorState:
    """The registers, once a VEX instruction without a second source may use them: #UD, #NM."""
    if vex.vvvv or not cpu.protected or cpu.virtual_8086 or not cpu.sregs.cr4 & r.CR4_OSXSAVE:
        raise undefined_opcode()
    if cpu.xcr0() & (SSE | AVX) != SSE | AVX:
        raise undefined_opcode()
    if cpu.sregs.cr0 & r.CR0_TS:
        raise GuestFaultError(NM_VECTOR)
    return VectorState(cpu)


def vzero(cpu: Processor, instruction: Instruction) -> None:
    """VZEROUPPER: clear vector registers above bit 127. VZEROALL (VEX.L set): wholly."""
    assert instruction.vex is not None  # the table has a VEX form only
    state = avx_state(cpu, instruction.vex)
    xcr0 = cpu.xcr0()
    for number in range(16 if cpu.bits == 64 else 8):
        if instruction.vex.wide:
            state.set_xmm(number, 0)
        state.set_upper(number, 0, xcr0)
    state.store()
