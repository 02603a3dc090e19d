# SPDX-License-Identifier: Apache-2.0
"""Where a write came from that KVM has emulated all but the write itself: RIP and registers as they were before it.

KVM_EXIT_MMIO of a write tells address, size and data, and RIP is behind the instruction already. So whatever ends there
and would write exactly that is looked for: of more than one those whose data is known to fit, and of these the longest.
A shorter one lacks a prefix; if what looks like one is the end of the instruction before, it changes nothing.

Put back: RIP; RSP of PUSH, CALL, POP and ENTER, and RBP of that one; RSI, RDI and RCX of string instructions; the
register of XADD; the carry that ADC and SBB took. Not put back: the other flags of an instruction that reads and writes
(it sets them again when it is repeated), and RAX of a CMPXCHG without LOCK that did not match.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kvmapi.uapi import x86
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.decoded import (
    MEMORY,
    Decoded,
    Operand,
    address_mask,
    decode,
    element_size,
    register_value,
    set_register,
)
from vmm.backend.protection.operands import operands, stack_width
from vmm.backend.protection.touches import Seen, linear_rip, translate
from vmm.outside import GuestMemoryError
from vmm.vsm.rights import READ, WRITE

_PAGE: Final = 4096
_LONGEST: Final = 15
_PART: Final = 8
_REGISTER, _IMMEDIATE = 1, 2  # capstone.x86.X86_OP_REG, X86_OP_IMM
_CARRY: Final = 1
_DIRECTION: Final = 1 << 10
_U64: Final = (1 << 64) - 1
_ST, _XMM = 32, 160  # where x87 and XMM registers lie in an XSAVE area (SDM volume 1, section 10.5.1)


_ONLY_WRITE: Final = frozenset({"call", "enter", "ins", "pop", "push", "pushf", "pushfd", "pushfq", "stos"})
"""Beside those whose names begin with MOV or SET. Any other may read what it writes."""


@dataclass(frozen=True, slots=True)
class Origin:
    """An instruction that has been carried out but for its write, and the registers before it.

    gva: of the write. again: whether it can be made again. It cannot if it reads what it writes and that lies in two
    pages, for KVM writes to the one that is mapped before it tells of the other.
    """

    instruction: Decoded
    regs: Any
    gva: int
    again: bool


def find(cpu: Processor, memory: Seen, gpa: int, data: bytes) -> Origin | None:
    """The instruction that wants to write `data` at `gpa`, its first part that is refused.

    cpu: its registers are those of the exit, and the same when this returns. None: none is known to do that.
    """
    after = x86.kvm_regs.from_buffer_copy(cpu.regs)
    try:
        best: tuple[tuple[bool, int], Origin] | None = None
        for decoded, before in _candidates(cpu, memory, after, data):
            cpu.regs = before
            items = 1
            if decoded.mnemonic == "xadd":
                _undo_exchange(cpu, memory, decoded, gpa, data)
            elif decoded.mnemonic == "ins":
                items = _undo_read_ahead(cpu, decoded, gpa)
            found = list(operands(cpu, decoded))
            for operand in found:
                operand = replace(operand, size=operand.size * items)
                if operand.wanted != WRITE or not _hits(cpu, memory, operand, gpa, len(data)):
                    continue
                gva = _gva(cpu, memory, operand, gpa)
                fit = _fits(cpu, memory, decoded, operand, gpa, gva - operand.gva & _U64, data)
                if fit is False:
                    continue
                again = _may_be_made_again(decoded, operand, found)
                origin = Origin(decoded, x86.kvm_regs.from_buffer_copy(before), gva, again)
                rank = (bool(fit), decoded.length)
                if best is None or rank >= best[0]:
                    best = rank, origin
                break
        return None if best is None else best[1]
    finally:
        cpu.regs = after


def _may_be_made_again(decoded: Decoded, operand: Operand, others: Sequence[Operand]) -> bool:
    """See `Origin`. others: all operands, this one too."""
    if operand.gva % _PAGE + operand.size <= _PAGE:
        return True
    name = decoded.mnemonic
    return (name in _ONLY_WRITE or name.removeprefix("v").startswith(("mov", "set"))) and not any(
        other.wanted == READ
        and other.gva < operand.gva + operand.size
        and operand.gva < other.gva + other.size
        for other in others
    )


def _undo_exchange(cpu: Processor, memory: Seen, decoded: Decoded, gpa: int, data: bytes) -> None:
    """XADD has given its register what is in memory. The address may depend on what was there before."""
    insn = decoded.insn
    if insn.operands[0].type != MEMORY or len(data) != insn.operands[0].size:
        return
    with contextlib.suppress(GuestMemoryError):
        found = int.from_bytes(memory.read(gpa, len(data)), "little")
        before = int.from_bytes(data, "little") - found & (1 << 8 * len(data)) - 1
        set_register(cpu, insn, insn.operands[1].reg, before)


def _undo_read_ahead(cpu: Processor, decoded: Decoded, gpa: int) -> int:
    """REP INS upwards reads as many elements as are left in the page, and writes them at once. How many those are.

    One of them has been undone.
    """
    regs, size, mask = cpu.regs, element_size(decoded), address_mask(decoded)
    if not decoded.repeated or regs.rflags & _DIRECTION:
        return 1
    base = 0 if cpu.bits == 64 else int(cpu.sregs.es.base)
    others, rest = divmod((base + int(regs.rdi) - gpa) % _PAGE, size)
    if rest or not others:
        return 1  # one, which crosses into another page or not
    regs.rdi = regs.rdi & ~mask | regs.rdi - others * size & mask
    regs.rcx = regs.rcx & ~mask | regs.rcx + others & mask
    return others + 1


def _candidates(cpu: Processor, memory: Seen, after: Any, data: bytes) -> Iterator[tuple[Decoded, Any]]:
    """Instructions that may have led here, with the registers before them."""
    cpu.regs = after
    here = _code(cpu, memory, linear_rip(cpu), _LONGEST)
    repeated = decode(here, int(after.rip), cpu.bits)
    if repeated is not None and repeated.repeated:
        yield repeated, _before(cpu, after, repeated, data, int(after.rip))
    returns_to = int.from_bytes(data, "little")
    for end in dict.fromkeys((int(after.rip), returns_to)):
        cpu.regs = after
        base = linear_rip(cpu) - int(after.rip)
        code = _code_before(cpu, memory, base + end & _U64)
        for length in range(1, len(code) + 1):
            start = end - length & _U64
            decoded = decode(code[-length:], start, cpu.bits)
            if decoded is None or decoded.length != length:
                continue
            if end == (returns_to if decoded.mnemonic == "call" else after.rip):
                yield decoded, _before(cpu, after, decoded, data, start)


def _code(cpu: Processor, memory: Seen, at: int, size: int) -> bytes:
    """Up to `size` bytes of code at a linear address, as far as they can be read."""
    found = b""
    while size:
        here = min(size, _PAGE - at % _PAGE)
        gpa = translate(cpu, memory, at & _U64, Access(fetch=True, user=cpu.cpl == 3))
        if gpa is None:
            break
        try:
            found += memory.read(gpa, here)
        except GuestMemoryError:
            break
        at, size = at + here, size - here
    return found


def _code_before(cpu: Processor, memory: Seen, end: int) -> bytes:
    """Up to 15 bytes that end at a linear address."""
    here = min(_LONGEST, (end - 1) % _PAGE + 1)
    code = _code(cpu, memory, end - here, here)
    if here < _LONGEST and len(code) == here:
        code = _code(cpu, memory, end - _LONGEST, _LONGEST - here) + code
    return code if len(code) in (here, _LONGEST) else b""


def _before(cpu: Processor, after: Any, decoded: Decoded, data: bytes, start: int) -> Any:
    """The registers before `decoded`, whose effect on them is undone."""
    regs = x86.kvm_regs.from_buffer_copy(after)
    regs.rip = start
    cpu.regs = regs
    name = decoded.mnemonic
    if name in ("push", "pushf", "pushfd", "pushfq", "call"):
        _move_stack(cpu, regs, stack_width(cpu, decoded))
    elif name == "pop":
        _move_stack(cpu, regs, -stack_width(cpu, decoded))
    elif name == "enter":
        # RBP is what RSP was behind its first push.
        regs.rsp = regs.rbp
        _move_stack(cpu, regs, stack_width(cpu, decoded))
        regs.rbp = int.from_bytes(data, "little")
    elif name in ("stos", "movs", "ins"):
        _string(regs, decoded)
    return regs


def _move_stack(cpu: Processor, regs: Any, by: int) -> None:
    mask = cpu.stack_mask
    regs.rsp = regs.rsp & ~mask | regs.rsp + by & mask


def _string(regs: Any, decoded: Decoded) -> None:
    step, mask = element_size(decoded), address_mask(decoded)
    back = step if regs.rflags & _DIRECTION else -step
    names = ("rdi", "rsi") if decoded.mnemonic == "movs" else ("rdi",)
    for name in names:
        setattr(regs, name, getattr(regs, name) & ~mask | getattr(regs, name) + back & mask)
    if decoded.repeated:
        regs.rcx = regs.rcx & ~mask | regs.rcx + 1 & mask


def _parts(cpu: Processor, memory: Seen, operand: Operand) -> Iterator[tuple[int, int, int]]:
    """`(gpa, size, gva)` of what an operand has in each page."""
    at, size = operand.gva, operand.size
    while size:
        here = min(size, _PAGE - at % _PAGE)
        gpa = translate(cpu, memory, at, Access(write=True, user=cpu.cpl == 3))
        if gpa is None:
            return
        yield gpa, here, at
        at, size = at + here & _U64, size - here


def _hits(cpu: Processor, memory: Seen, operand: Operand, gpa: int, size: int) -> bool:
    """Whether KVM would begin to write the operand, or its second page, with `size` bytes at `gpa`."""
    return any(start == gpa and min(_PART, count) == size for start, count, _ in _parts(cpu, memory, operand))


def _gva(cpu: Processor, memory: Seen, operand: Operand, gpa: int) -> int:
    return next(gva for start, _, gva in _parts(cpu, memory, operand) if start == gpa)


def _fits(
    cpu: Processor, memory: Seen, decoded: Decoded, operand: Operand, gpa: int, offset: int, data: bytes
) -> bool | None:
    """Whether the instruction writes `data` at `gpa`, which is `offset` bytes into its operand: True, False, or None
    for nobody knows. Completes the registers."""
    size = operand.size
    name = decoded.mnemonic
    vector = _vector_source(cpu, decoded)
    if vector is not None:
        return data in (vector[: len(data)], vector[size - len(data) : size])
    if size > _PART:
        return None
    written, mask = int.from_bytes(data, "little"), (1 << 8 * len(data)) - 1
    source = _source(cpu, decoded)
    stored = source if name in ("mov", "movnti", "push") else None
    if name == "call":
        stored = int(cpu.regs.rip) + decoded.length
    elif name == "stos":
        stored = int(cpu.regs.rax)
    if stored is not None:
        return written == stored >> 8 * offset & mask
    if name.startswith("set") and size == 1:
        return None if written <= 1 else False
    if offset:
        return None  # the bytes before may have been written already
    # Of the result the low bytes depend on nothing but the low bytes.
    try:
        found = int.from_bytes(memory.read(gpa, len(data)), "little")
    except GuestMemoryError:
        return None
    if name == "xadd" and source is not None:
        # Its register was found so that it does, or still has what was in memory.
        return len(data) == size or source & mask == found
    if name in ("adc", "sbb") and source is not None:
        sign = 1 if name == "adc" else -1
        carry = sign * (written - found - sign * source) & mask
        if carry not in (0, 1):
            return False
        cpu.regs.rflags = cpu.regs.rflags & ~_CARRY | carry
        return True
    result = _result(name, found, source)
    return None if result is None else result & mask == written


def _source(cpu: Processor, decoded: Decoded) -> int | None:
    """The value of the last operand, if it is a register or a number."""
    last = decoded.insn.operands[-1] if decoded.insn.operands else None
    if last is None:
        return None
    if last.type == _IMMEDIATE:
        return int(last.imm)
    if last.type == _REGISTER:
        return register_value(cpu, decoded.insn, last.reg)
    return None


def _vector_source(cpu: Processor, decoded: Decoded) -> bytes | None:
    """The low 16 bytes (8 of an MMX register) that a plain store of a vector register writes."""
    last = decoded.insn.operands[-1] if decoded.insn.operands else None
    if last is None or last.type != _REGISTER or not decoded.mnemonic.lstrip("v").startswith("mov"):
        return None
    name = decoded.insn.reg_name(last.reg)
    stem, number = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    if stem not in ("xmm", "mm"):
        return None
    area, size = (_XMM, 16) if stem == "xmm" else (_ST, 8)
    at = area + 16 * int(number)
    return bytes(cpu.vcpu.get_xsave())[at : at + size]


def _result(name: str, found: int, source: int | None) -> int | None:
    """What an instruction makes of the memory operand that it finds; None for those not told here."""
    match name:
        case "inc":
            return found + 1
        case "dec":
            return found - 1
        case "not":
            return ~found
        case "neg":
            return -found
    if source is None:
        return None
    match name:
        case "add":
            return found + source
        case "sub":
            return found - source
        case "and":
            return found & source
        case "or":
            return found | source
        case "xor":
            return found ^ source
    return None
