# SPDX-License-Identifier: Apache-2.0
"""Which bytes vector instructions access whose elements a mask chooses, or have addresses of their own.

| instruction | mask | address |
|---|---|---|
| VMASKMOV, VPMASKMOV | the highest bit of each element of a register | one behind the other |
| MASKMOVQ, MASKMOVDQU | the highest bit of each byte | one behind the other |
| AVX-512 with an operand in memory | a mask register | one behind the other; VCOMPRESS and VEXPAND: without gaps |
| gathers and scatters | a register or a mask register | each element's own |

Elements that the mask leaves out are not accessed, and cannot fault. Instructions that move elements to other places
access all of them, whatever the mask (`_ALL`). Which do is not the same for all processors: `operands(whole=True)` is
without masks, for one that stopped though no chosen element is a reason to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.decoded import (
    MEMORY,
    REGISTER,
    Decoded,
    Operand,
    address_mask,
    explicit,
    has_vector_index,
    in_segment,
    linear,
    linear_at,
    segment_of,
)
from vmm.vsm.rights import READ, WRITE

# The XSAVE area in its standard form: what is where, and the components of which CPUID leaf 0DH tells it.
_ST, _XMM = 32, 160
_AVX, _MASKS, _ZMM_HIGH, _ZMM_16_TO_31 = 2, 5, 6, 7
_XSAVE_LEAF: Final = 0xD

_EVEX: Final = 0x62
_BEFORE_EVEX: Final = b"\x67\x2e\x36\x3e\x26\x64\x65"
_AAA, _BROADCAST = 7, 1 << 4
_BY_QWORDS: Final = ("vgf2p8affineqb", "vgf2p8affineinvqb")
_SIZES: Final = {"b": 1, "w": 2, "d": 4, "q": 8}
_NUMBERS: Final = {"ps": 4, "ss": 4, "pd": 8, "sd": 8, "ph": 2, "dq": 4, "udq": 4, "qq": 8, "uqq": 8}
_INDEXED: Final = re.compile(r"vp?(gather|scatter)([dq])(ps|pd|d|q)")
_PREFETCH: Final = re.compile(r"v(gather|scatter)pf[01]")
_MASKED_MOVES: Final = frozenset({"vmaskmovps", "vmaskmovpd", "vpmaskmovd", "vpmaskmovq"})
_MASKED_STORES: Final = frozenset({"maskmovq", "maskmovdqu", "vmaskmovdqu"})
_DENSE: Final = re.compile(r"vp?(compress|expand)(ps|pd|[bwdq])")
_NARROWING: Final = re.compile(r"vpmovu?s?[wdq]([bwd])$")
_WIDENING: Final = re.compile(r"vpmov[sz]x([bwd])[wdq]$")
_CONVERSION: Final = re.compile(r"vcvtt?([a-z]+)2")
_MOVE: Final = re.compile(r"vmovdq[au](8|16|32|64)$")
_BROADCASTS: Final = re.compile(r"vp?broadcast(?:[fi](32|64)x\d|([bwdq]|ss|sd)$)")
_DOT_PRODUCT: Final = re.compile(r"vp(4?dp)")
_ALL: Final = re.compile(
    r"vp(ack|conflict|erm|madd(ubsw|wd)|multishift|shuf(b|d|hw|lw)$|unpck)|v(shufp|unpck|insert|extract)"
)
_SHIFT: Final = re.compile(r"vps(ll|ra|rl)[wdq]$")


def chosen(cpu: Processor, decoded: Decoded) -> Iterator[Operand] | None:
    """The operands in memory of an instruction with a mask or with several addresses; None for any other one."""
    name = decoded.mnemonic
    if _PREFETCH.match(name):
        return iter(())
    if found := _INDEXED.match(name):
        size = _NUMBERS.get(found[3]) or _SIZES[found[3]]
        return _indexed(cpu, decoded, found[1] == "scatter", _SIZES[found[2]], size)
    if name in _MASKED_MOVES:
        return _masked_move(cpu, decoded)
    if name in _MASKED_STORES:
        return _masked_store(cpu, decoded)
    mask = _opmask(cpu, decoded)
    return None if mask is None or _moves_elements(decoded) else _masked(cpu, decoded, mask)


def has_mask(decoded: Decoded) -> bool:
    """Whether a mask register chooses elements: the processor may have accessed all of them."""
    return bool(_mask_number(decoded)) and not _INDEXED.match(decoded.mnemonic)


# ---- registers -------------------------------------------------------------------------------------------


class _Registers:
    """Vector and mask registers of a processor, as they are in the XSAVE area."""

    def __init__(self, cpu: Processor) -> None:
        self._cpuid = cpu.cpuid
        self._area = bytes(cpu.vcpu.get_xsave())

    def bytes_of(self, name: str) -> bytes:
        """Of "mm1", "xmm2", "ymm3", "zmm4", "k5"."""
        stem = name.rstrip("0123456789")
        number = int(name[len(stem) :])
        if stem == "mm":
            return self._part(_ST, 16 * number, 8)
        if stem == "k":
            return self._part(self._offset(_MASKS), 8 * number, 8)
        size = {"xmm": 16, "ymm": 32, "zmm": 64}[stem]
        if number >= 16:
            return self._part(self._offset(_ZMM_16_TO_31), 64 * (number - 16), size)
        found = self._part(_XMM, 16 * number, 16)
        if size > 16:
            found += self._part(self._offset(_AVX), 16 * number, 16)
        if size > 32:
            found += self._part(self._offset(_ZMM_HIGH), 32 * number, 32)
        return found

    def _offset(self, component: int) -> int:
        return self._cpuid.value(_XSAVE_LEAF, "ebx", component)

    def _part(self, start: int, offset: int, size: int) -> bytes:
        return self._area[start + offset : start + offset + size]


def _signs(mask: bytes, size: int) -> int:
    """The highest bit of each element, the first one lowest."""
    return sum((mask[at + size - 1] >> 7) << at // size for at in range(0, len(mask), size))


def _evex_byte(decoded: Decoded) -> int:
    """The last byte of the prefix of an AVX-512 instruction with an operand in memory; 0 for any other one."""
    raw = decoded.raw.lstrip(_BEFORE_EVEX)
    if raw[0] != _EVEX or not decoded.vector:
        return 0
    return raw[3] if any(operand.type == MEMORY for operand in decoded.insn.operands) else 0


def _mask_number(decoded: Decoded) -> int:
    """The mask register that chooses elements; 0 for none."""
    return _evex_byte(decoded) & _AAA


def _broadcasts(decoded: Decoded) -> bool:
    """Whether one element in memory is used for all."""
    return bool(_evex_byte(decoded) & _BROADCAST)


def _vector_bytes(decoded: Decoded) -> int:
    """Of the registers of an AVX-512 instruction."""
    return 16 << (_evex_byte(decoded) >> 5 & 3)


def size_of(decoded: Decoded, operand: Any) -> int:
    """Of an operand in memory, in bytes. capstone is wrong about some broadcasts."""
    return 8 if decoded.mnemonic in _BY_QWORDS and _broadcasts(decoded) else int(operand.size)


def _opmask(cpu: Processor, decoded: Decoded) -> int | None:
    number = _mask_number(decoded)
    if not number:
        return None
    return int.from_bytes(_Registers(cpu).bytes_of(f"k{number}"), "little")


# ---- one behind the other --------------------------------------------------------------------------------


def _runs(at: int, size: int, mask: int, count: int, wanted: int) -> Iterator[Operand]:
    """The elements that `mask` chooses of `count`, those without a gap between them as one."""
    first = 0
    while first < count:
        if not mask >> first & 1:
            first += 1
            continue
        end = first
        while end < count and mask >> end & 1:
            end += 1
        yield Operand(at + first * size, (end - first) * size, wanted)
        first = end


def _masked_move(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    size = 8 if decoded.mnemonic.endswith(("pd", "q")) else 4
    mask = _Registers(cpu).bytes_of(decoded.insn.reg_name(decoded.insn.operands[1].reg))
    for index, operand in explicit(cpu, decoded):
        at = linear(cpu, decoded, operand)
        yield from _runs(at, size, _signs(mask, size), len(mask) // size, READ if index else WRITE)


def _masked_store(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """Bytes at DS:RDI."""
    offset = int(cpu.regs.rdi) & address_mask(decoded)
    mask = _Registers(cpu).bytes_of(decoded.insn.reg_name(decoded.insn.operands[1].reg))
    at = in_segment(cpu, segment_of(decoded, "ds"), offset)
    yield from _runs(at, 1, _signs(mask, 1), len(mask), WRITE)


def _masked(cpu: Processor, decoded: Decoded, mask: int) -> Iterator[Operand]:
    """AVX-512 with a mask register."""
    name = decoded.mnemonic
    for index, operand in explicit(cpu, decoded):
        wanted = READ if index else WRITE
        at, size = linear(cpu, decoded, operand), size_of(decoded, operand)
        element = _element(name, stores=not index)
        if element is None or element > size:
            if mask:
                yield Operand(at, size, wanted)
            continue
        count = size // element
        if _broadcasts(decoded) or _BROADCASTS.match(name):
            mask = _folded(mask, _vector_bytes(decoded) // element, count)
        elif _DENSE.match(name):
            mask = (1 << (mask & (1 << count) - 1).bit_count()) - 1
        yield from _runs(at, element, mask, count, wanted)


def _moves_elements(decoded: Decoded) -> bool:
    """Whether an element of the result may come of any in memory. A count of a shift is none of its elements."""
    if _SHIFT.match(decoded.mnemonic):
        return int(decoded.insn.operands[-1].type) == MEMORY
    return bool(_ALL.match(decoded.mnemonic))


def _folded(mask: int, elements: int, count: int) -> int:
    """Of `count` elements in memory that are used again and again, those that are used."""
    found = 0
    for first in range(0, elements, count):
        found |= mask >> first
    return found & (1 << min(count, elements)) - 1 if elements >= count else mask


def _element(name: str, *, stores: bool) -> int | None:
    """Bytes in memory for each bit of the mask; None where the name does not tell."""
    if found := _MOVE.match(name):
        return int(found[1]) // 8
    if found := _NARROWING.match(name) or _WIDENING.match(name):
        return _SIZES[found[1]]
    if found := _CONVERSION.match(name):
        return 2 if stores else _NUMBERS.get(found[1])
    if found := _BROADCASTS.match(name):
        return int(found[1]) // 8 if found[1] else _SIZES.get(found[2]) or _NUMBERS[found[2]]
    if _DOT_PRODUCT.match(name):
        return 4
    if name.startswith("vp"):
        return _SIZES.get(name[-1])
    return 1 if name == "vgf2p8mulb" else _NUMBERS.get(name[-2:])


# ---- an address for each element -------------------------------------------------------------------------


def _indexed(
    cpu: Processor, decoded: Decoded, scatter: bool, index_size: int, size: int
) -> Iterator[Operand]:
    """Gathers and scatters, element by element from the lowest: as far as the mask says that they are not done."""
    insn, registers = decoded.insn, _Registers(cpu)
    operand: Any = next(each for each in insn.operands if has_vector_index(decoded, each))
    vectors = [each for each in insn.operands if each.type == REGISTER and "mm" in insn.reg_name(each.reg)]
    indexes = registers.bytes_of(insn.reg_name(operand.mem.index))
    count = min(len(indexes) // index_size, int(vectors[0].size) // size)
    number = _mask_number(decoded)
    if number:
        mask = int.from_bytes(registers.bytes_of(f"k{number}"), "little")
    else:
        mask = _signs(registers.bytes_of(insn.reg_name(vectors[1].reg)), size)
    for element in range(count):
        if mask >> element & 1:
            part = indexes[element * index_size : (element + 1) * index_size]
            at = linear_at(cpu, decoded, operand, int.from_bytes(part, "little", signed=True))
            yield Operand(at, size, WRITE if scatter else READ)
