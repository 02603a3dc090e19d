# SPDX-License-Identifier: Apache-2.0
"""The instructions that are carried out here, as data. The first row that fits an encoding counts.

A row whose CPUID bit the guest is not shown gives #UD, which is all that most rows are for: KVM's emulator says
"unknown" where a processor says "undefined". A row without handler says only that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vmm.backend.emulation import cache, software_interrupts, system
from vmm.backend.emulation.decode import Instruction
from vmm.backend.emulation.processor import Feature, Processor

Handler = Callable[[Processor, Instruction], None]


class Form(Enum):
    """What ModRM must look like."""

    ANY = "any"
    MEMORY = "memory operand"
    REGISTER = "register operand"


NP, P66, PF2, PF3 = 0, 0x66, 0xF2, 0xF3
IGNORED = (NP, P66, PF2, PF3)


@dataclass(frozen=True, slots=True)
class Row:
    """An encoding and what it does.

    prefixes: the mandatory prefixes it may have (`Instruction.prefix`). modrm: the whole byte, where one byte is
    one instruction. reg: ModRM.reg. feature: the CPUID bit without which it is #UD. handler None: declined where
    the guest is shown the feature. LOCK is #UD for all of them.
    """

    name: str
    opcode: int
    handler: Handler | None
    prefixes: tuple[int, ...] = IGNORED
    modrm: int | None = None
    reg: int | None = None
    form: Form = Form.ANY
    feature: Feature | None = None

    def fits(self, instruction: Instruction) -> bool:
        """Whether this row describes `instruction`."""
        if self.opcode != instruction.opcode or instruction.prefix not in self.prefixes:
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
WAITPKG = Feature(7, "ecx", 5)

ROWS = (
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
    # 0F AE
    Row("CLFLUSH", 0x0FAE, cache.cache_line, (NP,), None, 7, Form.MEMORY, Feature(1, "edx", 19)),
    Row("CLFLUSHOPT", 0x0FAE, cache.cache_line, (P66,), None, 7, Form.MEMORY, Feature(7, "ebx", 23)),
    Row("CLWB", 0x0FAE, cache.cache_line, (P66,), None, 6, Form.MEMORY, Feature(7, "ebx", 24)),
    Row("TPAUSE", 0x0FAE, None, (P66,), None, 6, Form.REGISTER, WAITPKG),
    Row("UMONITOR", 0x0FAE, None, (PF3,), None, 6, Form.REGISTER, WAITPKG),
    Row("UMWAIT", 0x0FAE, None, (PF2,), None, 6, Form.REGISTER, WAITPKG),
    # 0F 38
    Row("INVPCID", 0x0F3882, system.invpcid, (P66,), None, None, Form.MEMORY, Feature(7, "ebx", 10)),
    Row("INVPCID", 0x0F3882, system.undefined),
    Row("MOVBE", 0x0F38F0, system.undefined, (NP, P66, PF3), None, None, Form.REGISTER),
    Row("MOVBE", 0x0F38F1, system.undefined, (NP, P66, PF3), None, None, Form.REGISTER),
    Row("MOVBE", 0x0F38F0, None, (NP, P66), None, None, Form.MEMORY, Feature(1, "ecx", 22)),
    Row("MOVBE", 0x0F38F1, None, (NP, P66), None, None, Form.MEMORY, Feature(1, "ecx", 22)),
)

WITH_MODRM = frozenset(row.opcode for row in ROWS if row.opcode > 0xFF)
IMMEDIATE_BYTES = {0xCD: 1}


def find(instruction: Instruction) -> Row | None:
    """The row for `instruction`, None if there is none."""
    return next((row for row in ROWS if row.fits(instruction)), None)
