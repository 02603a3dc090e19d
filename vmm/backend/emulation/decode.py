# SPDX-License-Identifier: Apache-2.0
"""Prefixes, opcode, ModRM, SIB, displacement and immediate (SDM volume 2, chapter 2); VEX; no EVEX."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import general_protection

MAX_LENGTH = 15

# Mandatory prefixes as `Instruction.prefix` has them; VEX.pp counts them in this order.
NP, P66, PF3, PF2 = 0, 0x66, 0xF3, 0xF2
_VEX_PP = (NP, P66, PF3, PF2)
_VEX_MAPS = {1: 0x0F, 2: 0x0F38, 3: 0x0F3A}
_VEX_2_BYTE, _VEX_3_BYTE = 0xC5, 0xC4

_SEGMENT_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_LOCK, _OPERAND_SIZE, _ADDRESS_SIZE, _REPNE, _REP = 0xF0, 0x66, 0x67, 0xF2, 0xF3
_LEGACY = {*_SEGMENT_PREFIXES, _LOCK, _OPERAND_SIZE, _ADDRESS_SIZE, _REPNE, _REP}
_IGNORED_IN_64_BIT = ("es", "cs", "ss", "ds")

# 16-bit addressing: registers added up for r/m 0 to 7, by their numbers (SDM volume 2, table 2-1)
_BX, _BP, _SI, _DI, _SP = 3, 5, 6, 7, 4
_ADDRESS_16 = ((_BX, _SI), (_BX, _DI), (_BP, _SI), (_BP, _DI), (_SI,), (_DI,), (_BP,), (_BX,))


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """Where a memory operand is: a sum, taken modulo the address size, in a segment.

    registers: `(number, factor)`. rip_relative: add the address of the next instruction.
    segment: the one in use, prefix or default.
    """

    segment: str
    address_bits: int
    registers: tuple[tuple[int, int], ...]
    displacement: int
    rip_relative: bool = False


@dataclass(frozen=True, slots=True)
class Vex:
    """What a VEX prefix adds. wide: VEX.L. vvvv: the register it names (0 when unused). bad_prefix: after 66, F2, F3,
    LOCK or REX, which is #UD."""

    wide: bool
    vvvv: int
    bad_prefix: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """A decoded instruction.

    opcode: with its escape bytes as one number: 0xCC, 0x0F01, 0x0F38F0. prefix: the last of F2 and F3, else 66,
    else 0, as mandatory prefixes count. operand_size: 66 is among the prefixes. memory: None for a register operand.
    """

    raw: bytes
    opcode: int
    prefix: int
    lock: bool
    rex: int
    modrm: int | None = None
    memory: MemoryOperand | None = None
    immediate: int = 0
    vex: Vex | None = None
    operand_size: bool = False

    @property
    def length(self) -> int:
        return len(self.raw)

    @property
    def reg(self) -> int:
        """ModRM.reg without REX.R: an opcode extension."""
        return (self.modrm or 0) >> 3 & 7

    @property
    def register_operand(self) -> int:
        """ModRM.reg with REX.R: a register's number."""
        return self.reg | (self.rex & r.REX_R) << 1

    @property
    def rm_register(self) -> int:
        """ModRM.r/m with REX.B, where it names a register."""
        return (self.modrm or 0) & 7 | (self.rex & r.REX_B) << 3


@dataclass(slots=True)
class _Bytes:
    """The instruction's bytes, asked for one at a time: a fetch beyond its end could fault for nothing."""

    fetch: Callable[[int], int]
    taken: bytearray = field(default_factory=bytearray)

    def next(self) -> int:
        if len(self.taken) == MAX_LENGTH:
            raise general_protection()
        byte = self.fetch(len(self.taken))
        self.taken.append(byte)
        return byte

    def number(self, size: int) -> int:
        """A signed little-endian number."""
        return int.from_bytes(bytes(self.next() for _ in range(size)), "little", signed=True)


def decode(
    fetch: Callable[[int], int], bits: int, with_modrm: Container[int], immediate_bytes: dict[int, int]
) -> Instruction:
    """Decode the instruction whose byte number `i` is `fetch(i)`, in a code segment of `bits` (16, 32, 64).

    with_modrm: the opcodes that have a ModRM byte. immediate_bytes: how long an opcode's immediate is.
    Opcodes in neither are taken to end with the opcode; callers decline those they do not know.
    Errors: `GuestFaultError`: #GP(0) for more than 15 bytes, and what `fetch` raises.
    """
    source = _Bytes(fetch)
    seen: set[int] = set()
    segment, repeat, rex = "", 0, 0
    byte = source.next()
    while True:
        if byte in _LEGACY:
            seen.add(byte)
            rex = 0  # a REX byte counts only directly before the opcode
            if byte in _SEGMENT_PREFIXES:
                segment = _SEGMENT_PREFIXES[byte]
            elif byte in (_REP, _REPNE):
                repeat = byte
        elif bits == 64 and byte & 0xF0 == 0x40:
            rex = byte
        else:
            break
        byte = source.next()
    opcode = byte
    prefix = repeat or (_OPERAND_SIZE if _OPERAND_SIZE in seen else NP)
    vex = None
    if bits == 64 and opcode in (_VEX_2_BYTE, _VEX_3_BYTE):
        bad_prefix = bool(rex or prefix or _LOCK in seen)
        opcode, prefix, rex, vex = _vex(source, opcode, bad_prefix)
    elif opcode == 0x0F:
        opcode = opcode << 8 | source.next()
        if opcode in (0x0F38, 0x0F3A):
            opcode = opcode << 8 | source.next()
    modrm, memory = None, None
    if opcode in with_modrm:
        modrm = source.next()
        if modrm >> 6 != 3:
            memory = _memory(source, modrm, rex, bits, _ADDRESS_SIZE in seen, segment)
    immediate = source.number(immediate_bytes.get(opcode, 0))
    lock = _LOCK in seen
    other_size = _OPERAND_SIZE in seen
    return Instruction(
        bytes(source.taken), opcode, prefix, lock, rex, modrm, memory, immediate, vex, other_size
    )


def _vex(source: _Bytes, first: int, bad_prefix: bool) -> tuple[int, int, int, Vex]:
    """Opcode, prefix and REX as VEX carries them, inverted where it inverts them (SDM volume 2, section 2.3.5)."""
    second = source.next()
    rex = 0 if second & 0x80 else r.REX_R
    last, escape = second, 0x0F
    if first == _VEX_3_BYTE:
        rex |= (0 if second & 0x40 else r.REX_X) | (0 if second & 0x20 else r.REX_B)
        last = source.next()
        rex |= r.REX_W if last & 0x80 else 0
        # An unknown map gives an opcode that no table has.
        escape = _VEX_MAPS.get(second & 0x1F, 0xFF00 | second & 0x1F)
    vex = Vex(wide=bool(last & 4), vvvv=~last >> 3 & 0xF, bad_prefix=bad_prefix)
    return escape << 8 | source.next(), _VEX_PP[last & 3], rex, vex


def _memory(
    source: _Bytes, modrm: int, rex: int, bits: int, other_address_size: bool, segment: str
) -> MemoryOperand:
    address_bits = {16: (16, 32), 32: (32, 16), 64: (64, 32)}[bits][other_address_size]
    if bits == 64 and segment in _IGNORED_IN_64_BIT:
        segment = ""
    mod, rm = modrm >> 6, modrm & 7
    if address_bits == 16:
        direct = mod == 0 and rm == 6
        registers = () if direct else tuple((number, 1) for number in _ADDRESS_16[rm])
        displacement = source.number(2 if direct else mod)
        stack = any(number == _BP for number, _ in registers)
        return MemoryOperand(segment or ("ss" if stack else "ds"), 16, registers, displacement)
    base: int | None = rm | (rex & r.REX_B) << 3
    found: list[tuple[int, int]] = []
    sib = source.next() if rm == 4 else None
    if sib is not None:
        index = sib >> 3 & 7 | (rex & r.REX_X) << 2
        if index != _SP:
            found.append((index, 1 << (sib >> 6)))
        base = sib & 7 | (rex & r.REX_B) << 3
    rip_relative = False
    wide = mod == 2
    if mod == 0 and (base or 0) & 7 == 5:
        rip_relative = bits == 64 and sib is None
        base, wide = None, True
    if base is not None:
        found.append((base, 1))
    displacement = source.number(4 if wide else mod & 1)
    stack = base in (_SP, _BP)
    return MemoryOperand(
        segment or ("ss" if stack else "ds"), address_bits, tuple(found), displacement, rip_relative
    )
