# SPDX-License-Identifier: Apache-2.0
"""The memory operands of an instruction, explicit and implicit, in the order in which a processor uses them.

capstone decodes. It knows where an operand is and how wide, but not reliably whether it is read or written (for most
vector and x87 stores it says read), so that is decided here: an operand in the first place is written, unless its
instruction is one of those that only read it (`_READS`); any other is read.

Not known: the addresses of gathers and scatters (their index is a vector register).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.vsm.rights import READ, WRITE

_U64: Final = (1 << 64) - 1


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READS: Final = _words(
    "cmp test bt push call jmp lcall ljmp mul imul div idiv lgdt lidt lldt ltr lmsw verr verw "
    "fld fild fbld fadd fiadd fsub fisub fsubr fisubr fmul fimul fdiv fidiv fdivr fidivr fcom ficom fcomp ficomp "
    "fldenv fldcw frstor ldmxcsr vldmxcsr fxrstor fxrstor64 xrstor xrstor64 xrstors xrstors64 "
    "clflush clflushopt clwb cldemote vmptrld vmclear vmxon"
)
_NONE: Final = _words("lea nop invlpg endbr64 endbr32 bndmk bndcl bndcu bndcn")
_STRINGS: Final = {
    "movs": ((1, READ), (0, WRITE)),
    "cmps": ((0, READ), (1, READ)),
    "stos": ((0, WRITE),),
    "ins": ((0, WRITE),),
    "scas": ((1, READ),),
    "lods": ((1, READ),),
    "outs": ((1, READ),),
}
_STATE_SIZES: Final = {
    "fxsave": 512,
    "fxrstor": 512,
    "fnsave": 108,
    "frstor": 108,
    "fnstenv": 28,
    "fldenv": 28,
}
_XSAVE_AREA: Final = 0xD  # CPUID leaf; EBX: bytes of the area for what XCR0 enables now


@dataclass(frozen=True, slots=True)
class Operand:
    """`size` bytes at a linear address. wanted: READ, or WRITE (also for reading and writing).

    implicit: the processor's own access to a descriptor table."""

    gva: int
    size: int
    wanted: int
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """An instruction. mnemonic: without its prefixes and a string instruction's width. raw: its bytes."""

    mnemonic: str
    raw: bytes
    locked: bool
    repeated: bool
    vector: bool
    insn: Any
    """capstone's CsInsn."""

    @property
    def length(self) -> int:
        return len(self.raw)


@cache
def _decoder(bits: int) -> Any:
    import capstone  # most guests never need it

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    return decoder


def decode(code: bytes, rip: int, bits: int) -> Decoded | None:
    """The instruction with which `code` begins; None for none that is whole and known."""
    insn = next(_decoder(bits).disasm(code, rip, 1), None)
    if insn is None:
        return None
    words = insn.mnemonic.split()
    name = words[-1]
    for stem in _STRINGS:
        if name in (stem + "b", stem + "w", stem + "d", stem + "q") and not _is_vector(insn):
            name = stem
    repeated = name in _STRINGS and any(word.startswith("rep") for word in words)
    return Decoded(
        name, bytes(insn.bytes), words[0] == "lock" or name == "xchg", repeated, _is_vector(insn), insn
    )


def _is_vector(insn: Any) -> bool:
    """Whether a register operand is x87, MMX or a vector, or the instruction moves such state whole."""
    if insn.mnemonic.startswith(("f", "x", "v")) and insn.mnemonic not in ("xchg", "xadd", "xor", "xlatb"):
        return True
    return any(
        operand.type == _REGISTER
        and insn.reg_name(operand.reg).startswith(("xmm", "ymm", "zmm", "mm", "st", "k"))
        for operand in insn.operands
    )


_REGISTER: Final = 1  # capstone.x86.X86_OP_REG
_MEMORY: Final = 3  # capstone.x86.X86_OP_MEM


def operands(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """Memory operands with the registers of `cpu`, RIP at the instruction. A repeated string instruction: the next
    element."""
    name = decoded.mnemonic
    if name in _NONE or name.startswith("prefetch"):
        return
    implicit = _IMPLICIT.get(name)
    if implicit is not None:
        yield from implicit(cpu, decoded)
    elif name in _STRINGS:
        yield from _string(cpu, decoded)
    else:
        yield from _explicit(cpu, decoded)


def _explicit(cpu: Processor, decoded: Decoded, adjust_sp: int = 0) -> Iterator[Operand]:
    name = decoded.mnemonic
    for index, operand in enumerate(decoded.insn.operands):
        if operand.type == _MEMORY and not _is_vector_index(decoded.insn, operand):
            gva = _linear(cpu, decoded, operand, adjust_sp)
            size = _size(cpu, decoded, operand)
            if name in ("bt", "bts", "btr", "btc"):
                gva = _bit(cpu, decoded, gva, size)
            wanted = READ if index or name in _READS else WRITE
            yield Operand(gva, size, wanted)


def _is_vector_index(insn: Any, operand: Any) -> bool:
    return "mm" in (insn.reg_name(operand.mem.index) or "")


def _size(cpu: Processor, decoded: Decoded, operand: Any) -> int:
    name = decoded.mnemonic.removesuffix("64")
    if name.startswith(("xsave", "xrstor")):
        return cpu.cpuid.value(_XSAVE_AREA, "ebx") or 576
    return _STATE_SIZES.get(name, int(operand.size))


def _bit(cpu: Processor, decoded: Decoded, gva: int, size: int) -> int:
    """BT and its like with a register reach beyond the operand."""
    second = decoded.insn.operands[1]
    if second.type != _REGISTER:
        return gva
    bits = 8 * size
    offset = _register(cpu, decoded.insn, second.reg) & (1 << bits) - 1
    offset -= (offset >> bits - 1) << bits  # signed
    return gva + (offset // bits) * size & _U64


def _linear(cpu: Processor, decoded: Decoded, operand: Any, adjust_sp: int = 0) -> int:
    memory, insn = operand.mem, decoded.insn
    base = insn.reg_name(memory.base) or ""
    total = memory.disp
    if base in ("rip", "eip"):
        total += cpu.regs.rip + decoded.length
    elif base:
        total += _register(cpu, insn, memory.base)
        if base in ("rsp", "esp", "sp"):
            total += adjust_sp
    index = insn.reg_name(memory.index)
    if index and index not in ("riz", "eiz"):
        total += _register(cpu, insn, memory.index) * memory.scale
    total &= (1 << 8 * insn.addr_size) - 1
    segment = insn.reg_name(memory.segment) or (
        "ss" if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else "ds"
    )
    return in_segment(cpu, segment, total)


def in_segment(cpu: Processor, segment: str, offset: int) -> int:
    """The linear address of an offset."""
    if cpu.bits == 64:
        base = int(getattr(cpu.sregs, segment).base) if segment in ("fs", "gs") else 0
        return base + offset & _U64
    return int(getattr(cpu.sregs, segment).base) + offset & 0xFFFF_FFFF


def _register(cpu: Processor, insn: Any, number: int) -> int:
    field, mask, shift = _by_name()[insn.reg_name(number)]
    return int(getattr(cpu.regs, field)) >> shift & mask


def register_value(cpu: Processor, insn: Any, number: int) -> int | None:
    """The value of a register operand; None for one that is no general register."""
    return _register(cpu, insn, number) if insn.reg_name(number) in _by_name() else None


def set_register(cpu: Processor, insn: Any, number: int, value: int) -> None:
    """Change a part of a general register; the rest of it stays."""
    field, mask, shift = _by_name()[insn.reg_name(number)]
    setattr(cpu.regs, field, getattr(cpu.regs, field) & ~(mask << shift) | (value & mask) << shift)


@cache
def _by_name() -> dict[str, tuple[str, int, int]]:
    """Register name -> (field of kvm_regs, mask, shift)."""
    found: dict[str, tuple[str, int, int]] = {}
    for field in r.GPRS:
        found[field] = (field, _U64, 0)
        if field[1].isdigit():
            found |= {field + "d": (field, 0xFFFF_FFFF, 0), field + "w": (field, 0xFFFF, 0)}
            found |= {field + "b": (field, 0xFF, 0)}
        else:
            short = field[1:]
            found |= {"e" + short: (field, 0xFFFF_FFFF, 0), short: (field, 0xFFFF, 0)}
            low = short[0] if short.endswith("x") else short
            found[low + "l"] = (field, 0xFF, 0)
            if short.endswith("x"):
                found[low + "h"] = (field, 0xFF, 8)
    return found


# ---- strings ---------------------------------------------------------------------------------------------


def element_size(decoded: Decoded) -> int:
    """Of a string instruction, in bytes."""
    return int(next(operand.size for operand in decoded.insn.operands if operand.type == _MEMORY))


def count_mask(decoded: Decoded) -> int:
    """The bits of RCX, RSI and RDI that a string instruction uses."""
    return (1 << 8 * int(decoded.insn.addr_size)) - 1


def _string(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    mask = count_mask(decoded)
    if decoded.repeated and not cpu.regs.rcx & mask:
        return
    found = decoded.insn.operands
    for index, wanted in _STRINGS[decoded.mnemonic]:
        operand = found[index]
        if operand.type != _MEMORY:  # LODS, SCAS: the register comes first
            operand = next(each for each in found if each.type == _MEMORY)
        base = decoded.insn.reg_name(operand.mem.base)
        default = "es" if base.endswith("di") else "ds"
        segment = decoded.insn.reg_name(operand.mem.segment) or default
        offset = _register(cpu, decoded.insn, operand.mem.base) & mask
        yield Operand(in_segment(cpu, segment, offset), int(operand.size), wanted)


# ---- the stack -------------------------------------------------------------------------------------------


def stack_width(cpu: Processor, decoded: Decoded) -> int:
    """Bytes that a push or pop moves RSP by."""
    narrow = 0x66 in bytes(decoded.insn.prefix)
    if cpu.bits == 64:
        return 2 if narrow and decoded.mnemonic not in ("call", "ret") else 8
    return 2 if narrow == (cpu.bits == 32) else 4


def _stack(cpu: Processor, offset: int, size: int, wanted: int) -> Operand:
    at = int(cpu.regs.rsp) + offset & cpu.stack_mask
    return Operand(in_segment(cpu, "ss", at), size, wanted)


def _pushes(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """PUSH, CALL: the operand in memory first."""
    yield from _explicit(cpu, decoded)
    width = stack_width(cpu, decoded)
    yield _stack(cpu, -width, width, WRITE)


def _pusha(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    for count in range(1, 9):
        yield _stack(cpu, -width * count, width, WRITE)


def _popa(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    for count in range(8):
        yield _stack(cpu, width * count, width, READ)


def _pops(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """POP: its address, if RSP is in it, with RSP behind the value."""
    width = stack_width(cpu, decoded)
    yield _stack(cpu, 0, width, READ)
    yield from _explicit(cpu, decoded, width)
    first = next(iter(decoded.insn.operands), None)
    if first is not None and first.type == _REGISTER and decoded.insn.reg_name(first.reg) in _LOADABLE:
        yield from _descriptor_on_stack(cpu, 0)


def _far_returns(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """RETF, IRET: RIP, CS, for IRET also RFLAGS and in 64-bit mode RSP and SS; the descriptors that they name."""
    size = _return_size(cpu, decoded)
    values = 2
    if decoded.mnemonic.startswith("iret"):
        values = 5 if cpu.bits == 64 else 3
    for index in range(values):
        yield _stack(cpu, size * index, size, READ)
    yield from _descriptor_on_stack(cpu, size)
    if values == 5:
        yield from _descriptor_on_stack(cpu, size * 4)


def _return_size(cpu: Processor, decoded: Decoded) -> int:
    if decoded.mnemonic in ("iretq", "retfq"):
        return 8
    return 2 if (0x66 in bytes(decoded.insn.prefix)) != (cpu.bits == 16) else 4


def _leave(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    at = int(cpu.regs.rbp) & cpu.stack_mask
    yield Operand(in_segment(cpu, "ss", at), stack_width(cpu, decoded), READ)


def _enter(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    width = stack_width(cpu, decoded)
    level = int(decoded.insn.operands[1].imm) & 0x1F
    yield _stack(cpu, -width, width, WRITE)
    for count in range(1, level):
        at = int(cpu.regs.rbp) - width * count & cpu.stack_mask
        yield Operand(in_segment(cpu, "ss", at), width, READ)
        yield _stack(cpu, -width * (count + 1), width, WRITE)
    if level:
        yield _stack(cpu, -width * (level + 1), width, WRITE)


# ---- others ----------------------------------------------------------------------------------------------

_LOADABLE: Final = ("cs", "ss", "ds", "es", "fs", "gs")


def descriptor(cpu: Processor, selector: int) -> Iterator[Operand]:
    """The descriptor that a selector names, read when it is loaded."""
    if selector & 0xFFFC:
        table = cpu.sregs.ldt if selector & 4 else cpu.sregs.gdt
        yield Operand(int(table.base) + (selector & 0xFFF8) & _U64, 8, READ, implicit=True)


def _descriptor_on_stack(cpu: Processor, offset: int) -> Iterator[Operand]:
    """The one that a selector on the stack names, as far as it can be read."""
    at = _stack(cpu, offset, 2, READ)
    try:
        raw = cpu.memory.read(at.gva, 2, Access(user=cpu.cpl == 3))
    except (DeclinedError, GuestFaultError, ProtectedError):
        return  # the read itself is the access that counts
    yield from descriptor(cpu, int.from_bytes(raw, "little"))


def _mov(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """MOV, also to a segment register."""
    yield from _explicit(cpu, decoded)
    first, second = decoded.insn.operands
    if first.type == _REGISTER and second.type == _REGISTER and decoded.insn.reg_name(first.reg) in _LOADABLE:
        yield from descriptor(cpu, _register(cpu, decoded.insn, second.reg) & 0xFFFF)


def _loads_system_register(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """LTR, LLDT, LAR, LSL, VERR, VERW of a register."""
    yield from _explicit(cpu, decoded)
    last = decoded.insn.operands[-1]
    if last.type == _REGISTER:
        yield from descriptor(cpu, _register(cpu, decoded.insn, last.reg) & 0xFFFF)


def _xlat(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    at = int(cpu.regs.rbx + (cpu.regs.rax & 0xFF)) & count_mask(decoded)
    yield Operand(in_segment(cpu, "ds", at), 1, READ)


def _maskmov(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    at = int(cpu.regs.rdi) & count_mask(decoded)
    size = 16 if decoded.mnemonic.endswith("dqu") else 8
    yield Operand(in_segment(cpu, "ds", at), size, WRITE)


_IMPLICIT: Final[dict[str, Callable[[Processor, Decoded], Iterator[Operand]]]] = {
    **dict.fromkeys(("push", "call", "pushf", "pushfd", "pushfq", "lcall"), _pushes),
    **dict.fromkeys(("pop", "popf", "popfd", "popfq", "ret"), _pops),
    **dict.fromkeys(("iret", "iretd", "iretq", "retf", "retfq"), _far_returns),
    **dict.fromkeys(("pusha", "pushal", "pushaw"), _pusha),
    **dict.fromkeys(("popa", "popal", "popaw"), _popa),
    **dict.fromkeys(("ltr", "lldt", "lar", "lsl", "verr", "verw"), _loads_system_register),
    **dict.fromkeys(("maskmovq", "maskmovdqu", "vmaskmovdqu"), _maskmov),
    "leave": _leave,
    "enter": _enter,
    "mov": _mov,
    "xlatb": _xlat,
}
