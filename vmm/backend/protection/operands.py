# SPDX-License-Identifier: Apache-2.0
"""The memory operands of an instruction, explicit and implicit, in the order in which a processor uses them.

capstone decodes. It knows where an operand is and how wide, but not reliably whether it is read or written (for most
vector and x87 stores it says read), so that is decided here: an operand in the first place is written, unless its
instruction is one of those that only read it (`_READS`); any other is read. Instructions that access something else
than these operands, or not all of them, have a row of their own (`_OTHERS`, `vector_operands`).

tests/pure/backend/protection/test_every_instruction.py has each instruction that capstone knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from vmm.backend.emulation.processor import Processor
from vmm.backend.protection import far_operands, state_operands, vector_operands
from vmm.backend.protection.decoded import (
    MEMORY,
    REGISTER,
    Decoded,
    Operand,
    address_mask,
    explicit,
    has_rex_w,
    in_segment,
    linear,
    register,
    segment_of,
)
from vmm.backend.protection.far_operands import LOADABLE, on_stack, stack
from vmm.vsm.rights import READ, WRITE

_U64: Final = (1 << 64) - 1


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READS: Final = _words(
    "cmp test bt push call jmp mul imul div idiv lgdt lidt lmsw ptwrite "
    "fld fild fbld fadd fiadd fsub fisub fsubr fisubr fmul fimul fdiv fidiv fdivr fidivr fcom ficom fcomp ficomp "
    "fldcw ldmxcsr vldmxcsr fxrstor fxrstor64 clflush clflushopt clwb vmptrld vmclear vmxon"
)
_NONE: Final = _words(
    "lea nop invlpg cldemote ud0 ud1 endbr64 endbr32 bndmk bndcl bndcu bndcn bndldx bndstx bndmov"
)
"""Those of MPX do nothing on a processor without it, which all are that Linux' KVM shows."""
_STRINGS: Final = {
    "movs": ((1, READ), (0, WRITE)),
    "cmps": ((0, READ), (1, READ)),
    "stos": ((0, WRITE),),
    "ins": ((0, WRITE),),
    "scas": ((1, READ),),
    "lods": ((1, READ),),
    "outs": ((1, READ),),
}
_SIZES: Final = {"fxsave": 512, "fxsave64": 512, "fxrstor": 512, "fxrstor64": 512, "comisd": 8}
_WIDE: Final = ("bsf", "bsr", "movbe")
"""With REX.W they are 64 bits wide, also behind the prefix that capstone takes to make them 16 bits wide."""
_BITS: Final = ("bt", "bts", "btr", "btc")
_LINE: Final = 64


def operands(cpu: Processor, decoded: Decoded, *, whole: bool = False) -> Iterator[Operand]:
    """Memory operands with the registers of `cpu`, RIP at the instruction. A repeated string instruction: the next
    element.

    whole: also the elements of a vector that a mask register leaves out (`vector_operands`).
    """
    name = far_operands.mnemonic(decoded)
    if name in _NONE or name.startswith("prefetch"):
        return
    other = _OTHERS.get(name)
    if other is not None:
        yield from other(cpu, decoded)
        return
    chosen = None if whole else vector_operands.chosen(cpu, decoded)
    yield from _explicit(cpu, decoded) if chosen is None else chosen


def _explicit(cpu: Processor, decoded: Decoded, adjust_sp: int = 0) -> Iterator[Operand]:
    name = decoded.mnemonic
    for index, operand in explicit(cpu, decoded):
        gva = linear(cpu, decoded, operand, adjust_sp)
        size = _SIZES.get(name) or vector_operands.size_of(decoded, operand)
        if name in _WIDE and has_rex_w(decoded):
            size = 8
        if name in _BITS:
            gva = _bit(cpu, decoded, gva, size)
        yield Operand(gva, size, READ if index or name in _READS else WRITE)


def _bit(cpu: Processor, decoded: Decoded, gva: int, size: int) -> int:
    """BT and its like with a register reach beyond the operand."""
    second = decoded.insn.operands[1]
    if second.type != REGISTER:
        return gva
    bits = 8 * size
    offset = register(cpu, decoded.insn, second.reg) & (1 << bits) - 1
    offset -= (offset >> bits - 1) << bits  # signed
    return gva + (offset // bits) * size & _U64


# ---- strings ---------------------------------------------------------------------------------------------


def _string(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    mask = address_mask(decoded)
    if decoded.repeated and not cpu.regs.rcx & mask:
        return
    found = decoded.insn.operands
    for index, wanted in _STRINGS[decoded.mnemonic]:
        operand = found[index]
        if operand.type != MEMORY:  # LODS, SCAS: the register comes first
            operand = next(each for each in found if each.type == MEMORY)
        base = decoded.insn.reg_name(operand.mem.base)
        default = "es" if base.endswith("di") else "ds"
        segment = decoded.insn.reg_name(operand.mem.segment) or default
        offset = register(cpu, decoded.insn, operand.mem.base) & mask
        yield Operand(in_segment(cpu, segment, offset), int(operand.size), wanted)


# ---- the stack -------------------------------------------------------------------------------------------


def stack_width(cpu: Processor, decoded: Decoded) -> int:
    """Bytes that a push or pop moves RSP by."""
    narrow = 0x66 in bytes(decoded.insn.prefix)
    if cpu.bits == 64:
        return 2 if narrow and decoded.mnemonic not in ("call", "ret") else 8
    return 2 if narrow == (cpu.bits == 32) else 4


def _pushes(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """PUSH, CALL: the operand in memory first."""
    yield from _explicit(cpu, decoded)
    width = stack_width(cpu, decoded)
    yield stack(cpu, -width, width, WRITE)


def _pusha(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    for count in range(1, 9):
        yield stack(cpu, -width * count, width, WRITE)


def _popa(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    for count in range(8):
        yield stack(cpu, width * count, width, READ)


def _pops(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """POP: its address, if RSP is in it, with RSP behind the value."""
    width = stack_width(cpu, decoded)
    yield stack(cpu, 0, width, READ)
    yield from _explicit(cpu, decoded, width)
    first = next(iter(decoded.insn.operands), None)
    if first is not None and first.type == REGISTER and decoded.insn.reg_name(first.reg) in LOADABLE:
        yield from on_stack(cpu, 0)


def _leave(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    at = int(cpu.regs.rbp) & cpu.stack_mask
    yield Operand(in_segment(cpu, "ss", at), stack_width(cpu, decoded), READ)


def _enter(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    level = int(decoded.insn.operands[1].imm) & 0x1F
    yield stack(cpu, -width, width, WRITE)
    for count in range(1, level):
        at = int(cpu.regs.rbp) - width * count & cpu.stack_mask
        yield Operand(in_segment(cpu, "ss", at), width, READ)
        yield stack(cpu, -width * (count + 1), width, WRITE)
    if level:
        yield stack(cpu, -width * (level + 1), width, WRITE)


# ---- others ----------------------------------------------------------------------------------------------


def _xlat(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    at = int(cpu.regs.rbx + (cpu.regs.rax & 0xFF)) & address_mask(decoded)
    yield Operand(in_segment(cpu, segment_of(decoded, "ds"), at), 1, READ)


def _at_rax(cpu: Processor, decoded: Decoded) -> int:
    return in_segment(cpu, segment_of(decoded, "ds"), int(cpu.regs.rax) & address_mask(decoded))


def _clzero(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """The cache line that RAX points into."""
    yield Operand(_at_rax(cpu, decoded) & -_LINE, _LINE, WRITE)


def _monitor(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """MONITOR, MONITORX: as a load of a byte."""
    yield Operand(_at_rax(cpu, decoded), 1, READ)


def _umonitor(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    offset = register(cpu, decoded.insn, decoded.insn.operands[0].reg)
    yield Operand(in_segment(cpu, segment_of(decoded, "ds"), offset), 1, READ)


def _movdir64b(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """From memory to ES and the register."""
    yield from _explicit(cpu, decoded)
    offset = register(cpu, decoded.insn, decoded.insn.operands[0].reg)
    yield Operand(in_segment(cpu, "es", offset), _LINE, WRITE)


_OTHERS: Final[dict[str, Callable[[Processor, Decoded], Iterator[Operand]]]] = {
    **dict.fromkeys(_STRINGS, _string),
    **dict.fromkeys(("push", "call", "pushf", "pushfd", "pushfq"), _pushes),
    **dict.fromkeys(("pop", "popf", "popfd", "popfq", "ret"), _pops),
    **dict.fromkeys(("pusha", "pushal", "pushaw"), _pusha),
    **dict.fromkeys(("popa", "popal", "popaw"), _popa),
    "leave": _leave,
    "enter": _enter,
    **dict.fromkeys(("iret", "iretd", "iretq", "retf", "retfq"), far_operands.far_return),
    **dict.fromkeys(("lcall", "ljmp"), far_operands.call_or_jump),
    **dict.fromkeys(("lds", "les", "lfs", "lgs", "lss"), far_operands.load_pointer),
    **dict.fromkeys(("ltr", "lldt", "lar", "lsl", "verr", "verw"), far_operands.system_register),
    "mov": far_operands.move,
    **dict.fromkeys(state_operands.X87, state_operands.x87),
    **dict.fromkeys(state_operands.NAMES, state_operands.extended),
    "xlatb": _xlat,
    "clzero": _clzero,
    **dict.fromkeys(("monitor", "monitorx"), _monitor),
    "umonitor": _umonitor,
    "movdir64b": _movdir64b,
}
