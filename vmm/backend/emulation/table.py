# SPDX-License-Identifier: Apache-2.0
"""The instructions that are carried out here, as data. The first row that fits an encoding counts.

A row whose CPUID bit the guest is not shown gives #UD, which is all that most rows are for: KVM's emulator says
"unknown" where a processor says "undefined". A row without handler says only that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from vmm.backend.emulation import cache, integers, software_interrupts, system, vector, vector_moves, xsave
from vmm.backend.emulation.decode import NP, P66, PF2, PF3, Instruction
from vmm.backend.emulation.processor import Feature, Processor

Handler = Callable[[Processor, Instruction], None]


class Form(Enum):
    """What ModRM must look like."""

    ANY = "any"
    MEMORY = "memory operand"
    REGISTER = "register operand"


IGNORED = (NP, P66, PF2, PF3)


@dataclass(frozen=True, slots=True)
class Row:
    """An encoding and what it does.

    prefixes: the mandatory prefixes it may have (`Instruction.prefix`). modrm: the whole byte, where one byte is
    one instruction. reg: ModRM.reg. vex: encoded with VEX. feature: the CPUID bit without which it is #UD.
    handler None: declined where the guest is shown the feature. LOCK is #UD for all that are not lockable.
    """

    name: str
    opcode: int
    handler: Handler | None
    prefixes: tuple[int, ...] = IGNORED
    modrm: int | None = None
    reg: int | None = None
    form: Form = Form.ANY
    feature: Feature | None = None
    vex: bool = False
    lockable: bool = False

    def fits(self, instruction: Instruction) -> bool:
        """Whether this row describes `instruction`."""
        if self.opcode != instruction.opcode or instruction.prefix not in self.prefixes:
            return False
        if self.vex is (instruction.vex is None):
            return False
        if self.modrm is not None and self.modrm != instruction.modrm:
            return False
        if self.reg is not None and self.reg != instruction.reg:
            return False
        return self.form is Form.ANY or (self.form is Form.MEMORY) == (instruction.memory is not None)


SMAP = Feature(7, "ebx", 20)
XSAVE = Feature(1, "ecx", 26)
MONITOR = Feature(1, "ecx", 3)
RTM = Feature(7, "ebx", 11)
PKU = Feature(7, "ecx", 3)
MMX = Feature(1, "edx", 23)
SSE2 = Feature(1, "edx", 26)
SSE41 = Feature(1, "ecx", 19)
AVX = Feature(1, "ecx", 28)
WAITPKG = Feature(7, "ecx", 5)

# Moves of whole vector registers: opcode, handler, prefixes, form, feature without VEX
_VECTOR_MOVES = (
    ("MOVUPS", 0x0F10, vector_moves.load, (NP, P66), Form.ANY, SSE2),
    ("MOVUPS", 0x0F11, vector_moves.store, (NP, P66), Form.ANY, SSE2),
    ("MOVAPS", 0x0F28, vector_moves.load_aligned, (NP, P66), Form.ANY, SSE2),
    ("MOVAPS", 0x0F29, vector_moves.store_aligned, (NP, P66), Form.ANY, SSE2),
    ("MOVNTPS", 0x0F2B, vector_moves.store_aligned, (NP, P66), Form.MEMORY, SSE2),
    ("MOVDQA", 0x0F6F, vector_moves.load_aligned, (P66,), Form.ANY, SSE2),
    ("MOVDQA", 0x0F7F, vector_moves.store_aligned, (P66,), Form.ANY, SSE2),
    ("MOVDQU", 0x0F6F, vector_moves.load, (PF3,), Form.ANY, SSE2),
    ("MOVDQU", 0x0F7F, vector_moves.store, (PF3,), Form.ANY, SSE2),
    ("MOVNTDQ", 0x0FE7, vector_moves.store_aligned, (P66,), Form.MEMORY, SSE2),
    ("MOVNTDQA", 0x0F382A, vector_moves.load_streaming, (P66,), Form.MEMORY, SSE41),
)


def _vector_moves() -> Iterator[Row]:
    """Each of them as an SSE instruction and, with V before its name, as one of AVX."""
    for name, opcode, handler, prefixes, form, feature in _VECTOR_MOVES:
        yield Row(name, opcode, handler, prefixes, form=form, feature=feature)
        yield Row("V" + name, opcode, handler, prefixes, form=form, feature=AVX, vex=True)


ROWS = (
    Row("FWAIT", 0x9B, vector.fwait),
    Row("INT3", 0xCC, software_interrupts.int3),
    Row("INT n", 0xCD, software_interrupts.int_n),
    Row("INTO", 0xCE, software_interrupts.into),
    Row("INT1", 0xF1, software_interrupts.int1),
    # 0F 01 with a register form: one instruction per ModRM byte
    Row("MONITOR", 0x0F01, system.monitor, (NP,), modrm=0xC8, feature=MONITOR),
    Row("MWAIT", 0x0F01, system.mwait, (NP,), modrm=0xC9, feature=MONITOR),
    Row("CLAC", 0x0F01, system.clac, (NP,), modrm=0xCA, feature=SMAP),
    Row("STAC", 0x0F01, system.stac, (NP,), modrm=0xCB, feature=SMAP),
    Row("XGETBV", 0x0F01, system.xgetbv, (NP,), modrm=0xD0, feature=XSAVE),
    Row("XSETBV", 0x0F01, system.xsetbv, (NP,), modrm=0xD1, feature=XSAVE),
    Row("XEND", 0x0F01, None, (NP,), modrm=0xD5, feature=RTM),
    Row("XTEST", 0x0F01, None, (NP,), modrm=0xD6, feature=RTM),
    Row("SERIALIZE", 0x0F01, None, (NP,), modrm=0xE8, feature=Feature(7, "edx", 14)),
    Row("RDPKRU", 0x0F01, None, (NP,), modrm=0xEE, feature=PKU),
    Row("WRPKRU", 0x0F01, None, (NP,), modrm=0xEF, feature=PKU),
    Row("RDTSCP", 0x0F01, None, modrm=0xF9, feature=Feature(0x8000_0001, "edx", 27)),
    Row("MONITORX", 0x0F01, None, modrm=0xFA, feature=Feature(0x8000_0001, "ecx", 29)),
    Row("MWAITX", 0x0F01, None, modrm=0xFB, feature=Feature(0x8000_0001, "ecx", 29)),
    Row("CLZERO", 0x0F01, None, modrm=0xFC, feature=Feature(0x8000_0008, "ebx", 0)),
    Row("RDPRU", 0x0F01, None, modrm=0xFD, feature=Feature(0x8000_0008, "ebx", 4)),
    # 0F AE, 0F B8, 0F C7
    Row("XSAVE", 0x0FAE, xsave.xsave, (NP,), None, 4, Form.MEMORY, XSAVE),
    Row("XRSTOR", 0x0FAE, xsave.xrstor, (NP,), None, 5, Form.MEMORY, XSAVE),
    Row("XSAVEOPT", 0x0FAE, xsave.xsaveopt, (NP,), None, 6, Form.MEMORY, Feature(0xD, "eax", 0, index=1)),
    Row("POPCNT", 0x0FB8, integers.popcnt, (PF3,), feature=Feature(1, "ecx", 23)),
    Row("CMPXCHG16B", 0x0FC7, integers.cmpxchg16b, reg=1, form=Form.MEMORY, lockable=True),
    Row("XSAVEC", 0x0FC7, xsave.xsavec, (NP,), None, 4, Form.MEMORY, xsave.XSAVEC),
    Row("CLFLUSH", 0x0FAE, cache.cache_line, (NP,), None, 7, Form.MEMORY, Feature(1, "edx", 19)),
    Row("CLFLUSHOPT", 0x0FAE, cache.cache_line, (P66,), None, 7, Form.MEMORY, Feature(7, "ebx", 23)),
    Row("CLWB", 0x0FAE, cache.cache_line, (P66,), None, 6, Form.MEMORY, Feature(7, "ebx", 24)),
    Row("TPAUSE", 0x0FAE, None, (P66,), None, 6, Form.REGISTER, WAITPKG),
    Row("UMONITOR", 0x0FAE, None, (PF3,), None, 6, Form.REGISTER, WAITPKG),
    Row("UMWAIT", 0x0FAE, None, (PF2,), None, 6, Form.REGISTER, WAITPKG),
    # MMX and vector registers
    Row("MOVD", 0x0F6E, vector.move_to_vector, (NP,), feature=MMX),
    Row("MOVD", 0x0F6E, vector.move_to_vector, (P66,), feature=SSE2),
    Row("MOVD", 0x0F7E, vector.move_from_vector, (NP,), feature=MMX),
    Row("MOVD", 0x0F7E, vector.move_from_vector, (P66,), feature=SSE2),
    Row("VZEROUPPER", 0x0F77, vector.vzero, (NP,), feature=AVX, vex=True),
    *_vector_moves(),
    # 0F 38
    Row("INVPCID", 0x0F3882, system.invpcid, (P66,), None, None, Form.MEMORY, Feature(7, "ebx", 10)),
    Row("INVPCID", 0x0F3882, system.undefined),
    Row("MOVBE", 0x0F38F0, system.undefined, (NP, P66, PF3), None, None, Form.REGISTER),
    Row("MOVBE", 0x0F38F1, system.undefined, (NP, P66, PF3), None, None, Form.REGISTER),
    Row("MOVBE", 0x0F38F0, None, (NP, P66), None, None, Form.MEMORY, Feature(1, "ecx", 22)),
    Row("MOVBE", 0x0F38F1, None, (NP, P66), None, None, Form.MEMORY, Feature(1, "ecx", 22)),
)

_TWO_BYTES_WITHOUT_MODRM = {0x0F77}
WITH_MODRM = frozenset(row.opcode for row in ROWS if row.opcode > 0xFF) - _TWO_BYTES_WITHOUT_MODRM
IMMEDIATE_BYTES = {0xCD: 1}


def find(instruction: Instruction) -> Row | None:
    """The row for `instruction`, None if there is none."""
    return next((row for row in ROWS if row.fits(instruction)), None)
