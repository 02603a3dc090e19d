# SPDX-License-Identifier: Apache-2.0
"""Where the guest was looking when an access was refused: the virtual address, which no KVM tells.

The instruction's memory operands, or the code itself for a fetch, are translated by the VTL's tables; the address that
leads to what was refused is the one. An access that an instruction makes beside its operands (a descriptor, an
interrupt being delivered) has none here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from vmm.backend.emulation.page_walk import Access, TableMemory, walk
from vmm.backend.vsm import guest_code
from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import Buffer
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import EXECUTE, WRITE

_PAGE: Final = 4096
_IN_PAGE: Final = _PAGE - 1
_U64: Final = (1 << 64) - 1
_STACK: Final = (("rsp", -8, 8), ("rsp", 0, 8))
"""What PUSH, CALL, POP and RET touch beside their operands."""


class Operand(NamedTuple):
    """Linear address and size in bytes of something that the instruction touches."""

    address: int
    size: int


class _Recorder:
    """Page tables being read, and where."""

    def __init__(self, memory: TableMemory) -> None:
        self._memory = memory
        self.pages: set[int] = set()

    def read(self, gpa: int, size: int) -> bytes:
        self.pages.add(gpa // _PAGE)
        return self._memory.read(gpa, size)

    def write(self, gpa: int, data: Buffer) -> None:
        raise AssertionError("a walk that sets no bits writes nothing")


def located(memory: TableMemory, regs: Any, sregs: Any, access: MemoryAccess, code: bytes) -> MemoryAccess:
    """`access` with its virtual address, where it can be found; and with the exact physical one, where the host knew
    the page only.

    memory: with the VTL's rights. code: the instruction's bytes, for accesses that are no fetch.
    """
    if access.gva is not None:
        return access
    fetch = access.wanted == EXECUTE
    mode = guest_code.bits(regs, sregs)
    operands = _code(regs, sregs, mode) if fetch else operands_of(regs, sregs, code, mode)
    user = sregs.ss.dpl == 3
    asked = Access(write=access.wanted == WRITE, fetch=fetch, user=user)
    nearby: tuple[int, int] | None = None
    for operand in operands:
        if access.page_walk:
            if _walk_reads(memory, regs, sregs, operand.address, access.gpa, asked):
                return access._replace(gva=operand.address)
            continue
        found = _reached(memory, regs, sregs, operand, access.gpa, asked)
        if found is not None and found[1] == access.gpa:
            return access._replace(gva=found[0])
        nearby = nearby or found
    if nearby is not None:  # the host knew the page only
        return access._replace(gva=nearby[0], gpa=nearby[1])
    return access


def _reached(
    memory: TableMemory, regs: Any, sregs: Any, operand: Operand, gpa: int, asked: Access
) -> tuple[int, int] | None:
    """The operand's first byte in the page of `gpa`: `(gva, gpa)`; None: it has none there."""
    first = operand.address
    starts = [first]
    if (first & _IN_PAGE) + operand.size > _PAGE:
        starts.append((first | _IN_PAGE) + 1 & _U64)
    for start in starts:
        at = guest_code.translate(memory, regs, sregs, start, asked)
        if at is not None and at.gpa // _PAGE == gpa // _PAGE:
            offset = gpa & _IN_PAGE
            inside = offset - (start & _IN_PAGE)
            left = operand.size - (start - first)
            return (start + inside, gpa) if 0 <= inside < left else (start, at.gpa)
    return None


def _walk_reads(memory: TableMemory, regs: Any, sregs: Any, gva: int, gpa: int, asked: Access) -> bool:
    tables = guest_code.paging(regs, sregs)
    if tables.long_mode and not tables.canonical(gva):
        return False
    recorder = _Recorder(memory)
    with contextlib.suppress(AccessInterceptedError):  # that is where it ended for the processor, too
        walk(recorder, tables, gva, asked, set_bits=False)
    return gpa // _PAGE in recorder.pages


def _code(regs: Any, sregs: Any, mode: int) -> Iterator[Operand]:
    yield Operand(regs.rip + (0 if mode == 64 else sregs.cs.base), guest_code.LONGEST)


def operands_of(regs: Any, sregs: Any, code: bytes, mode: int) -> Iterator[Operand]:
    """What the instruction touches: its memory operands, then the stack; its own fetch last, for page walks."""
    instruction = next(_decoder(mode).disasm(code, regs.rip, 1), None)
    if instruction is not None:
        for operand in instruction.operands:
            if operand.type == _memory_operand():
                yield Operand(_address(regs, sregs, instruction, operand.mem, mode), operand.size or 1)
    base = 0 if mode == 64 else sregs.ss.base
    for register, offset, size in _STACK:
        yield Operand(base + (getattr(regs, register) + offset & _U64), size)
    yield from _code(regs, sregs, mode)


def _address(regs: Any, sregs: Any, instruction: Any, memory: Any, mode: int) -> int:
    name = instruction.reg_name
    base = name(memory.base) if memory.base else ""
    effective = memory.disp + _value(regs, instruction, base)
    if memory.index:
        effective += _value(regs, instruction, name(memory.index)) * memory.scale
    effective &= (1 << 8 * instruction.addr_size) - 1
    segment = name(memory.segment) if memory.segment else "ss" if base[-2:] in ("bp", "sp") else "ds"
    if mode == 64 and segment not in ("fs", "gs"):
        return int(effective)
    return int(getattr(sregs, segment).base) + int(effective) & (_U64 if mode == 64 else 0xFFFF_FFFF)


_NARROW: Final = {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp"}


def _value(regs: Any, instruction: Any, name: str) -> int:
    """Of a register that an address is made of, by its name in any width."""
    if not name:
        return 0
    if name in ("rip", "eip"):
        return int(regs.rip) + int(instruction.size)
    if name in ("riz", "eiz"):
        return 0
    if name.startswith("r"):
        return int(getattr(regs, name.rstrip("d"), 0)) & (0xFFFF_FFFF if name.endswith("d") else _U64)
    if name.startswith("e"):
        return int(getattr(regs, "r" + name[1:])) & 0xFFFF_FFFF
    return int(getattr(regs, "r" + name)) & 0xFFFF if name in _NARROW else 0


@cache
def _decoder(mode: int) -> Any:
    decoder = guest_code.make_decoder(mode)
    decoder.detail = True
    return decoder


@cache
def _memory_operand() -> int:
    from capstone import x86

    return int(x86.X86_OP_MEM)
