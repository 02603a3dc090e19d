# SPDX-License-Identifier: Apache-2.0
"""From a CPU description to the entries of KVM_SET_CPUID2 and the MSRs that go with them.

`resolve_cpu` decides once per machine what the processors are; `ResolvedCpu.entries` writes that down for
one vCPU. All-zero leaves are left out: KVM answers zeros for what is missing, and searches its list from
the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    brand_of,
    entry,
    family_model_stepping,
    signature,
    vendor_of,
    vendor_words,
)
from vmm.machine.cpu.features import MSR_ARCH_CAPABILITIES, WORDS
from vmm.machine.cpu.models import AMD_FAMILY, MODELS
from vmm.machine.cpu.select import AMD_ALIASES, Selection, select_features
from vmm.machine.cpu.spec import CpuSpec
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
DEFAULT_PHYS_BITS = 40  # of named models, as QEMU gives them: 1 TiB
APIC_BUS_KHZ = 1_000_000  # KVM's local APIC timer counts nanoseconds
CLFLUSH_QWORDS = caches.LINE_SIZE // 8
LEAF2_USE_LEAF4 = 0xFF01  # SDM 2A table 3-12: descriptor 0xFF sends software to leaf 4; AL is 1
MAX_INITIAL_APIC_ID = 0xFE  # the 8-bit field of leaf 1; 0xFF means broadcast

MSR_UCODE_REV = 0x8B
MSR_FEATURE_CONTROL = 0x3A
FEATURE_CONTROL_VMX = 0b101  # locked, VMX outside SMX: what a BIOS leaves behind

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
class CpuModelResult:
    """What one vCPU gets. `msrs` are (index, value) for KVM_SET_MSRS after KVM_SET_CPUID2."""

    entries: tuple[CpuidEntry, ...]
    warnings: tuple[str, ...]
    msrs: tuple[tuple[int, int], ...]
    tsc_khz: int | None


@dataclass(frozen=True, slots=True)
class ResolvedCpu:
    """A processor, decided: equal for all vCPUs of a machine.

    passthrough: the model is `host` or `max`. host_caches: the caches are the host's, not the model's.
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
        """KVM's own leaves. KVM finds its feature word through the signature (cpuid.rst)."""
        if not self.kvm:
            return []
        ebx, edx, ecx = vendor_words(KVM_SIGNATURE_TEXT)
        leaves = [
            entry(KVM_SIGNATURE, eax=KVM_FEATURES, ebx=ebx, ecx=ecx, edx=edx),
            entry(KVM_FEATURES, eax=self.word(KVM_FEATURES, EAX), edx=self.word(KVM_FEATURES, EDX)),
        ]
        if self.announced_tsc_khz:
            leaves[0] = leaves[0].with_register(EAX, HYPERVISOR_TIMING)
            leaves.append(entry(HYPERVISOR_TIMING, eax=self.announced_tsc_khz, ebx=APIC_BUS_KHZ))
        return leaves


FEATURE_HT = 1 << 28  # leaf 1 EDX: more than one logical processor per package
FEATURE_CMP_LEGACY = 1 << 1  # leaf 0x80000001 ECX: the same, for AMD processors


def _says_something(item: CpuidEntry) -> bool:
    """True unless the entry equals what KVM answers without it."""
    return bool(item.eax | item.ebx | item.ecx | item.edx)


def _level(base: int, wanted: int | None, floor: int, selection: Selection, *extra: int) -> int:
    """The highest leaf of a range: what the user says, else the model's, raised to the highest leaf in
    use.
    """
    if wanted is not None:
        return wanted
    used = [w.leaf for w in WORDS if selection.words[w.key] and w.leaf >> 28 == base >> 28]
    return max(floor, *used, *extra)


def _phys_bits(spec: CpuSpec, supported: CpuidTable) -> tuple[int, int, list[str]]:
    """(physical address bits, guest-physical bits field, warnings)."""
    size = supported.get(0x8000_0008).eax
    host = size & 0xFF or 36
    from_host = spec.host_phys_bits if spec.host_phys_bits is not None else spec.model not in MODELS
    if spec.phys_bits:
        warnings = []
        if spec.phys_bits > host:
            warnings = [f"phys-bits={spec.phys_bits} is more than the {host} bits this host translates"]
        return spec.phys_bits, 0, warnings
    if not from_host:
        return min(DEFAULT_PHYS_BITS, host), 0, []
    limit = spec.host_phys_bits_limit
    bits = min(host, limit) if limit else host
    return bits, min(size >> 16 & 0xFF, bits), []


def resolve_cpu(
    spec: CpuSpec,
    supported: Sequence[CpuidEntry],
    host: Sequence[CpuidEntry] | None = None,
    *,
    feature_msrs: Mapping[int, int] | None = None,
    tsc_deadline: bool = True,
    tsc_khz: int | None = None,
) -> ResolvedCpu:
    """Decide what processor `spec` is on this host.

    supported: KVM_GET_SUPPORTED_CPUID. host: what the CPUID instruction says (only the brand, leaves
    0x80000002-4, is taken, since KVM reports none). feature_msrs: the feature MSRs that KVM both reports
    and lets the VMM set; None means unknown. tsc_deadline: KVM_CAP_TSC_DEADLINE_TIMER. tsc_khz: the
    frequency guests will see, announced when it cannot change. Raises `CpuSpecError` for `enforce` with
    something missing.
    """
    table = CpuidTable(supported)
    model = MODELS.get(spec.model)
    passthrough = model is None
    # A guest's SYSCALL and SYSENTER behave as the host's vendor built them, so that vendor is the default
    # (QEMU too).
    vendor = spec.vendor or vendor_of(table)
    pmu = spec.pmu if spec.pmu is not None else passthrough
    selection = select_features(
        spec, table, vendor, tsc_deadline=tsc_deadline, pmu=pmu, feature_msrs=feature_msrs
    )

    if model is None:
        family, number, stepping = family_model_stepping(table.get(1).eax)
        brand = brand_of(CpuidTable(host or ())) or brand_of(table)
        floor, xfloor = table.limit(0), max(table.limit(EXTENDED), 0x8000_0008)
        described = None
    else:
        family, number, stepping = model.family, model.model, model.stepping
        brand, floor, xfloor, described = model.brand, model.level, model.xlevel, model.caches

    phys_bits, guest_phys_bits, warnings = _phys_bits(spec, table)
    if spec.hyperv:
        warnings.append(f"Hyper-V interface not offered yet, ignored: {', '.join(sorted(spec.hyperv))}")
    warnings += [f"CPU option '{item}' has no effect here" for item in spec.unsupported]
    has = selection.names.__contains__
    needed = [0x0, *([0xA] if pmu and table.get(0xA).eax else []), *([0xD] if has("xsave") else [])]
    needed += [f for name, leaves in FEATURE_LEAVES.items() if has(name) for f in leaves if f < EXTENDED]
    xneeded = [0x8000_001E] if has("topoext") else [EXTENDED]
    stable = has("invtsc") or spec.tsc_hz is not None
    wanted_khz = spec.tsc_hz // 1000 if spec.tsc_hz else None
    return ResolvedCpu(
        vendor=vendor,
        identity=signature(
            family if spec.family is None else spec.family,
            number if spec.model_number is None else spec.model_number,
            stepping if spec.stepping is None else spec.stepping,
        ),
        brand=brand if spec.brand is None else spec.brand,
        level=_level(0, spec.level, floor, selection, *needed),
        xlevel=_level(EXTENDED, spec.xlevel, xfloor, selection, *xneeded),
        phys_bits=phys_bits,
        guest_phys_bits=guest_phys_bits,
        pmu=pmu,
        kvm=spec.kvm,
        passthrough=passthrough,
        host_caches=passthrough if spec.host_cache_info is None else spec.host_cache_info,
        selection=selection,
        caches=described or (caches.AMD_CACHES if vendor in AMD_FAMILY else caches.INTEL_CACHES),
        supported=table,
        msrs=_msrs(spec, selection, feature_msrs or {}, passthrough),
        warnings=(*selection.warnings, *warnings),
        tsc_khz=wanted_khz,
        announced_tsc_khz=(wanted_khz or tsc_khz) if stable else None,
    )


def _msrs(
    spec: CpuSpec, selection: Selection, feature_msrs: Mapping[int, int], passthrough: bool
) -> tuple[tuple[int, int], ...]:
    msrs = []
    if "arch-capabilities" in selection.names and MSR_ARCH_CAPABILITIES in feature_msrs:
        msrs.append((MSR_ARCH_CAPABILITIES, selection.arch_capabilities))
    if "vmx" in selection.names:
        msrs.append((MSR_FEATURE_CONTROL, FEATURE_CONTROL_VMX))
    if spec.ucode_rev is not None:
        msrs.append((MSR_UCODE_REV, spec.ucode_rev))
    elif passthrough and MSR_UCODE_REV in feature_msrs:
        msrs.append((MSR_UCODE_REV, feature_msrs[MSR_UCODE_REV]))
    return tuple(msrs)


def build_cpuid(
    spec: CpuSpec,
    supported: Sequence[CpuidEntry],
    host: Sequence[CpuidEntry] | None,
    topology: Topology,
    apic_id: int,
    *,
    feature_msrs: Mapping[int, int] | None = None,
    tsc_deadline: bool = True,
    tsc_khz: int | None = None,
) -> CpuModelResult:
    """`resolve_cpu` and `ResolvedCpu.entries` in one call, for one vCPU. The arguments are theirs."""
    cpu = resolve_cpu(
        spec, supported, host, feature_msrs=feature_msrs, tsc_deadline=tsc_deadline, tsc_khz=tsc_khz
    )
    return CpuModelResult(cpu.entries(topology, apic_id), cpu.warnings, cpu.msrs, cpu.tsc_khz)
