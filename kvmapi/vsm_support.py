# SPDX-License-Identifier: Apache-2.0
"""Whether the running kernel's KVM has Hyper-V VSM, and from which series of patches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvmapi.errors import KvmError
from kvmapi.system import Kvm
from kvmapi.uapi.kvm_cap import KVM_CAP_MEMORY_ATTRIBUTES
from kvmapi.uapi.vsm import (
    HV_ACCESS_VP_REGISTERS,
    HV_ACCESS_VSM,
    HV_FEATURES,
    HV_XMM_OUTPUT,
    KVM_CAP_X86_VSM,
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_X86_VSM_ANY_THREAD,
    KVM_X86_VSM_BLOCK_INIT,
    KVM_X86_VSM_FAULT_ACCESS,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_HCALL_XMM,
    KVM_X86_VSM_HCALLS,
    KVM_X86_VSM_INACTIVE_VTL,
    KVM_X86_VSM_IPI,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)

RWX_ATTRIBUTES = KVM_MEMORY_ATTRIBUTE_NR | KVM_MEMORY_ATTRIBUTE_NW | KVM_MEMORY_ATTRIBUTE_NX

VSM_FEATURES = {
    "fault_access": KVM_X86_VSM_FAULT_ACCESS,
    "fault_insn": KVM_X86_VSM_FAULT_INSN,
    "rwx_attributes": KVM_X86_VSM_RWX_ATTRIBUTES,
    "hcall_xmm": KVM_X86_VSM_HCALL_XMM,
    "hcalls": KVM_X86_VSM_HCALLS,
    "ipi": KVM_X86_VSM_IPI,
    "inactive_vtl": KVM_X86_VSM_INACTIVE_VTL,
    "any_thread": KVM_X86_VSM_ANY_THREAD,
    "block_init": KVM_X86_VSM_BLOCK_INIT,
}
"""All features by name, the bits of KVM_CAP_X86_VSM."""

ORIGINAL_FEATURES = (
    KVM_X86_VSM_FAULT_ACCESS
    | KVM_X86_VSM_RWX_ATTRIBUTES
    | KVM_X86_VSM_HCALL_XMM
    | KVM_X86_VSM_HCALLS
    | KVM_X86_VSM_IPI
    | KVM_X86_VSM_INACTIVE_VTL
)
"""What the original has in ours' terms, with the defects that kernel/README.md lists. It tells less of a fault."""


class VsmSeries(StrEnum):
    """Which patches a kernel has."""

    NONE = "none"
    ORIGINAL = "original"
    """"Introducing Core VSM support" v1 of 9 June 2024."""
    OURS = "ours"
    """`kernel/series`, which has a capability of its own."""


@dataclass(frozen=True, slots=True)
class VsmSupport:
    """`features` is a mask of KVM_X86_VSM_*: what can be used, and not only announced."""

    series: VsmSeries
    features: int

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(name for name, bit in VSM_FEATURES.items() if self.features & bit)


def vsm_support_of(capability: int, ebx: int, edx: int, attributes: int) -> VsmSupport:
    """What these answers mean.

    `capability` is that of KVM_CAP_X86_VSM; `ebx` and `edx` are those of leaf 0x40000003 of
    KVM_GET_SUPPORTED_HV_CPUID; `attributes` is KVM_CAP_MEMORY_ATTRIBUTES of a plain VM. The original has no
    capability, so it is known by all that it adds to these answers together.
    """
    if capability:
        return VsmSupport(VsmSeries.OURS, capability)
    privileges = HV_ACCESS_VSM | HV_ACCESS_VP_REGISTERS
    if (
        ebx & privileges == privileges
        and edx & HV_XMM_OUTPUT
        and attributes & RWX_ATTRIBUTES == RWX_ATTRIBUTES
    ):
        return VsmSupport(VsmSeries.ORIGINAL, ORIGINAL_FEATURES)
    return VsmSupport(VsmSeries.NONE, 0)


def vsm_support(kvm: Kvm) -> VsmSupport:
    """Ask `kvm`; makes a VM for a moment. Raises `KvmError` when that is refused."""
    try:
        leaves = kvm.supported_hv_cpuid()
    except KvmError:
        # Built without Hyper-V, or older than the question.
        leaves = []
    ebx, edx = next(((leaf.ebx, leaf.edx) for leaf in leaves if leaf.function == HV_FEATURES), (0, 0))
    with kvm.create_vm() as vm:
        attributes = vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES)
    return vsm_support_of(kvm.check_extension(KVM_CAP_X86_VSM), ebx, edx, attributes)
