# SPDX-License-Identifier: Apache-2.0
"""What instructions access that load segment registers: selectors, descriptors, far pointers and their frames.

A descriptor is read, and the accessed bit of a segment's set where it is clear. Not known: task switches, and the stack
that a call gate leads to outside of long mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.decoded import (
    IMMEDIATE,
    MEMORY,
    REGISTER,
    Decoded,
    Operand,
    explicit,
    in_segment,
    linear,
    operand_size,
    register,
)
from vmm.vsm.rights import READ, WRITE

_U64: Final = (1 << 64) - 1
LOADABLE: Final = ("cs", "ss", "ds", "es", "fs", "gs")
_FAR: Final = {3: "lcall", 5: "ljmp"}
"""By the register field of opcode FF. capstone takes those with 32-bit operands in 64-bit mode for near ones."""
_SEGMENT, _ACCESSED = 1 << 44, 1 << 40
_ACCESS_BYTE: Final = 5
_CALL_GATE: Final = 0xC
_RPL: Final = 3
_CONFORMING: Final = 1 << 42
_TSS_STACKS: Final = 4


def mnemonic(decoded: Decoded) -> str:
    """What `decoded` is, far calls and jumps included."""
    insn = decoded.insn
    if decoded.mnemonic in ("call", "jmp") and insn.opcode[0] == 0xFF:
        return _FAR.get(insn.modrm >> 3 & 7, decoded.mnemonic)
    return decoded.mnemonic


def stack(cpu: Processor, offset: int, size: int, wanted: int) -> Operand:
    """At an offset from the top of the stack."""
    at = int(cpu.regs.rsp) + offset & cpu.stack_mask
    return Operand(in_segment(cpu, "ss", at), size, wanted)


# ---- descriptors -----------------------------------------------------------------------------------------


def descriptor(cpu: Processor, selector: int, *, marks: bool = True, size: int = 8) -> Iterator[Operand]:
    """The descriptor that a selector names, where there is one, as a processor reads it.

    marks: whether loading it sets its accessed bit. size: 16 for those of the system in long mode.
    """
    if not selector & 0xFFFC or not cpu.sregs.cr0 & r.CR0_PE or cpu.regs.rflags & r.RFLAGS_VM:
        return
    table = cpu.sregs.ldt if selector & 4 else cpu.sregs.gdt
    if (selector & 0xFFF8) + size - 1 > table.limit:
        return  # an exception, before anything is read
    at = int(table.base) + (selector & 0xFFF8) & _U64
    yield Operand(at, size, READ, implicit=True)
    raw = _number(cpu, at, 8, implicit=True)
    if marks and raw is not None and raw & _SEGMENT and not raw & _ACCESSED:
        yield Operand(at + _ACCESS_BYTE, 1, WRITE, implicit=True)


def _number(cpu: Processor, gva: int, size: int, *, implicit: bool = False) -> int | None:
    """What the instruction finds there; None where it cannot be read: that access is the one that counts."""
    access = Access(user=cpu.cpl == 3 and not implicit, implicit=implicit)
    try:
        return int.from_bytes(cpu.memory.read(gva, size, access), "little")
    except (DeclinedError, GuestFaultError, ProtectedError):
        return None


def _of_selector_at(cpu: Processor, gva: int, **how: Any) -> Iterator[Operand]:
    selector = _number(cpu, gva, 2)
    if selector is not None:
        yield from descriptor(cpu, selector, **how)


def on_stack(cpu: Processor, offset: int) -> Iterator[Operand]:
    """The descriptor that a selector on the stack names."""
    yield from _of_selector_at(cpu, stack(cpu, offset, 2, READ).gva)


def move(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """MOV, also to a segment register."""
    for index, operand in explicit(cpu, decoded):
        yield Operand(linear(cpu, decoded, operand), int(operand.size), READ if index else WRITE)
    first, second = decoded.insn.operands
    if first.type != REGISTER or decoded.insn.reg_name(first.reg) not in LOADABLE:
        return
    if second.type == REGISTER:
        yield from descriptor(cpu, register(cpu, decoded.insn, second.reg) & 0xFFFF)
    elif second.type == MEMORY:
        yield from _of_selector_at(cpu, linear(cpu, decoded, second))


def system_register(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """LTR, LLDT, LAR, LSL, VERR, VERW: a selector in a register or in memory, and its descriptor."""
    name, last = decoded.mnemonic, decoded.insn.operands[-1]
    loads = name in ("ltr", "lldt")
    size = 16 if loads and cpu.long_mode else 8
    if last.type == MEMORY:
        at = linear(cpu, decoded, last)
        yield Operand(at, 2, READ)
        selector = _number(cpu, at, 2)
    else:
        selector = register(cpu, decoded.insn, last.reg) & 0xFFFF
    if selector is None:
        return
    found = list(descriptor(cpu, selector, marks=False, size=size))
    yield from found
    if found and name == "ltr":  # it is busy now
        yield Operand(found[0].gva + _ACCESS_BYTE, 1, WRITE, implicit=True)


def load_pointer(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """LDS, LES, LFS, LGS, LSS: an offset and a selector."""
    at, width = linear(cpu, decoded, decoded.insn.operands[1]), operand_size(cpu, decoded)
    yield Operand(at, width + 2, READ)
    yield from _of_selector_at(cpu, at + width)


# ---- far transfers ---------------------------------------------------------------------------------------


def call_or_jump(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """Far CALL and JMP: the pointer, the descriptor or gate behind it, for a CALL two pushes: CS, then RIP."""
    width, insn = operand_size(cpu, decoded), decoded.insn
    selector: int | None
    if insn.operands[0].type == IMMEDIATE:
        selector = int(insn.operands[0].imm) & 0xFFFF
    else:
        at = linear(cpu, decoded, insn.operands[0])
        yield Operand(at, width + 2, READ)
        selector = _number(cpu, at + width, 2)
    call = mnemonic(decoded) == "lcall"
    if selector is not None:
        found = list(descriptor(cpu, selector))
        yield from found
        gate = _number(cpu, found[0].gva, 8, implicit=True) if found else None
        if gate is not None and not gate & _SEGMENT and gate >> 40 & 0xF == _CALL_GATE:
            yield from _through_gate(cpu, gate, found[0].gva, call=call)
            return
    if call:
        yield stack(cpu, -width, width, WRITE)
        yield stack(cpu, -2 * width, width, WRITE)


def _through_gate(cpu: Processor, gate: int, at: int, *, call: bool) -> Iterator[Operand]:
    """A call gate: in long mode its second half, the code segment, and the frame, of another ring perhaps."""
    if cpu.long_mode:
        yield Operand(at + 8, 8, READ, implicit=True)
    found = list(descriptor(cpu, gate >> 16 & 0xFFFF))
    yield from found
    code = _number(cpu, found[0].gva, 8, implicit=True) if found else None
    if code is None or not call:
        return
    ring = code >> 45 & 3
    width = 8 if cpu.long_mode else 4
    if ring >= cpu.cpl or code & _CONFORMING:
        yield stack(cpu, -width, width, WRITE)
        yield stack(cpu, -2 * width, width, WRITE)
        return
    slot = int(cpu.sregs.tr.base) + _TSS_STACKS + 8 * ring & _U64
    yield Operand(slot, 8, READ, implicit=True)
    top = _number(cpu, slot, 8, implicit=True)
    if top is not None and cpu.long_mode:
        yield Operand(top - 32 & _U64, 32, WRITE, implicit=True)


def far_return(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """RETF, IRET: RIP, CS, for IRET also RFLAGS; RSP and SS where they are there; the descriptors that they name."""
    size = operand_size(cpu, decoded)
    interrupt = decoded.mnemonic.startswith("iret")
    values = 3 if interrupt else 2
    for index in range(values):
        yield stack(cpu, size * index, size, READ)
    selector = _number(cpu, stack(cpu, size, 2, READ).gva, 2)
    outer = selector is not None and selector & _RPL > cpu.cpl
    if outer or (interrupt and cpu.bits == 64):
        # RETF n: what the caller has pushed lies between.
        released = 0 if interrupt or not decoded.insn.operands else int(decoded.insn.operands[0].imm)
        at = size * values + released
        yield stack(cpu, at, size, READ)
        yield stack(cpu, at + size, size, READ)
    if selector is not None:
        yield from descriptor(cpu, selector)
    if outer or (interrupt and cpu.bits == 64):
        yield from on_stack(cpu, at + size)
