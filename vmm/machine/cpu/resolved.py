# SPDX-License-Identifier: Apache-2.0
"""A processor that has been decided on, and the CPUID entries each of its vCPUs gets.

All-zero leaves are left out: KVM answers zeros for what is missing, and searches its list from the front.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmm.machine.cpu import caches
from vmm.machine.cpu.cpuid import (
    EXTENDED,
    HYPERVISOR_TIMING,
    KVM_FEATURES,
    KVM_SIGNATURE,
    CpuidEntry,
    CpuidTable,
    Register,
    brand_entries,
    entry,
    vendor_words,
)
from vmm.machine.cpu.models import AMD_FAMILY
from vmm.machine.cpu.select import AMD_ALIASES, Selection
from vmm.machine.cpu.topology import (
    Topology,
    amd_identifiers,
    amd_size_identifiers,
    leaf1_ebx,
    x2apic_leaves,
)
from vmm.machine.cpu.xsave import xsave_leaves

EAX, EBX, ECX, EDX = Register.EAX, Register.EBX, Register.ECX, Register.EDX

KVM_SIGNATURE_TEXT = "KVMKVMKVM"
HYPERVISOR_STEP = 0x100  # between the leaves of one hypervisor interface and the next
APIC_BUS_KHZ = 1_000_000  # KVM's local APIC timer counts nanoseconds
CLFLUSH_QWORDS = caches.LINE_SIZE // 8
FEATURE_HT = 1 << 28  # leaf 1 EDX: more than one logical processor per package
FEATURE_CMP_LEGACY = 1 << 1  # leaf 0x80000001 ECX: the same, for AMD processors
LEAF2_USE_LEAF4 = 0xFF01  # SDM 2A table 3-12: descriptor 0xFF sends software to leaf 4; AL is 1
MAX_INITIAL_APIC_ID = 0xFE  # the 8-bit field of leaf 1; 0xFF means broadcast

# Leaves handed on as KVM reports them when the guest has the feature.
FEATURE_LEAVES: dict[str, tuple[int, ...]] = {
    "monitor": (0x5,),
    "sgx": (0x12,),
    "intel-pt": (0x14,),
    "amx-tile": (0x1D, 0x1E),
    "avx10": (0x24,),
    "ibs": (0x8000_001B,),
    "perfmon-v2": (0x8000_0022,),
}
# Facts about the host's processor that need no feature bit; for `host` and `max` only.
HOST_LEAVES = (0x15, 0x16, 0x8000_0019, 0x8000_001A)


@dataclass(frozen=True, slots=True)
class ResolvedCpu:
    """A processor, decided: equal for all vCPUs of a machine.

    passthrough: the model is `host` or `max`. host_caches: the caches are the host's, not the model's.
    hyperv: leaves from 0x40000000 on that announce the Hyper-V interface; KVM's own then begin 0x100 later.
    tsc_khz is what to give to KVM_SET_TSC_KHZ, None to leave the host's frequency.
    """

    vendor: str
    identity: int
    brand: str
    level: int
    xlevel: int
    phys_bits: int
    guest_phys_bits: int
    pmu: bool
    kvm: bool
    passthrough: bool
    host_caches: bool
    selection: Selection
    caches: caches.CacheSet
    supported: CpuidTable
    msrs: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]
    tsc_khz: int | None
    announced_tsc_khz: int | None
    hyperv: tuple[CpuidEntry, ...] = ()

    @property
    def amd(self) -> bool:
        return self.vendor in AMD_FAMILY

    def has(self, feature: str) -> bool:
        return feature in self.selection.names

    def word(self, leaf: int, register: Register, subleaf: int = 0) -> int:
        return self.selection.word(leaf, subleaf, register)

    def entries(self, topology: Topology, apic_id: int) -> tuple[CpuidEntry, ...]:
        """The CPUID entries of the vCPU with `apic_id`."""
        level = self.level
        if max(apic_id, topology.apic_id(topology.cpus - 1)) > MAX_INITIAL_APIC_ID:
            level = max(level, 0xB)  # the only leaf wide enough to tell the vCPU its id
        leaves = [
            *self._basic(topology, apic_id, level),
            *self._extended(topology, apic_id),
            *self._passed_on(),
        ]
        limits = {0x0: level, 0x8: self.xlevel}
        kept = [e for e in leaves if e.function <= limits.get(e.function >> 28, 0) and _says_something(e)]
        return (*kept, *self._hypervisor())

    def _basic(self, topology: Topology, apic_id: int, level: int) -> list[CpuidEntry]:
        ebx, ecx, edx = vendor_words(self.vendor)
        clflush = CLFLUSH_QWORDS if self.has("clflush") else 0
        threads = FEATURE_HT if topology.threads_per_package > 1 else 0
        leaves = [
            entry(0x0, eax=level, ebx=ebx, ecx=ecx, edx=edx),
            entry(
                0x1,
                eax=self.identity,
                ebx=leaf1_ebx(topology, apic_id, clflush),
                ecx=self.word(0x1, ECX),
                edx=self.word(0x1, EDX) & ~FEATURE_HT | threads,
            ),
            entry(0x6, eax=self.word(0x6, EAX)),
            *self._leaf7(),
            *x2apic_leaves(topology, apic_id, 0xB),
            *xsave_leaves(self.supported, self.selection.names),
        ]
        if self.pmu:
            leaves.append(self.supported.get(0xA))
        if not self.amd:
            leaves += self._deterministic(topology, 0x4)
            host_leaf2 = self.supported.get(0x2)
            leaves.append(
                host_leaf2 if self.host_caches and host_leaf2.eax else entry(0x2, eax=LEAF2_USE_LEAF4)
            )
            leaves += x2apic_leaves(topology, apic_id, 0x1F)
        return leaves

    def _leaf7(self) -> list[CpuidEntry]:
        one = entry(0x7, 1, eax=self.word(0x7, EAX, 1), edx=self.word(0x7, EDX, 1))
        two = entry(0x7, 2, edx=self.word(0x7, EDX, 2))
        last = 2 if two.edx else 1 if one.eax | one.edx else 0
        zero = entry(
            0x7, 0, eax=last, ebx=self.word(0x7, EBX), ecx=self.word(0x7, ECX), edx=self.word(0x7, EDX)
        )
        return [zero, one, two]

    def _extended(self, topology: Topology, apic_id: int) -> list[CpuidEntry]:
        ebx, ecx, edx = vendor_words(self.vendor)
        package_type = self.supported.get(0x8000_0001).ebx if self.passthrough else 0
        several = self.amd and topology.threads_per_package > 1
        leaves = [
            entry(EXTENDED, eax=self.xlevel, ebx=ebx, ecx=ecx, edx=edx),
            entry(
                0x8000_0001,
                eax=self.identity,
                ebx=package_type,
                ecx=self.word(0x8000_0001, ECX) & ~FEATURE_CMP_LEGACY | several * FEATURE_CMP_LEGACY,
                edx=self.word(0x8000_0001, EDX) | self.amd * (self.word(0x1, EDX) & AMD_ALIASES),
            ),
            *brand_entries(self.brand),
            entry(0x8000_0007, ebx=self.word(0x8000_0007, EBX), edx=self.word(0x8000_0007, EDX)),
            entry(
                0x8000_0008,
                eax=self.guest_phys_bits << 16 | (57 if self.has("la57") else 48) << 8 | self.phys_bits,
                ebx=self.word(0x8000_0008, EBX),
                ecx=amd_size_identifiers(topology) if self.amd else 0,
            ),
            entry(0x8000_0021, eax=self.word(0x8000_0021, EAX), ecx=self.word(0x8000_0021, ECX)),
        ]
        if self.has("svm"):
            host_svm = self.supported.get(0x8000_000A)
            leaves.append(
                entry(0x8000_000A, eax=host_svm.eax, ebx=host_svm.ebx, edx=self.word(0x8000_000A, EDX))
            )
        if not self.amd:
            l2 = caches.amd_legacy_leaves(self.caches)[1].ecx
            return [*leaves, entry(0x8000_0006, ecx=l2)]
        host_caches = [self.supported.get(0x8000_0005), self.supported.get(0x8000_0006)]
        known = self.host_caches and all(e.ecx for e in host_caches)
        leaves += host_caches if known else caches.amd_legacy_leaves(self.caches)
        if self.has("topoext"):
            leaves += [*self._deterministic(topology, 0x8000_001D), amd_identifiers(topology, apic_id)]
        return leaves

    def _deterministic(self, topology: Topology, function: int) -> list[CpuidEntry]:
        """Leaf 4 or 0x8000001D: the host's caches for `host`/`max` where KVM reports them, else the
        model's.
        """
        host = self.supported.subleaves(function)
        if not self.host_caches or not any(e.eax & 0x1F for e in host):
            return caches.deterministic_leaves(self.caches, topology, function)
        return [
            e.with_register(EAX, caches.share(e.eax, topology, function)) if e.eax & 0x1F else e for e in host
        ]

    def _passed_on(self) -> list[CpuidEntry]:
        functions = [f for name, leaves in FEATURE_LEAVES.items() if self.has(name) for f in leaves]
        if self.passthrough:
            functions += HOST_LEAVES
        return [e for function in functions for e in self.supported.subleaves(function)]

    def _hypervisor(self) -> list[CpuidEntry]:
        """The Hyper-V interface's leaves, and KVM's own, which are found by their signature (cpuid.rst)."""
        if not self.kvm:
            return list(self.hyperv)
        base = HYPERVISOR_STEP if self.hyperv else 0
        ebx, edx, ecx = vendor_words(KVM_SIGNATURE_TEXT)
        leaves = [
            entry(KVM_SIGNATURE + base, eax=KVM_FEATURES + base, ebx=ebx, ecx=ecx, edx=edx),
            entry(KVM_FEATURES + base, eax=self.word(KVM_FEATURES, EAX), edx=self.word(KVM_FEATURES, EDX)),
        ]
        if self.announced_tsc_khz and not self.hyperv:
            leaves[0] = leaves[0].with_register(EAX, HYPERVISOR_TIMING)
            leaves.append(entry(HYPERVISOR_TIMING, eax=self.announced_tsc_khz, ebx=APIC_BUS_KHZ))
        return [*self.hyperv, *leaves]


def _says_something(item: CpuidEntry) -> bool:
    """True unless the entry equals what KVM answers without it."""
    return bool(item.eax | item.ebx | item.ecx | item.edx)
