# SPDX-License-Identifier: Apache-2.0
"""Cache descriptions and the four CPUID leaves that carry them: 4 (Intel), 0x80000005, 6 and 1D (AMD)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from vmm.machine.cpu.cpuid import CpuidEntry, entry
from vmm.machine.cpu.topology import Topology

KIB = 1024
MIB = 1024 * KIB
LINE_SIZE = 64

# TLB sizes of leaves 0x80000005/6; no guest behaviour depends on them. APM 3: associativity 0xFF and 0xF is
# full.
L1_TLB = 0xFF40_FF40  # 64 entries each, fully associative, data then instruction
L2_TLB_4K = 0x4200_4200  # 512 entries each, 4-way
ASSOCIATIVITY = {1: 1, 2: 2, 4: 4, 8: 6, 16: 8, 32: 0xA, 48: 0xB, 64: 0xC, 96: 0xD, 128: 0xE}


class CacheKind(IntEnum):
    """EAX bits 4:0 of leaf 4."""

    DATA = 1
    INSTRUCTION = 2
    UNIFIED = 3


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache; `size_bytes` is that of one instance."""

    level: int
    kind: CacheKind
    size_bytes: int
    ways: int
    inclusive: bool = False

    @property
    def sets(self) -> int:
        return self.size_bytes // (self.ways * LINE_SIZE)


CacheSet = tuple[Cache, Cache, Cache, Cache]  # L1 data, L1 instruction, L2, L3


def _cache_set(
    l1d: tuple[int, int], l1i: tuple[int, int], l2: tuple[int, int], l3: tuple[int, int]
) -> CacheSet:
    """From (KiB, ways) per cache."""
    return (
        Cache(1, CacheKind.DATA, l1d[0] * KIB, l1d[1]),
        Cache(1, CacheKind.INSTRUCTION, l1i[0] * KIB, l1i[1]),
        Cache(2, CacheKind.UNIFIED, l2[0] * KIB, l2[1]),
        Cache(3, CacheKind.UNIFIED, l3[0] * KIB, l3[1], inclusive=True),
    )


INTEL_CACHES = _cache_set((32, 8), (32, 8), (4096, 16), (16384, 16))
AMD_CACHES = _cache_set((64, 2), (64, 2), (512, 16), (16384, 16))
EPYC_CACHES = _cache_set((32, 8), (64, 4), (512, 8), (8192, 16))
ROME_CACHES = _cache_set((32, 8), (32, 8), (512, 8), (16384, 16))
MILAN_CACHES = _cache_set((32, 8), (32, 8), (512, 8), (32768, 16))


def _sharing(level: int, topology: Topology) -> int:
    """APIC ids that share a cache of `level`, less one: level 3 serves a socket, the others a core."""
    bits = topology.package_shift if level >= 3 else topology.thread_bits
    return min((1 << bits) - 1, 0xFFF)


def _core_ids(topology: Topology) -> int:
    """EAX bits 31:26 of leaf 4: addressable core ids in a package, less one."""
    return min((1 << topology.package_shift - topology.thread_bits) - 1, 0x3F)


def deterministic_leaves(caches: CacheSet, topology: Topology, function: int) -> list[CpuidEntry]:
    """Leaf 4 (Intel) or 0x8000001D (AMD) for `caches`, with the terminating sub-leaf."""
    leaves = []
    for index, cache in enumerate(caches):
        eax = cache.kind | cache.level << 5 | 1 << 8  # bit 8: self-initialising
        leaves.append(
            entry(
                function,
                index,
                eax=share(eax, topology, function),
                ebx=LINE_SIZE - 1 | cache.ways - 1 << 22,
                ecx=cache.sets - 1,
                edx=cache.inclusive << 1,
            )
        )
    return [*leaves, entry(function, len(caches))]


def share(eax: int, topology: Topology, function: int) -> int:
    """EAX of leaf 4 or 0x8000001D with the guest's sharing counts in place of those it has."""
    eax &= 0x3FFF
    eax |= _sharing(eax >> 5 & 7, topology) << 14
    return eax | _core_ids(topology) << 26 if function == 4 else eax


def amd_legacy_leaves(caches: CacheSet) -> list[CpuidEntry]:
    """Leaves 0x80000005 and 0x80000006 (APM 3, appendix E.4.4 and E.4.5)."""
    l1d, l1i, l2, l3 = caches

    def l1(cache: Cache) -> int:
        return cache.size_bytes // KIB << 24 | cache.ways << 16 | 1 << 8 | LINE_SIZE

    return [
        entry(0x8000_0005, eax=L1_TLB, ebx=L1_TLB, ecx=l1(l1d), edx=l1(l1i)),
        entry(
            0x8000_0006,
            ebx=L2_TLB_4K,
            ecx=l2.size_bytes // KIB << 16 | ASSOCIATIVITY[l2.ways] << 12 | 1 << 8 | LINE_SIZE,
            edx=l3.size_bytes // (512 * KIB) << 18 | ASSOCIATIVITY[l3.ways] << 12 | 1 << 8 | LINE_SIZE,
        ),
    ]
