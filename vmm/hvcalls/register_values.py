# SPDX-License-Identifier: Apache-2.0
"""Which values a VP register can hold: reserved, fixed and out-of-size bits (TLFS 7.10.1, SDM volume 3).

`settled` gives the value as the processor would hold it, or None where it is refused. It looks at one register alone;
what registers ask of each other is `vmm.hvcalls.initial_context`'s for a whole context, and KVM's for a single one.
Features that the processor model lacks are KVM's to refuse too.

Implements: REG-012
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmm.hv.register_bits import HV_X64_SEGMENT_ATTRIBUTES
from vmm.hv.registers import HvRegisterName
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER, HV_X64_TABLE_REGISTER

LOW_32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1

CR0_PE, CR0_ET, CR0_NW, CR0_CD, CR0_PG = 1 << 0, 1 << 4, 1 << 29, 1 << 30, 1 << 31
CR0_DEFINED: Final = 0xE005003F
"""PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG."""
CR4_PAE, CR4_LA57, CR4_PCIDE = 1 << 5, 1 << 12, 1 << 17
CR4_DEFINED: Final = 0x03F77FFF
"""Bits 25:0 without bit 15, which no processor has, and bit 19, Key Locker's."""
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1 << 0, 1 << 8, 1 << 10, 1 << 11
EFER_DEFINED: Final = sum(1 << bit for bit in (0, 8, *range(10, 16), 17, 18, 20, 21))
"""SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE (AMD's volume 2, 3.1.7)."""
RFLAGS_FIXED: Final = 1 << 1
RFLAGS_VM: Final = 1 << 17
RFLAGS_DEFINED: Final = 0x003F7FD7
_PAT_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))
_ATTRIBUTES_RESERVED: Final = HV_X64_SEGMENT_ATTRIBUTES.Reserved.mask
_VIRTUAL_BITS, _VIRTUAL_BITS_LA57 = 48, 57


@dataclass(frozen=True, slots=True)
class Widths:
    """Widths of a processor model's addresses, in bits."""

    physical: int = 52
    virtual: int = _VIRTUAL_BITS_LA57
    """48, or 57 with 5-level paging."""

    def under(self, cr4: int) -> Widths:
        """The widths that count while CR4 has this value: without LA57 an address has 48 bits."""
        if cr4 & CR4_LA57:
            return self
        return Widths(self.physical, min(self.virtual, _VIRTUAL_BITS))

    def canonical(self, address: int) -> bool:
        """Whether all bits from the highest implemented one on are equal."""
        return address >> self.virtual - 1 in (0, (1 << 65 - self.virtual) - 1)


_Rule = Callable[[int, Widths], int | None]


def _cr0(value: int, widths: Widths) -> int | None:
    """Reserved bits of the low half are ignored, as real processors and hypervisors do."""
    if value >> 32 or (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        return None
    return value & CR0_DEFINED | CR0_ET


def _physical(value: int, widths: Widths) -> int | None:
    return value if value >> widths.physical == 0 else None


def _canonical(value: int, widths: Widths) -> int | None:
    return value if widths.canonical(value) else None


def _within(mask: int, fixed: int = 0) -> _Rule:
    return lambda value, widths: value | fixed if value & ~mask == 0 else None


def _pat(value: int, widths: Widths) -> int | None:
    return value if all(byte in _PAT_TYPES for byte in value.to_bytes(8, "little")) else None


def _segment(value: int, widths: Widths) -> int | None:
    return None if value >> 112 & _ATTRIBUTES_RESERVED else value


def _long_segment(value: int, widths: Widths) -> int | None:
    """FS and GS, LDTR and TR have a 64-bit base."""
    return _segment(value, widths) if widths.canonical(value & U64) else None


def _table(value: int, widths: Widths) -> int | None:
    return value if widths.canonical(value >> 64) else None


_N = HvRegisterName
_RULES: Final[dict[int, _Rule]] = {
    _N.HvX64RegisterRip: _canonical,
    _N.HvX64RegisterRflags: _within(RFLAGS_DEFINED, RFLAGS_FIXED),
    _N.HvX64RegisterCr0: _cr0,
    _N.HvX64RegisterCr3: _physical,
    _N.HvX64RegisterCr4: _within(CR4_DEFINED),
    _N.HvX64RegisterCr8: _within(0xF),
    _N.HvX64RegisterDr6: _within(LOW_32),
    _N.HvX64RegisterDr7: _within(LOW_32),
    _N.HvX64RegisterEs: _segment,
    _N.HvX64RegisterCs: _segment,
    _N.HvX64RegisterSs: _segment,
    _N.HvX64RegisterDs: _segment,
    _N.HvX64RegisterFs: _long_segment,
    _N.HvX64RegisterGs: _long_segment,
    _N.HvX64RegisterLdtr: _long_segment,
    _N.HvX64RegisterTr: _long_segment,
    _N.HvX64RegisterIdtr: _table,
    _N.HvX64RegisterGdtr: _table,
    _N.HvX64RegisterEfer: _within(EFER_DEFINED),
    _N.HvX64RegisterKernelGsBase: _canonical,
    _N.HvX64RegisterApicBase: _physical,
    _N.HvX64RegisterPat: _pat,
    _N.HvX64RegisterSysenterEip: _canonical,
    _N.HvX64RegisterSysenterEsp: _canonical,
    _N.HvX64RegisterLstar: _canonical,
    _N.HvX64RegisterCstar: _canonical,
    _N.HvX64RegisterSfmask: _within(LOW_32),
    _N.HvX64RegisterTscAux: _within(LOW_32),
}


def settled(register: int, value: int, widths: Widths) -> int | None:
    """`value` (up to 128 bits, `HV_REGISTER_VALUE`) as `register` would hold it; None: refused.

    Bits beyond the register's size must be zero. A register without a rule takes every value of its size.
    """
    name = HvRegisterName.of(register)
    if isinstance(name, HvRegisterName) and value & ~name.value_type.value_mask:
        return None
    rule = _RULES.get(register)
    return value if rule is None else rule(value, widths)


def segment_number(segment: HV_X64_SEGMENT_REGISTER) -> int:
    """A segment register as the number that its 16 bytes are."""
    return int.from_bytes(segment.pack(), "little")


def table_number(table: HV_X64_TABLE_REGISTER) -> int:
    """GDTR or IDTR as the number that its 16 bytes are."""
    return int.from_bytes(table.pack(), "little")
