# SPDX-License-Identifier: Apache-2.0
"""Which instruction of the hypercall page leaves the guest, and which hypercalls come to the VMM by it.

| KVM | trap | hypercalls |
|---|---|---|
| with our series, and the guest's processor has the host's hypercall instruction | VMCALL or VMMCALL | those below |
| any | a port write | all |

By VMCALL and VMMCALL KVM answers some calls itself (flushes and IPIs of the caller's own VTL, spin waits: without the
VMM, with statuses of its own for what is wrong with them), hands over some, and refuses all others. So that way is
taken where all that is offered comes by it, or where the user asks for it (`hv-hypercall-exits`); what does not come
is then not offered. It needs the guest OS id (`HV_X64_MSR_GUEST_OS_ID`), and its SynIC switched on, whose MSRs the VMM
keeps from it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from kvmapi.uapi.vsm import KVM_X86_VSM_HCALL_XMM, KVM_X86_VSM_HCALLS
from kvmapi.vsm_support import VsmSeries, VsmSupport
from vmm.backend.hyperv import page_code
from vmm.hv.call_codes import HypercallCode as Code

NEEDED_FEATURES: Final = KVM_X86_VSM_HCALLS | KVM_X86_VSM_HCALL_XMM
INSTRUCTIONS: Final = {
    "GenuineIntel": b"\x0f\x01\xc1",  # vmcall
    "AuthenticAMD": b"\x0f\x01\xd9",  # vmmcall
    "HygonGenuine": b"\x0f\x01\xd9",
}
"""By processor vendor. Between vendors KVM would patch the guest's code."""

ANSWERED_BY_KVM: Final = frozenset(
    {
        Code.HvCallFlushVirtualAddressSpace,
        Code.HvCallFlushVirtualAddressList,
        Code.HvCallFlushVirtualAddressSpaceEx,
        Code.HvCallFlushVirtualAddressListEx,
        Code.HvCallNotifyLongSpinWait,
        Code.HvCallSendSyntheticClusterIpi,
        Code.HvCallSendSyntheticClusterIpiEx,
    }
)
_HANDED_OVER: Final = frozenset(
    {
        Code.HvCallGetVpRegisters,
        Code.HvCallSetVpRegisters,
        Code.HvCallPostMessage,
        Code.HvCallSignalEvent,
        Code.HvExtCallQueryCapabilities,
    }
)
_HANDED_OVER_WITH_START: Final = frozenset(
    {Code.HvCallStartVirtualProcessor, Code.HvCallGetVpIndexFromApicId}
)
_HANDED_OVER_WITH_VSM: Final = frozenset(
    {
        Code.HvCallModifyVtlProtectionMask,
        Code.HvCallEnablePartitionVtl,
        Code.HvCallEnableVpVtl,
        Code.HvCallVtlCall,
        Code.HvCallVtlReturn,
        Code.HvCallTranslateVirtualAddress,
    }
)
_VSM: Final = _HANDED_OVER_WITH_VSM - {Code.HvCallTranslateVirtualAddress}
XMM_INPUT: Final = frozenset(
    {
        Code.HvCallModifyVtlProtectionMask,
        Code.HvCallSendSyntheticClusterIpiEx,
        Code.HvCallGetVpRegisters,
        Code.HvCallSetVpRegisters,
        Code.HvCallTranslateVirtualAddress,
        Code.HvCallGetVpIndexFromApicId,
    }
)
"""The calls whose exit carries XMM registers."""
XMM_OUTPUT: Final = frozenset(
    {Code.HvCallGetVpRegisters, Code.HvCallTranslateVirtualAddress, Code.HvCallGetVpIndexFromApicId}
)
"""The calls after whose success KVM takes XMM registers from the exit."""


@dataclass(frozen=True, slots=True)
class Transport:
    """trap: the instruction. exits: KVM hands it over (KVM_EXIT_HYPERV)."""

    trap: bytes
    exits: bool

    @property
    def page(self) -> bytes:
        """The hypercall page's code."""
        return page_code.code(self.trap)

    def arriving(self, codes: Collection[Code]) -> frozenset[Code]:
        """Those of the wanted calls that a guest can make this way."""
        wanted = frozenset(codes)
        if not self.exits:
            return wanted
        arriving = ANSWERED_BY_KVM | _HANDED_OVER
        if Code.HvCallStartVirtualProcessor in wanted:  # KVM goes by the privilege, which that call announces
            arriving |= _HANDED_OVER_WITH_START
        if wanted >= _VSM:
            arriving |= _HANDED_OVER_WITH_VSM
        return wanted & arriving


PORT_WRITE: Final = Transport(page_code.OUT, exits=False)


def choose(support: VsmSupport, host_vendor: str, guest_vendor: str) -> Transport:
    """The way for a guest whose CPUID names `guest_vendor`. The original series cannot answer with #UD: port write."""
    instruction = INSTRUCTIONS.get(guest_vendor)
    hands_over = support.series is VsmSeries.OURS and support.features & NEEDED_FEATURES == NEEDED_FEATURES
    if instruction is None or not hands_over or guest_vendor != host_vendor:
        return PORT_WRITE
    return Transport(instruction, exits=True)
