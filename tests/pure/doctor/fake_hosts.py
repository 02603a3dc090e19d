# SPDX-License-Identifier: Apache-2.0
"""Made-up hosts of the three kinds, and a KVM that answers from tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from kvmapi import KvmError
from kvmapi.uapi import x86
from vmm.backend.host_capabilities import BY_NAME, CAPABILITIES, Need
from vmm.backend.host_profile import CpuidLeaf, HostProfile, KvmModules
from vmm.backend.ring0 import SYSTEM_CALL, Outcome, Ring0
from vmm.cli.doctor_host import DeviceFacts, HostFacts

AMD_LEAF_0: CpuidLeaf = (0, 0, 0, 0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65)  # "AuthenticAMD"
# Leaf 0x40000003: 6.12 offers XMM input (EDX bit 4); the VSM series adds EBX 16, 17, 21 and EDX 15.
UPSTREAM_HYPERV: CpuidLeaf = (0x4000_0003, 0, 0, 0x0E7F, 0x0000_0230, 0, 0x0000_0010)
PATCHED_HYPERV: CpuidLeaf = (0x4000_0003, 0, 0, 0x0E7F, 0x0023_0230, 0, 0x0000_8010)

NEEDED = {c.name: 1 for c in CAPABILITIES if c.need is not Need.OPTIONAL} | {
    "max_vcpus": 1024,
    "nr_memslots": 32764,
    "sync_regs": 7,
}
HYPERV = {c.name: 1 for c in CAPABILITIES if c.group == "hyperv"} | {"memory_fault_info": 1, "x86_vsm": 0}
OUR_SERIES = 0x1FF  # all nine KVM_X86_VSM_*


def profile(
    engine: str = "kvm_amd", extra: Mapping[str, int] | None = None, hyperv: tuple[CpuidLeaf, ...] = ()
) -> HostProfile:
    """A host that has every required and wanted capability, and those of `extra` with their values."""
    answers = {c.name: 0 for c in CAPABILITIES} | NEEDED | dict(extra or {})
    return HostProfile(
        kernel="6.12.0",
        modules=KvmModules(("kvm", engine), {f"{engine}.nested": "1"}),
        brand="Some Processor",
        capabilities=answers,
        vm_capabilities=answers,
        supported_cpuid=(AMD_LEAF_0,),
        hyperv_cpuid=hyperv,
        feature_msrs={0x8B: 0x0100_0065},
        tsc_khz=2_500_000,
    )


def bare() -> HostProfile:
    return profile("kvm_pvm")


def upstream() -> HostProfile:
    return profile(extra=HYPERV, hyperv=(UPSTREAM_HYPERV,))


def patched(features: int = OUR_SERIES) -> HostProfile:
    """A kernel with our series."""
    return profile(extra=HYPERV | {"memory_attributes": 7, "x86_vsm": features}, hyperv=(PATCHED_HYPERV,))


def original() -> HostProfile:
    """A kernel with the original series, which has no capability of its own."""
    return profile(extra=HYPERV | {"memory_attributes": 7}, hyperv=(PATCHED_HYPERV,))


def without(host: HostProfile, *names: str) -> HostProfile:
    """`host`, lacking these capabilities."""
    answers = {**host.vm_capabilities, **dict.fromkeys(names, 0)}
    return replace(host, capabilities=answers, vm_capabilities=answers)


FACTS = HostFacts(
    kernel="6.12.0",
    machine="x86_64",
    python="3.11.7",
    user="ada",
    processor="Some Processor",
    virtualization="svm",
    virtualized=False,
    cores=8,
    memory_total=16 << 30,
    memory_available=8 << 30,
    huge_pages=(0, 0, 2 << 20),
    transparent_huge_pages="madvise",
    open_files=20000,
    locked_memory=8 << 20,
    device=DeviceFacts("/dev/kvm", True, True, "crw-rw----", "root", "kvm"),
    tools={
        "gcc": "/usr/bin/gcc",
        "make": "/usr/bin/make",
        "qemu-system-x86_64": "/usr/bin/qemu-system-x86_64",
    },
)
NATIVE = Ring0(2.5e9, {"int3": Outcome.WORKS, "vmmcall": Outcome.WORKS})
EMULATED = Ring0(
    1.7e6,
    {
        "int3": Outcome.UNEMULATED,
        "movdqu": Outcome.WORKS,
        "vmmcall": Outcome.HANGS,
        SYSTEM_CALL: Outcome.STAYS,
    },
)


class FakeFd:
    """Something with a life span."""

    def __enter__(self) -> FakeFd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class FakeKvm(FakeFd):
    """Kvm, Vm and Vcpu in one, as far as `probe` looks.

    settable: MSRs that KVM_SET_MSRS accepts. leaves: the Hyper-V CPUID, None to refuse the question.
    """

    def __init__(
        self,
        answers: Mapping[str, int],
        *,
        settable: frozenset[int] = frozenset(),
        leaves: tuple[CpuidLeaf, ...] | None = None,
    ) -> None:
        self._answers = {BY_NAME[name].number: value for name, value in answers.items()}
        self._settable = settable
        self._leaves = leaves

    def create_vm(self) -> FakeKvm:
        return self

    def create_vcpu(self, vcpu_id: int) -> FakeKvm:
        assert vcpu_id == 0
        return self

    def check_extension(self, cap: int) -> int:
        return self._answers.get(cap, 0)

    def supported_cpuid(self) -> list[x86.kvm_cpuid_entry2]:
        return [entry(AMD_LEAF_0)]

    def supported_hv_cpuid(self) -> list[x86.kvm_cpuid_entry2]:
        if self._leaves is None:
            raise KvmError(25, "KVM_GET_SUPPORTED_HV_CPUID")
        return [entry(leaf) for leaf in self._leaves]

    def set_cpuid2(self, leaves: object) -> None:
        return None

    def msr_feature_index_list(self) -> list[int]:
        return [0x8B, 0x10A]

    def feature_msrs(self, indices: list[int]) -> list[tuple[int, int]]:
        return [(index, index * 2) for index in indices]

    def set_msrs(self, pairs: list[tuple[int, int]]) -> None:
        if not {index for index, _ in pairs} <= self._settable:
            raise KvmError(22, "KVM_SET_MSRS")

    def get_tsc_khz(self) -> int:
        return 2_500_000


def entry(leaf: CpuidLeaf) -> x86.kvm_cpuid_entry2:
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    return x86.kvm_cpuid_entry2(**dict(zip(names, leaf, strict=True)))
