# SPDX-License-Identifier: Apache-2.0
"""The processors: CPUID and MSRs of each vCPU, and what firmware sets up in it before a guest runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvmapi import Kvm, KvmError, Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from kvmapi.vsm_support import VsmSupport
from vmm.backend.host_profile import probe
from vmm.machine import open_files
from vmm.machine.acpi.madt import FIRST_X2APIC_ONLY_ID
from vmm.machine.config import ConfigError, MachineConfig
from vmm.machine.cpu import CpuidEntry, CpuSpec, Topology, parse_cpu, resolve_cpu
from vmm.machine.cpu.cpuid import brand_entries
from vmm.machine.cpu.resolved import ResolvedCpu

if TYPE_CHECKING:
    from vmm.backend.host_profile import HostProfile
    from vmm.backend.hyperv.flags import Wanted
    from vmm.backend.hyperv.offer import Offer

MSR_IA32_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRINGS = 1
MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLE_WRITE_BACK = 1 << 11 | 6

# Local vector table and spurious vector as firmware leaves them on the boot processor (Intel MP spec 3.6.2.2,
# "virtual wire mode"): LINT0 takes the 8259s' interrupts, LINT1 is NMI.
APIC_LVT_LINT0, APIC_LVT_LINT1, APIC_SVR = 0x350, 0x360, 0xF0
LVT_EXTINT, LVT_NMI = 0x700, 0x400
SVR_ENABLED = 0x1FF

# Machine checks (SDM volume 3, 17.3.1): the number of banks is in bits 7:0 of MCG_CAP; 10 as QEMU and most PCs.
MCE_BANKS = 10
MCG_CAP_FLAGS = 1 << 8 | 1 << 24  # MCG_CTL_P, MCG_SER_P


@dataclass(frozen=True)
class CpuPlan:
    """The processors of a machine, not made yet.

    cpuid: entries per processor, by number. apic_ids: theirs. msrs: `(index, value)` for each of them.
    tsc_khz: what to give to `KVM_SET_TSC_KHZ`, None to leave the host's. warnings: lines for the user.
    mcg_cap: machine-check banks and features, 0 where this KVM has none. vsm: what this kernel has of VSM. hardware:
    whether guests run on VT-x or SVM. wide_apic_ids: APIC ids have 32 bits. hyperv: the Hyper-V interface, if any.
    """

    apic_ids: list[int]
    cpuid: list[list[x86.kvm_cpuid_entry2]]
    msrs: list[tuple[int, int]]
    tsc_khz: int | None
    warnings: tuple[str, ...]
    mcg_cap: int
    vsm: VsmSupport
    hardware: bool
    wide_apic_ids: bool
    hyperv: Offer | None = None

    @property
    def has_vtls(self) -> bool:
        """Whether a guest may have Virtual Trust Levels above VTL0, by whatever option."""
        return self.hyperv is not None and self.hyperv.vsm is not None


def plan(config: MachineConfig, kvm: Kvm) -> CpuPlan:
    """What `config`'s processors are on this host. Lets this process have the open files that they need.

    Errors: `ConfigError`, `CpuSpecError` and `TopologyError` of `vmm.machine.cpu`, `KvmError`.
    """
    limit = max(kvm.check_extension(k.KVM_CAP_MAX_VCPUS), 1)
    if config.cpus > limit:
        raise ConfigError(f"{config.cpus} processors: this host's KVM allows 1 to {limit} in a machine")
    open_files.allow(config.cpus)
    host = probe(kvm)
    spec = parse_cpu(config.cpu)
    if config.hyperv or config.vsm:
        spec = replace(spec, kvm=False)  # guests that know both interfaces would take KVM's
    wanted = _wanted_hyperv(config, spec)
    cpu = resolve_cpu(
        spec,
        [CpuidEntry(*leaf) for leaf in host.supported_cpuid],
        brand_entries(host.brand),
        feature_msrs=host.feature_msrs,
        tsc_deadline=host.has("tsc_deadline_timer"),
        tsc_khz=host.tsc_khz or None,
        vtls=wanted is not None and wanted.vsm,
    )
    known = cpu.tsc_khz in (None, host.tsc_khz) and kvm.check_extension(k.KVM_CAP_VCPU_ATTRIBUTES) > 0
    hyperv = None if wanted is None else _hyperv(config, wanted, cpu, host, tsc_known=known)
    if hyperv is not None:
        cpu = replace(
            cpu,
            hyperv=tuple(
                CpuidEntry(leaf.leaf, eax=leaf.eax, ebx=leaf.ebx, ecx=leaf.ecx, edx=leaf.edx)
                for leaf in hyperv.leaves
            ),
        )
    topology = Topology(config.cpus)
    apic_ids = topology.apic_ids()
    return CpuPlan(
        apic_ids=apic_ids,
        cpuid=[[_kvm_entry(item) for item in cpu.entries(topology, apic_id)] for apic_id in apic_ids],
        msrs=list(cpu.msrs),
        tsc_khz=cpu.tsc_khz,
        warnings=cpu.warnings,
        mcg_cap=kvm.mce_cap_supported() & MCG_CAP_FLAGS | MCE_BANKS if host.has("mce") else 0,
        vsm=host.vsm_support,
        hardware=host.modules.hardware,
        wide_apic_ids="x2apic" in cpu.selection.names or apic_ids[-1] >= FIRST_X2APIC_ONLY_ID,
        hyperv=hyperv,
    )


def _wanted_hyperv(config: MachineConfig, spec: CpuSpec) -> Wanted | None:
    """What `config`, and the flags of its `cpu`, ask for of the Hyper-V interface; None: no interface."""
    whole = config.hyperv or config.vsm
    if config.hyperv is False or not (whole or spec.hyperv):
        return None
    from vmm.backend.hyperv import flags  # most machines have none of it

    try:
        named = {flags.PASSTHROUGH: "on", **spec.hyperv} if whole else spec.hyperv
        return flags.wanted({flags.VSM: "on", **named} if config.vsm else named)
    except flags.HypervFlagError as error:
        raise ConfigError(str(error)) from error


def _hyperv(
    config: MachineConfig, wanted: Wanted, cpu: ResolvedCpu, host: HostProfile, *, tsc_known: bool
) -> Offer:
    """What of the Hyper-V interface the machine offers. tsc_known: the guest's TSC is the host's plus an offset."""
    from vmm.backend.hyperv import flags, offer, transport
    from vmm.vsm.profile import VsmProfile

    missing = [need for need in offer.HOST_NEEDS if not host.has(need)]
    if missing:
        raise ConfigError(
            f"the Hyper-V interface needs a KVM with {', '.join(missing)}: use a Linux of 5.10 or later, or "
            "leave it out"
        )
    try:
        return offer.offer(
            wanted,
            cpus=config.cpus,
            gpa_bits=cpu.phys_bits,
            tsc_hz=(cpu.tsc_khz or host.tsc_khz) * 1000,
            tsc_known=tsc_known,
            transport=transport.choose(host.vsm_support, host.vendor, cpu.vendor),
            vtls=config.vtls,
            vsm_profile=VsmProfile(config.vsm_profile),
        )
    except flags.HypervFlagError as error:
        raise ConfigError(str(error)) from error


def _kvm_entry(item: CpuidEntry) -> x86.kvm_cpuid_entry2:
    return x86.kvm_cpuid_entry2(
        function=item.function,
        index=item.index,
        flags=item.flags,
        eax=item.eax,
        ebx=item.ebx,
        ecx=item.ecx,
        edx=item.edx,
    )


def after_creation(vcpus: Sequence[Vcpu]) -> None:
    """Bring vCPUs into the state in which firmware hands them over. Errors: `KvmError`."""
    for vcpu in vcpus:
        for msr in (
            (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
            (MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
        ):
            set_if_there(vcpu, msr)
    lapic = vcpus[0].get_lapic()
    for register, value in ((APIC_SVR, SVR_ENABLED), (APIC_LVT_LINT0, LVT_EXTINT), (APIC_LVT_LINT1, LVT_NMI)):
        lapic.regs[register : register + 4] = value.to_bytes(4, "little")
    vcpus[0].set_lapic(lapic)


def set_if_there(vcpu: Vcpu, msr: tuple[int, int]) -> None:
    """Set an MSR that not every processor model has."""
    try:
        vcpu.get_msrs([msr[0]])
    except KvmError:
        return
    vcpu.set_msrs([msr])
