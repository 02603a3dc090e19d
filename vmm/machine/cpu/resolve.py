# SPDX-License-Identifier: Apache-2.0
"""From a CPU description and what KVM supports to the processor a machine gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmm.machine.cpu import caches
from vmm.machine.cpu.cpuid import (
    EXTENDED,
    CpuidEntry,
    CpuidTable,
    brand_of,
    family_model_stepping,
    signature,
    vendor_of,
)
from vmm.machine.cpu.features import MSR_ARCH_CAPABILITIES, WORDS
from vmm.machine.cpu.models import AMD_FAMILY, MODELS
from vmm.machine.cpu.resolved import FEATURE_LEAVES, ResolvedCpu
from vmm.machine.cpu.select import Selection, select_features
from vmm.machine.cpu.spec import CpuSpec
from vmm.machine.cpu.topology import Topology

DEFAULT_PHYS_BITS = 40  # of named models, as QEMU gives them: 1 TiB

MSR_UCODE_REV = 0x8B
MSR_FEATURE_CONTROL = 0x3A
FEATURE_CONTROL_VMX = 0b101  # locked, VMX outside SMX: what a BIOS leaves behind


@dataclass(frozen=True, slots=True)
class CpuModelResult:
    """What one vCPU gets. `msrs` are (index, value) for KVM_SET_MSRS after KVM_SET_CPUID2."""

    entries: tuple[CpuidEntry, ...]
    warnings: tuple[str, ...]
    msrs: tuple[tuple[int, int], ...]
    tsc_khz: int | None


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
    vtls: bool = False,
) -> ResolvedCpu:
    """Decide what processor `spec` is on this host.

    supported: KVM_GET_SUPPORTED_CPUID. host: what the CPUID instruction says (only the brand, leaves
    0x80000002-4, is taken, since KVM reports none). feature_msrs: the feature MSRs that KVM both reports
    and lets the VMM set; None means unknown. tsc_deadline: KVM_CAP_TSC_DEADLINE_TIMER. tsc_khz: the
    frequency guests will see, announced when it cannot change. vtls: whether it has Virtual Trust
    Levels. Raises `CpuSpecError` for `enforce` with something missing.
    """
    table = CpuidTable(supported)
    model = MODELS.get(spec.model)
    passthrough = model is None
    # A guest's SYSCALL and SYSENTER behave as the host's vendor built them, so that vendor is the default
    # (QEMU too).
    vendor = spec.vendor or vendor_of(table)
    pmu = spec.pmu if spec.pmu is not None else passthrough
    selection = select_features(
        spec, table, vendor, tsc_deadline=tsc_deadline, pmu=pmu, feature_msrs=feature_msrs, vtls=vtls
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
