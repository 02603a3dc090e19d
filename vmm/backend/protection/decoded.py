# SPDX-License-Identifier: Apache-2.0
"""An instruction as capstone decodes it, and the linear addresses that its operands and registers give.

capstone knows where an operand is and how wide, but not reliably whether it is read or written, nor what an instruction
accesses beside its operands: see `operands`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.processor import Processor

_U64: Final = (1 << 64) - 1
REGISTER: Final = 1  # capstone.x86.X86_OP_REG
IMMEDIATE: Final = 2  # capstone.x86.X86_OP_IMM
MEMORY: Final = 3  # capstone.x86.X86_OP_MEM
_REX_W: Final = 1 << 3
_OPERAND_SIZE: Final = 0x66
_SEGMENT_PREFIXES: Final = {0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x26: "es", 0x64: "fs", 0x65: "gs"}
STRINGS: Final = ("movs", "cmps", "stos", "ins", "scas", "lods", "outs")


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
    for stem in STRINGS:
        if name in (stem + "b", stem + "w", stem + "d", stem + "q") and not _is_vector(insn):
            name = stem
    repeated = name in STRINGS and any(word.startswith("rep") for word in words)
    return Decoded(
        name, bytes(insn.bytes), words[0] == "lock" or name == "xchg", repeated, _is_vector(insn), insn
    )


def _is_vector(insn: Any) -> bool:
    """Whether a register operand is x87, MMX or a vector, or the instruction moves such state whole."""
    if insn.mnemonic.startswith(("f", "x", "v")) and insn.mnemonic not in ("xchg", "xadd", "xor", "xlatb"):
        return True
    return any(
        operand.type == REGISTER
        and insn.reg_name(operand.reg).startswith(("xmm", "ymm", "zmm", "mm", "st", "k"))
        for operand in insn.operands
    )


def element_size(decoded: Decoded) -> int:
    """Of a string instruction, in bytes."""
    return int(next(operand.size for operand in decoded.insn.operands if operand.type == MEMORY))


def address_mask(decoded: Decoded) -> int:
    """The bits of registers that an address is made of; for a string instruction of RCX, RSI and RDI."""
    return (1 << 8 * int(decoded.insn.addr_size)) - 1


def has_rex_w(decoded: Decoded) -> bool:
    """Whether its operands are 64 bits wide, whatever other prefixes say."""
    return bool(decoded.insn.rex & _REX_W)


def operand_size(cpu: Processor, decoded: Decoded) -> int:
    """In bytes, of instructions whose operands are 32 bits wide in 64-bit mode too, unless a prefix says so."""
    if has_rex_w(decoded):
        return 8
    return 2 if (_OPERAND_SIZE in bytes(decoded.insn.prefix)) != (cpu.bits == 16) else 4


def segment_of(decoded: Decoded, default: str) -> str:
    """The segment of an access that is no operand for capstone."""
    return _SEGMENT_PREFIXES.get(bytes(decoded.insn.prefix)[1], default)


def explicit(cpu: Processor, decoded: Decoded) -> Iterator[tuple[int, Any]]:
    """`(index, operand)` of those in memory, but for those whose addresses a vector gives."""
    for index, operand in enumerate(decoded.insn.operands):
        if operand.type == MEMORY and not has_vector_index(decoded, operand):
            yield index, operand


def has_vector_index(decoded: Decoded, operand: Any) -> bool:
    """Whether there is an address for each element of a vector register."""
    return "mm" in (decoded.insn.reg_name(operand.mem.index) or "")


def linear(cpu: Processor, decoded: Decoded, operand: Any, adjust_sp: int = 0) -> int:
    """The address of an operand in memory. adjust_sp: what RSP is changed by before it is used."""
    return linear_at(cpu, decoded, operand, _index(cpu, decoded, operand), adjust_sp)


def _index(cpu: Processor, decoded: Decoded, operand: Any) -> int:
    name = decoded.insn.reg_name(operand.mem.index)
    return register(cpu, decoded.insn, operand.mem.index) if name and name not in ("riz", "eiz") else 0


def linear_at(cpu: Processor, decoded: Decoded, operand: Any, index: int, adjust_sp: int = 0) -> int:
    """The address with this value of the index register."""
    return in_segment(cpu, *_place(cpu, decoded, operand, index, adjust_sp))


def place(cpu: Processor, decoded: Decoded, operand: Any) -> tuple[str, int]:
    """The segment of an operand in memory, and its offset there."""
    return _place(cpu, decoded, operand, _index(cpu, decoded, operand), 0)


def _place(cpu: Processor, decoded: Decoded, operand: Any, index: int, adjust_sp: int) -> tuple[str, int]:
    memory, insn = operand.mem, decoded.insn
    base = insn.reg_name(memory.base) or ""
    total = memory.disp
    if base in ("rip", "eip"):
        total += cpu.regs.rip + decoded.length
    elif base:
        total += register(cpu, insn, memory.base)
        if base in ("rsp", "esp", "sp"):
            total += adjust_sp
    total += index * memory.scale
    total &= address_mask(decoded)
    segment = insn.reg_name(memory.segment) or (
        "ss" if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else "ds"
    )
    return segment, total


def in_segment(cpu: Processor, segment: str, offset: int) -> int:
    """The linear address of an offset."""
    if cpu.bits == 64:
        base = int(getattr(cpu.sregs, segment).base) if segment in ("fs", "gs") else 0
        return base + offset & _U64
    return int(getattr(cpu.sregs, segment).base) + offset & 0xFFFF_FFFF


def register(cpu: Processor, insn: Any, number: int) -> int:
    """The value of a general register, or of the part of one that has a name."""
    field, mask, shift = _by_name()[insn.reg_name(number)]
    return int(getattr(cpu.regs, field)) >> shift & mask


def register_value(cpu: Processor, insn: Any, number: int) -> int | None:
    """The value of a register operand; None for one that is no general register."""
    return register(cpu, insn, number) if insn.reg_name(number) in _by_name() else None


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
