# SPDX-License-Identifier: Apache-2.0
"""IN, OUT, INS and OUTS as bytes: what such an instruction does, and where the one begins that has just ended."""

from __future__ import annotations

from typing import Final, NamedTuple

_PREFIXES: Final = frozenset(b"\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65\xf0")
_OPERAND_SIZE, _ADDRESS_SIZE = 0x66, 0x67
_REPEATS: Final = frozenset(b"\xf2\xf3")
_REX: Final = range(0x40, 0x50)
_INS, _OUTS = range(0x6C, 0x6E), range(0x6E, 0x70)
_IMMEDIATE, _BY_DX = range(0xE4, 0xE8), range(0xEC, 0xF0)
_IS_OUT: Final = 2
"""Of the opcode: E6, E7, EE, EF, 6E, 6F."""
_LONGEST: Final = 15


class PortInstruction(NamedTuple):
    """A decoded instruction. port: None where DX has it."""

    length: int
    size: int
    """Of an item in bytes: 1, 2 or 4."""
    write: bool
    port: int | None
    string: bool
    rep: bool
    address_bits: int

    def fits(self, port: int, size: int, write: bool, rdx: int) -> bool:
        """Whether it makes that access with this DX."""
        own = rdx & 0xFFFF if self.port is None else self.port
        return (own, self.size, self.write) == (port, size, write)


def decode(code: bytes, bits: int) -> PortInstruction | None:
    """The instruction that `code` begins with, in a code segment of that width; None for any other instruction."""
    at, prefixes = 0, set()
    while at < len(code) and (code[at] in _PREFIXES or (bits == 64 and code[at] in _REX)):
        prefixes.add(code[at])
        at += 1
    if at >= min(len(code), _LONGEST):
        return None
    opcode = code[at]
    immediate = opcode in _IMMEDIATE
    string = opcode in _INS or opcode in _OUTS
    length = at + (2 if immediate else 1)
    if not (immediate or string or opcode in _BY_DX) or length > min(len(code), _LONGEST):
        return None
    wide = (bits != 16) is not (_OPERAND_SIZE in prefixes)
    if _ADDRESS_SIZE in prefixes:
        address_bits = {64: 32, 32: 16, 16: 32}[bits]
    else:
        address_bits = bits
    return PortInstruction(
        length=length,
        size=1 if not opcode & 1 else 4 if wide else 2,
        write=bool(opcode & _IS_OUT),
        port=code[at + 1] if immediate else None,
        string=string,
        rep=string and not _REPEATS.isdisjoint(prefixes),
        address_bits=address_bits,
    )


def ending(code: bytes, bits: int, port: int, size: int, write: bool, rdx: int) -> PortInstruction | None:
    """The instruction that `code` ends with and that made this access, without prefixes that change nothing.

    Never a repeated one, behind which RIP is not while it makes accesses.
    """
    for length in range(1, min(len(code), _LONGEST) + 1):
        found = decode(code[-length:], bits)
        if found is not None and found.length == length and found.fits(port, size, write, rdx):
            return None if found.rep else found
    return None
