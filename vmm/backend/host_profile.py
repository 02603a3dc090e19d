# SPDX-License-Identifier: Apache-2.0
"""What this host's KVM can do, asked once: `probe` makes the `HostProfile` that strategies are chosen from.

The profile is plain data. Nothing in it is guessed from a version: every field is an answer of the kernel.
`vmm.backend.ring0` adds how fast and how completely ring 0 runs, which takes a guest to find out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from kvmapi import Kvm, KvmError, Vcpu, Vm
from kvmapi.uapi import x86
from kvmapi.uapi.vsm import HV_ACCESS_VP_REGISTERS, HV_ACCESS_VSM, HV_FEATURES
from kvmapi.vsm_support import RWX_ATTRIBUTES, VsmSupport, vsm_support_of
from vmm.backend.host_capabilities import CAPABILITIES, Need
from vmm.backend.vsm import startup_signals, waits

# function, index, flags, EAX, EBX, ECX, EDX of a struct kvm_cpuid_entry2
CpuidLeaf = tuple[int, int, int, int, int, int, int]

MSR_ARCH_CAPABILITIES = 0x10A
MSR_UCODE_REV = 0x8B

HARDWARE_MODULES = ("kvm_intel", "kvm_amd")


class HostKind(StrEnum):
    """What a KVM offers to Hyper-V guests; docs/architecture.md describes the three."""

    BARE = "bare"
    UPSTREAM = "upstream"
    PATCHED = "patched"


@dataclass(frozen=True, slots=True)
class KvmModules:
    """The KVM modules in the kernel (loaded or built in) and their parameters, `module.parameter` -> text."""

    names: tuple[str, ...]
    parameters: Mapping[str, str]

    @property
    def engine(self) -> str:
        """The module below `kvm`: kvm_intel, kvm_amd, or what else drives this host's processors; "" if
        none.
        """
        others = [name for name in self.names if name != "kvm"]
        known = [name for name in others if name in HARDWARE_MODULES]
        return (known or others or [""])[0]

    @property
    def hardware(self) -> bool:
        """True when guests run on VT-x or SVM."""
        return self.engine in HARDWARE_MODULES


@dataclass(frozen=True, slots=True)
class HostProfile:
    """One host's KVM.

    capabilities: what KVM_CHECK_EXTENSION answers on /dev/kvm, by the names of `host_capabilities`.
    vm_capabilities: the same asked of a VM, which is what counts for a VM.
    memory_attributes: the mask of KVM_MEMORY_ATTRIBUTE_* a plain VM supports.
    supported_cpuid, hyperv_cpuid: KVM_GET_SUPPORTED_CPUID and KVM_GET_SUPPORTED_HV_CPUID.
    feature_msrs: feature MSRs that KVM reports and a VMM may set, with KVM's values.
    """

    kernel: str
    modules: KvmModules
    brand: str
    capabilities: Mapping[str, int]
    vm_capabilities: Mapping[str, int]
    supported_cpuid: tuple[CpuidLeaf, ...]
    hyperv_cpuid: tuple[CpuidLeaf, ...]
    feature_msrs: Mapping[int, int]
    tsc_khz: int

    def has(self, capability: str) -> bool:
        return self.vm_capabilities[capability] > 0

    @property
    def memory_attributes(self) -> int:
        return self.vm_capabilities["memory_attributes"]

    @property
    def rwx_attributes(self) -> bool:
        """Whether a VM's pages can be given read, write and execute rights."""
        return self.memory_attributes & RWX_ATTRIBUTES == RWX_ATTRIBUTES

    @property
    def hyperv_features(self) -> tuple[int, int]:
        """(EBX, EDX) of Hyper-V leaf 0x40000003 as the kernel offers it; zeros without Hyper-V."""
        return next(((leaf[4], leaf[6]) for leaf in self.hyperv_cpuid if leaf[0] == HV_FEATURES), (0, 0))

    @property
    def vsm(self) -> bool:
        """Whether the kernel brings VSM hypercalls to the VMM and has the inactive-VTL wait."""
        needed = HV_ACCESS_VSM | HV_ACCESS_VP_REGISTERS
        return self.hyperv_features[0] & needed == needed

    @property
    def vsm_support(self) -> VsmSupport:
        """Which series of patches brought VSM to this kernel, and what of it can be used."""
        return vsm_support_of(
            self.capabilities["x86_vsm"], *self.hyperv_features, self.vm_capabilities["memory_attributes"]
        )

    @property
    def vendor(self) -> str:
        """The vendor string of leaf 0."""
        leaf = next((leaf for leaf in self.supported_cpuid if leaf[0] == 0), (0,) * 7)
        return b"".join(leaf[register].to_bytes(4, "little") for register in (4, 6, 5)).decode(
            "ascii", "replace"
        )

    @property
    def kind(self) -> HostKind:
        if self.vsm and self.rwx_attributes:
            return HostKind.PATCHED
        if self.hyperv_cpuid and self.has("hyperv"):
            return HostKind.UPSTREAM
        return HostKind.BARE

    @property
    def max_vcpus(self) -> int:
        return self.vm_capabilities["max_vcpus"]

    @property
    def max_memslots(self) -> int:
        return self.vm_capabilities["nr_memslots"]

    @property
    def sync_regs(self) -> int:
        """KVM_SYNC_X86_* that KVM_RUN can carry."""
        return self.vm_capabilities["sync_regs"]

    @property
    def tsc_deadline(self) -> bool:
        return self.has("tsc_deadline_timer")

    def missing(self, need: Need) -> tuple[str, ...]:
        """Capabilities of that importance that KVM lacks."""
        return tuple(c.name for c in CAPABILITIES if c.need is need and not self.has(c.name))

    @property
    def can_run(self) -> bool:
        return not self.missing(Need.REQUIRED)

    def strategies(self) -> dict[str, str]:
        """How each need of VSM is met here: need -> the chosen way, in words."""
        return {need: _STRATEGIES[need][met(self)] for need, met in _MET_BY_KERNEL.items()}


_MET_BY_KERNEL: dict[str, Callable[[HostProfile], bool]] = {
    "hypercall": lambda host: host.vsm,
    "hyperv_msrs": lambda host: host.has("x86_msr_filter") and host.has("x86_user_space_msr"),
    "vtl_memory": lambda host: host.rwx_attributes,
    "fault_address": lambda host: host.vsm and host.has("memory_fault_info"),
    "vtl_wakeup": lambda host: waits.in_kernel(host.vsm_support),
    "vtl_startup": lambda host: startup_signals.can_block(host.vsm_support),
}
_STRATEGIES = {
    "hypercall": {
        True: "VMCALL/VMMCALL can exit to the VMM; a port write where a call would be lost",
        False: "the hypercall page is the VMM's: it writes a port, which exits",
    },
    "hyperv_msrs": {
        True: "the MSR filter brings them to the VMM",
        False: "not possible: no Hyper-V interface",
    },
    "vtl_memory": {
        True: "memory attributes on the lower VTL's VM",
        False: "a mapping of guest memory per VTL, protected by mprotect and memory slots",
    },
    "fault_address": {
        True: "memory-fault exits name page and access",
        False: "found out from the exit, the registers and the instruction",
    },
    "vtl_wakeup": {
        True: "the inactive VTL waits in the kernel, on a thread of its own",
        False: "the inactive VTL's local APIC is looked at, at exits and on a tick",
    },
    "vtl_startup": {
        True: "KVM blocks INIT and SIPI of processors with VTLs above 0",
        False: "INIT and SIPI to a processor with VTLs above 0 that runs are carried out by KVM",
    },
}


def probe(kvm: Kvm) -> HostProfile:
    """Ask `kvm` everything. Makes a VM with one vCPU for a moment; no guest code runs. Raises `KvmError`."""
    with kvm.create_vm() as vm:
        asked = {c.name: kvm.check_extension(c.number) for c in CAPABILITIES}
        asked_of_vm = {c.name: vm.check_extension(c.number) for c in CAPABILITIES}
        supported = kvm.supported_cpuid()
        with vm.create_vcpu(0) as vcpu:
            return HostProfile(
                kernel=os.uname().release,
                modules=kvm_modules(),
                brand=processor_name(),
                capabilities=MappingProxyType(asked),
                vm_capabilities=MappingProxyType(asked_of_vm),
                supported_cpuid=_leaves(supported),
                hyperv_cpuid=_hyperv_cpuid(kvm, vm, vcpu, asked),
                feature_msrs=MappingProxyType(_settable_msrs(kvm, vcpu, supported)),
                tsc_khz=vcpu.get_tsc_khz() if asked["get_tsc_khz"] else 0,
            )


def _leaves(entries: Iterable[x86.kvm_cpuid_entry2]) -> tuple[CpuidLeaf, ...]:
    return tuple((e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries)


def _hyperv_cpuid(kvm: Kvm, vm: Vm, vcpu: Vcpu, asked: Mapping[str, int]) -> tuple[CpuidLeaf, ...]:
    """The kernel's Hyper-V leaves; before Linux 5.11 only a vCPU tells them."""
    try:
        if asked["sys_hyperv_cpuid"]:
            return _leaves(kvm.supported_hv_cpuid())
        if asked["hyperv_cpuid"]:
            return _leaves(vcpu.supported_hv_cpuid())
    except KvmError:
        # Announced, but refused: as good as absent, which is what an empty answer says.
        return ()
    return ()


def _settable_msrs(kvm: Kvm, vcpu: Vcpu, supported: list[x86.kvm_cpuid_entry2]) -> dict[int, int]:
    """The feature MSRs of the CPU models, where KVM lets a VMM set what it reports itself.

    Not every KVM does: one without hardware virtualization reports IA32_ARCH_CAPABILITIES and refuses to
    set it.
    """
    settable: dict[int, int] = {}
    try:
        known = set(kvm.msr_feature_index_list())
        vcpu.set_cpuid2(supported)
    except KvmError:
        return settable
    for index in (MSR_ARCH_CAPABILITIES, MSR_UCODE_REV):
        if index not in known:
            continue
        try:
            [(_, value)] = kvm.feature_msrs([index])
            vcpu.set_msrs([(index, value)])
        except KvmError:
            continue  # reported or not, a guest cannot be given it
        settable[index] = value
    return settable


def kvm_modules(sys_module: Path = Path("/sys/module")) -> KvmModules:
    """The KVM modules and parameters under `sys_module`; a parameter that only root may read is left out."""
    names = sorted(path.name for path in sys_module.glob("kvm*") if path.is_dir())
    parameters = {}
    for name in names:
        for path in sorted((sys_module / name / "parameters").glob("*")):
            try:
                parameters[f"{name}.{path.name}"] = path.read_text().strip()
            except OSError:
                continue
    return KvmModules(tuple(names), MappingProxyType(parameters))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's brand string, "" when the kernel does not tell."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "model name"), "")
