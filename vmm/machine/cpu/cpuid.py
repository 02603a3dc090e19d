# SPDX-License-Identifier: Apache-2.0
"""CPUID answers as plain data: one entry, a table of them, and the registers an entry has.

The layout of an entry is that of `struct kvm_cpuid_entry2` (api.rst 4.20 KVM_SET_CPUID2), without its
padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

MASK32 = 0xFFFF_FFFF
SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX (the kernel's spelling): ECX selects the sub-leaf

KVM_SIGNATURE = 0x4000_0000
KVM_FEATURES = 0x4000_0001
HYPERVISOR_TIMING = 0x4000_0010  # VMware's frequency leaf, which Linux guests read under KVM too
EXTENDED = 0x8000_0000

# Leaves whose answer depends on ECX (SDM 2A CPUID, APM 3 appendix E).
INDEXED_LEAVES = frozenset(
    {0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1B, 0x1D, 0x1E, 0x1F, 0x20, 0x24}
    | {0x8000_001D, 0x8000_0020, 0x8000_0026}
)


class Register(IntEnum):
    """An output register of CPUID, in the order of `kvm_cpuid_entry2`."""

    EAX = 0
    EBX = 1
    ECX = 2
    EDX = 3


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """The answer to CPUID with EAX = `function` and, where `flags` has `SIGNIFICANT_INDEX`, ECX = `index`."""

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0

    def register(self, register: Register) -> int:
        return (self.eax, self.ebx, self.ecx, self.edx)[register]

    def with_register(self, register: Register, value: int) -> CpuidEntry:
        """A copy with one output register replaced."""
        values = [self.eax, self.ebx, self.ecx, self.edx]
        values[register] = value
        return replace(self, eax=values[0], ebx=values[1], ecx=values[2], edx=values[3])

    def __str__(self) -> str:
        return (
            f"{self.function:#010x}.{self.index}: "
            f"eax={self.eax:#010x} ebx={self.ebx:#010x} ecx={self.ecx:#010x} edx={self.edx:#010x}"
        )


def entry(
    function: int, index: int = 0, *, eax: int = 0, ebx: int = 0, ecx: int = 0, edx: int = 0
) -> CpuidEntry:
    """An entry whose `flags` say what `function` needs."""
    flags = SIGNIFICANT_INDEX if function in INDEXED_LEAVES else 0
    return CpuidEntry(function, index, flags, eax & MASK32, ebx & MASK32, ecx & MASK32, edx & MASK32)


class CpuidTable:
    """Entries found by leaf and sub-leaf. A missing entry reads as zeros, as a real CPU's reserved leaf
    does.
    """

    def __init__(self, entries: Iterable[CpuidEntry] = ()) -> None:
        self._entries: dict[tuple[int, int], CpuidEntry] = {}
        for item in entries:
            self.add(item)

    def add(self, item: CpuidEntry) -> None:
        self._entries[item.function, item.index if item.flags & SIGNIFICANT_INDEX else 0] = item

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[CpuidEntry]:
        return iter(self._entries.values())

    def get(self, function: int, index: int = 0) -> CpuidEntry:
        found = self._entries.get((function, index))
        return found if found is not None else entry(function, index)

    def value(self, function: int, index: int, register: Register) -> int:
        return self.get(function, index).register(register)

    def subleaves(self, function: int) -> list[CpuidEntry]:
        """All entries of a leaf, by sub-leaf."""
        return sorted((e for e in self._entries.values() if e.function == function), key=lambda e: e.index)

    def limit(self, base: int) -> int:
        """The highest leaf that the leaf `base` (0 or `EXTENDED`) announces; 0 when there is no such leaf."""
        return self.get(base).eax if (base, 0) in self._entries else 0


def pack_text(text: str, size: int) -> list[int]:
    """`text` as little-endian 32-bit words, cut or padded with NUL to `size` bytes."""
    raw = text.encode("ascii", "replace")[:size].ljust(size, b"\0")
    return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, size, 4)]


def vendor_words(vendor: str) -> tuple[int, int, int]:
    """(EBX, ECX, EDX) of leaf 0 for a 12-character vendor string."""
    first, second, third = pack_text(vendor, 12)
    return first, third, second


def vendor_of(table: CpuidTable) -> str:
    """The vendor string of leaf 0; empty when the table has no leaf 0."""
    leaf = table.get(0)
    raw = b"".join(word.to_bytes(4, "little") for word in (leaf.ebx, leaf.edx, leaf.ecx))
    return raw.decode("ascii", "replace").strip("\0")


def brand_of(table: CpuidTable) -> str:
    """The processor name of leaves 0x80000002-4; empty when they hold none (KVM reports none)."""
    leaves = [table.get(function) for function in (0x8000_0002, 0x8000_0003, 0x8000_0004)]
    raw = b"".join(word.to_bytes(4, "little") for e in leaves for word in (e.eax, e.ebx, e.ecx, e.edx))
    return raw.split(b"\0")[0].decode("ascii", "replace").strip()


def brand_entries(brand: str) -> list[CpuidEntry]:
    """Leaves 0x80000002-4 for a processor name; 47 characters and a NUL fit."""
    words = pack_text(brand[:47], 48)
    return [
        entry(
            0x8000_0002 + i,
            eax=words[4 * i],
            ebx=words[4 * i + 1],
            ecx=words[4 * i + 2],
            edx=words[4 * i + 3],
        )
        for i in range(3)
    ]


def signature(family: int, model: int, stepping: int) -> int:
    """EAX of leaf 1 from display family, model and stepping (SDM 2A, figure 3-6)."""
    extended_family = max(family - 0xF, 0)
    return (
        (extended_family & 0xFF) << 20
        | (model >> 4 & 0xF) << 16
        | min(family, 0xF) << 8
        | (model & 0xF) << 4
        | (stepping & 0xF)
    )


def family_model_stepping(eax: int) -> tuple[int, int, int]:
    """Display family, model and stepping from EAX of leaf 1."""
    family = eax >> 8 & 0xF
    model = eax >> 4 & 0xF
    if family in (0x6, 0xF):
        model |= (eax >> 16 & 0xF) << 4
    if family == 0xF:
        family += eax >> 20 & 0xFF
    return family, model, eax & 0xF
