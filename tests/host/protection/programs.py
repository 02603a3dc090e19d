# SPDX-License-Identifier: Apache-2.0
"""One instruction each, all kinds of accesses to DATA; the page before DATA and OTHER are always there."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.host.protection.world import DATA, LIBRARY, OTHER, PAGE
from vmm.vsm.rights import READ, WRITE


@dataclass(frozen=True)
class Program:
    """wanted, gpa: the first access to DATA. length: of the instruction. needs_avx: a #UD on hosts without; the others
    are one nowhere."""

    code: str
    wanted: int
    gpa: int
    length: int
    registers: dict[str, int] = field(default_factory=dict)
    needs_avx: bool = False

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.code)


def _at(code: str, wanted: int, offset: int = 8, **registers: int) -> Program:
    raw = bytes.fromhex(code)
    return Program(code, wanted, DATA + offset, len(raw), {"rdi": DATA + offset, **registers})


PROGRAMS = {
    "mov reg, mem": _at("8b07", READ),
    "mov mem, reg": _at("8907", WRITE),
    "mov mem, imm": _at("48c70778563412", WRITE),
    "mov byte": _at("8807", WRITE),
    "movzx": _at("0fb607", READ),
    "cmp": _at("3907", READ),
    "test": _at("8507", READ),
    "sib with displacement": Program("8b445f10", READ, DATA + 0x10 + 6, 4, {"rdi": DATA, "rbx": 3}),
    "add": _at("480107", WRITE),
    "adc with carry": _at("481107", WRITE, rflags=0x3003),
    "sbb with carry": _at("481907", WRITE, rflags=0x3003),
    "sub immediate": _at("832f05", WRITE),
    "inc": _at("48ff07", WRITE),
    "neg": _at("f61f", WRITE),
    "shl cl": _at("d327", WRITE, rcx=3),
    "bts": _at("480fba2f05", WRITE),
    "bts far": _at("480fab07", WRITE, 0x20, rdi=DATA, rax=0x20 * 8 + 1),
    "lock add": _at("f0480107", WRITE),
    "xchg": _at("488707", WRITE),
    "xadd": _at("480fc107", WRITE),
    "lock xadd": _at("f0480fc107", WRITE),
    "cmpxchg that matches": _at("480fb10f", WRITE, rax=0x0F0E0D0C0B0A0908),
    "lock cmpxchg that does not": _at("f0480fb10f", WRITE, rax=5),
    "lock cmpxchg8b": _at("f00fc70f", WRITE),
    "sete": _at("0f9407", WRITE, rflags=0x3042),
    "push": Program("50", WRITE, DATA + 0x100, 1, {"rsp": DATA + 0x108}),
    "push imm": Program("6a55", WRITE, DATA + 0x100, 2, {"rsp": DATA + 0x108}),
    "pushf": Program("9c", WRITE, DATA + 0x100, 1, {"rsp": DATA + 0x108}),
    "push mem": Program("ff37", READ, DATA + 8, 2, {"rdi": DATA + 8}),
    "push mem to it": Program("ff37", WRITE, DATA + 0x100, 2, {"rdi": OTHER, "rsp": DATA + 0x108}),
    "pop": Program("58", READ, DATA + 0x100, 1, {"rsp": DATA + 0x100}),
    "pop mem": Program("8f07", WRITE, DATA + 8, 2, {"rdi": DATA + 8}),
    "pop mem from it": Program("8f07", READ, DATA + 0x100, 2, {"rdi": OTHER, "rsp": DATA + 0x100}),
    "call": Program("ffd0", WRITE, DATA + 0x100, 2, {"rsp": DATA + 0x108, "rax": LIBRARY}),
    "call relative": Program("e800000000", WRITE, DATA + 0x100, 5, {"rsp": DATA + 0x108}),
    "call mem": Program("ff17", READ, DATA + 8, 2, {"rdi": DATA + 8}),
    "ret": Program("c3", READ, DATA + 0x200, 1, {"rsp": DATA + 0x200}),
    "enter": Program("c8100000", WRITE, DATA + 0x100, 4, {"rsp": DATA + 0x108}),
    "leave": Program("c9", READ, DATA + 0x100, 1, {"rbp": DATA + 0x100}),
    "movs from it": Program("a4", READ, DATA + 8, 1, {"rsi": DATA + 8, "rdi": OTHER}),
    "movs to it": Program("48a5", WRITE, DATA + 8, 2, {"rsi": OTHER, "rdi": DATA + 8}),
    "movs backwards": Program("a4", WRITE, DATA + 8, 1, {"rsi": OTHER, "rdi": DATA + 8, "rflags": 0x3402}),
    "rep movs into it": Program(
        "f3a4", WRITE, DATA, 2, {"rsi": OTHER, "rdi": DATA - 4, "rcx": 12}
    ),
    "rep movs out of it": Program(
        "f3a4", READ, DATA, 2, {"rsi": DATA - 4, "rdi": OTHER, "rcx": 12}
    ),
    "rep stos": Program("f348ab", WRITE, DATA, 3, {"rdi": DATA - 16, "rcx": 6}),
    "rep stos backwards": Program(
        "f3aa", WRITE, DATA + PAGE - 1, 2, {"rdi": DATA + PAGE + 2, "rcx": 9, "rflags": 0x3402}
    ),
    "stos": Program("aa", WRITE, DATA + 8, 1, {"rdi": DATA + 8}),
    "lods": Program("ad", READ, DATA + 8, 1, {"rsi": DATA + 8}),
    "scas": Program("ae", READ, DATA + 8, 1, {"rdi": DATA + 8}),
    "cmps": Program("a6", READ, DATA + 8, 1, {"rsi": OTHER, "rdi": DATA + 8}),
    "xlat": Program("d7", READ, DATA + 0x20, 1, {"rbx": DATA, "rax": 0x20}),
    "movups load": _at("0f1007", READ),
    "movups store": _at("0f1107", WRITE),
    "movdqa load": _at("660f6f07", READ, 0x10),
    "movdqa store": _at("660f7f07", WRITE, 0x10),
    "vmovups load": Program("c5fc1007", READ, DATA + 8, 4, {"rdi": DATA + 8}, needs_avx=True),
    "vmovups store": Program("c5fc1107", WRITE, DATA + 8, 4, {"rdi": DATA + 8}, needs_avx=True),
    "across its begin": _at("488b07", READ, 0, rdi=DATA - 3),
    "across its end": _at("488b07", READ, PAGE - 3),
    "write across its begin": _at("488907", WRITE, 0, rdi=DATA - 3),
    "write across its end": _at("488907", WRITE, PAGE - 3),
    "16-byte load across its begin": _at("0f1007", READ, 0, rdi=DATA - 3),
}  # fmt: skip
