# SPDX-License-Identifier: Apache-2.0
"""CLAC, STAC, XGETBV, XSETBV, INVPCID, MONITOR, MWAIT (SDM volume 2).

`table` has already checked the CPUID bit, LOCK and the mandatory prefix.
"""

from __future__ import annotations

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import linear
from vmm.backend.emulation.decode import Instruction, MemoryOperand
from vmm.backend.emulation.faults import general_protection, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Feature, Processor

_XGETBV_ECX_1 = Feature(0xD, "eax", 2, index=1)
_MWAIT_INTERRUPT_BREAK = Feature(5, "ecx", 1)
_BREAK_AT_INTERRUPTS = 1  # MWAIT's ECX: wake at interrupts though RFLAGS.IF is clear

# State components of XCR0 and which of them must be set together (SDM volume 1, section 13.3)
_X87, _SSE, _AVX = 1 << 0, 1 << 1, 1 << 2
_ALL_OR_NONE = (0b11 << 3, 0b111 << 5, 0b11 << 17)  # MPX, AVX-512, AMX
_AVX_512 = 0b111 << 5

_INVPCID_ADDRESS, _INVPCID_CONTEXT, _INVPCID_LAST_TYPE = 0, 1, 3


def clac(cpu: Processor, instruction: Instruction) -> None:
    """CLAC: RFLAGS.AC = 0."""
    _supervisor_flag_access(cpu)
    cpu.regs.rflags &= ~r.RFLAGS_AC


def stac(cpu: Processor, instruction: Instruction) -> None:
    """STAC: RFLAGS.AC = 1."""
    _supervisor_flag_access(cpu)
    cpu.regs.rflags |= r.RFLAGS_AC


def _supervisor_flag_access(cpu: Processor) -> None:
    if cpu.cpl:
        raise undefined_opcode()


def xgetbv(cpu: Processor, instruction: Instruction) -> None:
    """XGETBV: EDX:EAX = XCR0 (ECX 0), or the components of it that are in use (ECX 1, where CPUID has it)."""
    if not cpu.sregs.cr4 & r.CR4_OSXSAVE:
        raise undefined_opcode()
    match cpu.regs.rcx & 0xFFFF_FFFF:
        case 0:
            cpu.set_pair(cpu.xcr0())
        case 1 if cpu.cpuid.has(_XGETBV_ECX_1):
            cpu.set_pair(cpu.xcr0() & cpu.xstate_in_use())
        case _:
            raise general_protection()


def xsetbv(cpu: Processor, instruction: Instruction) -> None:
    """XSETBV: XCR0 = EDX:EAX, if the components are known and agree with each other."""
    if not cpu.sregs.cr4 & r.CR4_OSXSAVE:
        raise undefined_opcode()
    value = cpu.pair()
    if cpu.cpl or cpu.regs.rcx & 0xFFFF_FFFF or not _valid_xcr0(cpu, value) or not cpu.set_xcr0(value):
        raise general_protection()


def _valid_xcr0(cpu: Processor, value: int) -> bool:
    known = cpu.cpuid.value(0xD, "eax") | cpu.cpuid.value(0xD, "edx") << 32
    if value & ~known or not value & _X87:
        return False
    if value & _AVX and not value & _SSE:
        return False
    if value & _AVX_512 and not value & _AVX:
        return False
    return all(value & group in (0, group) for group in _ALL_OR_NONE)


def invpcid(cpu: Processor, instruction: Instruction) -> None:
    """INVPCID: checks the descriptor, then forgets all translations: more than asked for is always allowed."""
    if cpu.cpl:
        raise general_protection()
    assert instruction.memory is not None  # the table has memory forms only
    kind = cpu.gpr(instruction.register_operand)
    if cpu.bits != 64:
        kind &= 0xFFFF_FFFF
    at = linear(cpu, instruction.memory, 16)
    raw = int.from_bytes(cpu.memory.read(at, 16, Access()), "little")
    pcid, address = raw & 0xFFFF_FFFF_FFFF_FFFF, raw >> 64
    if kind > _INVPCID_LAST_TYPE or pcid >> 12:
        raise general_protection()
    if kind in (_INVPCID_ADDRESS, _INVPCID_CONTEXT) and pcid and not cpu.sregs.cr4 & r.CR4_PCIDE:
        raise general_protection()
    if kind == _INVPCID_ADDRESS and cpu.bits == 64 and not cpu.canonical(address):
        raise general_protection()
    cpu.flush_tlb()


def monitor(cpu: Processor, instruction: Instruction) -> None:
    """MONITOR: checks the address; watching it may end at any time, so nothing is watched."""
    if cpu.cpl:
        raise undefined_opcode()
    if _extensions(cpu):
        raise general_protection()
    operand = MemoryOperand("ds", cpu.bits, ((0, 1),), 0)
    cpu.memory.check(linear(cpu, operand, 1), 1, Access())


def mwait(cpu: Processor, instruction: Instruction) -> None:
    """MWAIT: may end at any time, so it ends at once."""
    if cpu.cpl:
        raise undefined_opcode()
    known = _BREAK_AT_INTERRUPTS if cpu.cpuid.has(_MWAIT_INTERRUPT_BREAK) else 0
    if _extensions(cpu) & ~known:
        raise general_protection()


def _extensions(cpu: Processor) -> int:
    """What MONITOR and MWAIT are asked for beyond the usual: ECX, in 64-bit mode RCX."""
    return int(cpu.regs.rcx) if cpu.bits == 64 else int(cpu.regs.rcx & 0xFFFF_FFFF)


def undefined(cpu: Processor, instruction: Instruction) -> None:
    """An encoding that never exists: #UD."""
    raise undefined_opcode()
