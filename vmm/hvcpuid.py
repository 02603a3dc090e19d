# SPDX-License-Identifier: Apache-2.0
"""CPUID leaves 0x40000000 to 0x4000000A: what the partition is offered, from what there is to offer.

Three things come together: features of the synthetic MSRs (`HvFeature`), what the handled hypercalls announce
(`vmm.hypercall.announce`), and limits. The same words tell `vmm.hvmsr` what may be accessed, so that what is not
announced faults. All VTLs see the same leaves (DISC-017).

Implements: DISC-002, DISC-003, DISC-004, DISC-005, DISC-006, DISC-007, DISC-008, DISC-009, DISC-010, DISC-011,
DISC-012, DISC-013, DISC-014, DISC-015, DISC-016, DISC-017, LNX-001, WIN-001
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from vmm.hv.bits import BitField
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_ENLIGHTENMENT_INFORMATION_ECX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_HYPERVISOR_VERSION_EBX,
    HV_INTERFACE_SIGNATURE,
    HV_PARTITION_PRIVILEGE_MASK,
    HV_SPIN_RETRIES_NEVER_NOTIFY,
    HV_VENDOR,
    HvCpuidLeaf,
)
from vmm.hypercall.announce import Announcement

PRIVILEGE: Final = HV_PARTITION_PRIVILEGE_MASK
FEATURE: Final = HV_HYPERVISOR_FEATURES_EDX
RECOMMENDATION: Final = HV_ENLIGHTENMENT_INFORMATION_EAX


class HvFeature(enum.Enum):
    """A part of the interface that can be offered or not. The value is its name on the command line."""

    HYPERCALL = "hypercall"
    VP_INDEX = "vpindex"
    VP_RUNTIME = "runtime"
    TIME = "time"
    REFERENCE_TSC = "reference-tsc"
    FREQUENCIES = "frequencies"
    SYNIC = "synic"
    STIMER = "stimer"
    STIMER_DIRECT = "stimer-direct"
    APIC = "vapic"
    APIC_RECOMMENDED = "vapic-recommended"
    RESET = "reset"
    CRASH = "crash"
    IDLE = "idle"
    REENLIGHTENMENT = "reenlightenment"


class _Offer(NamedTuple):
    bits: tuple[BitField[bool], ...]
    """What it sets in the three words, each bit knowing its own."""
    needs: tuple[HvFeature, ...] = ()


_F = HvFeature
OFFERS: Final[dict[HvFeature, _Offer]] = {
    _F.HYPERCALL: _Offer((PRIVILEGE.AccessHypercallMsrs, FEATURE.HypercallMsrLockAvailable)),
    _F.VP_INDEX: _Offer((PRIVILEGE.AccessVpIndex,)),
    _F.VP_RUNTIME: _Offer((PRIVILEGE.AccessVpRunTimeReg,)),
    _F.TIME: _Offer((PRIVILEGE.AccessPartitionReferenceCounter,)),
    _F.REFERENCE_TSC: _Offer((PRIVILEGE.AccessPartitionReferenceTsc,), (_F.TIME,)),
    _F.FREQUENCIES: _Offer((PRIVILEGE.AccessFrequencyRegs, FEATURE.FrequencyRegsAvailable)),
    # Auto-EOI costs more than it saves on a KVM with a local APIC in the kernel.
    _F.SYNIC: _Offer(
        (PRIVILEGE.AccessSynicRegs, FEATURE.SintPollingModeAvailable, RECOMMENDATION.DeprecateAutoEoi)
    ),
    _F.STIMER: _Offer((PRIVILEGE.AccessSyntheticTimerRegs,), (_F.SYNIC, _F.TIME)),
    _F.STIMER_DIRECT: _Offer((FEATURE.DirectSyntheticTimers,), (_F.STIMER,)),
    _F.APIC: _Offer((PRIVILEGE.AccessIntrCtrlRegs,)),
    _F.APIC_RECOMMENDED: _Offer((RECOMMENDATION.UseApicMsrs,), (_F.APIC,)),
    _F.RESET: _Offer((PRIVILEGE.AccessResetReg,)),
    _F.CRASH: _Offer((FEATURE.GuestCrashRegsAvailable,)),
    _F.IDLE: _Offer((PRIVILEGE.AccessGuestIdleReg, FEATURE.GuestIdleAvailable)),
    _F.REENLIGHTENMENT: _Offer((PRIVILEGE.AccessReenlightenmentControls,)),
}

DEFAULT_FEATURES: Final = frozenset(HvFeature) - {
    _F.APIC_RECOMMENDED,  # an exit to the VMM each, where KVM's own local APIC needs none
    _F.IDLE,
    _F.REENLIGHTENMENT,  # nothing migrates yet
}

NEVER: Final = (
    PRIVILEGE.CreatePartitions,
    PRIVILEGE.AccessPartitionId,
    PRIVILEGE.AccessMemoryPool,
    PRIVILEGE.AdjustMessageBuffers,
    PRIVILEGE.CreatePort,
    PRIVILEGE.AccessStats,
    PRIVILEGE.CpuManagement,
    PRIVILEGE.ConfigureProfiler,
)
"""Privileges of root and parent partitions: a guest that sees one takes itself for one (DISC-016). A partition's id is
for those who deal with several: one that knows its own alone calls it HV_PARTITION_ID_SELF."""

STACK_LEAVES: Final = (0x4000_0080, 0x4000_0081, 0x4000_0082)
"""Leaves of a virtualization stack, which is not there (DISC-015). A processor's rule for leaves beyond the last one
would answer with another leaf's words, so they are zero by name."""

MAX_LEAF: Final = int(HvCpuidLeaf.HvCpuIdFunctionMsHvNestedVirtFeatures)


@dataclass(frozen=True, slots=True)
class HvLimits:
    """Numbers that CPUID tells."""

    max_vps: int
    """Virtual processors the partition may have; VP indices are below."""
    gpa_bits: int
    """Width of a guest physical address."""
    max_logical_processors: int = 0
    """Of the host; 0: not told."""
    spin_retries: int = HV_SPIN_RETRIES_NEVER_NOTIFY
    """Tries before a guest calls HvCallNotifyLongSpinWait; the default: it never does."""


@dataclass(frozen=True, slots=True)
class HvVersion:
    """What leaf 0x40000002 says; guests print it. The default is that of Windows Server 2022."""

    build: int = 20348
    major: int = 10
    minor: int = 0
    service_pack: int = 0
    service_number: int = 0


class HvCpuidEntry(NamedTuple):
    """A leaf and its registers."""

    leaf: int
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class HvWords(NamedTuple):
    """What leaves 0x40000003 and 0x40000004 say."""

    privileges: HV_PARTITION_PRIVILEGE_MASK
    features: HV_HYPERVISOR_FEATURES_EDX
    recommendations: HV_ENLIGHTENMENT_INFORMATION_EAX


def words(features: Collection[HvFeature], calls: Announcement) -> HvWords:
    """The bits of `features` and of the handled `calls` together.

    AccessVsm is announced only with what it needs beside it (DISC-006, DISC-007). Errors: `ValueError` names a feature
    that needs another one.
    """
    masks: dict[type, int] = {
        HV_PARTITION_PRIVILEGE_MASK: int(calls.privileges),
        HV_HYPERVISOR_FEATURES_EDX: int(calls.features),
        HV_ENLIGHTENMENT_INFORMATION_EAX: int(calls.recommendations) | RECOMMENDATION.UseRelaxedTiming.mask,
    }
    for feature in features:
        offer = OFFERS[feature]
        missing = [needed.value for needed in offer.needs if needed not in features]
        if missing:
            raise ValueError(
                f"Hyper-V feature {feature.value} needs {', '.join(missing)}: add it, or leave {feature.value} out"
            )
        for bit in offer.bits:
            masks[bit.owner] |= bit.mask
    privileges = masks[HV_PARTITION_PRIVILEGE_MASK]
    for bit in NEVER:
        privileges &= ~bit.mask
    vsm_needs = PRIVILEGE.AccessVpRegisters.mask | PRIVILEGE.AccessSynicRegs.mask
    if privileges & vsm_needs != vsm_needs:
        privileges &= ~PRIVILEGE.AccessVsm.mask
    return HvWords(
        HV_PARTITION_PRIVILEGE_MASK(privileges),
        HV_HYPERVISOR_FEATURES_EDX(masks[HV_HYPERVISOR_FEATURES_EDX]),
        HV_ENLIGHTENMENT_INFORMATION_EAX(masks[HV_ENLIGHTENMENT_INFORMATION_EAX]),
    )


def leaves(offered: HvWords, limits: HvLimits, version: HvVersion | None = None) -> list[HvCpuidEntry]:
    """Every leaf from 0x40000000 to `MAX_LEAF` and `STACK_LEAVES`, in order; those not offered are zero.

    The hypervisor bit of leaf 1 (DISC-001) belongs to whoever builds that leaf.
    """
    version = version or HvVersion()
    leaf = HvCpuidLeaf
    vendor = [int.from_bytes(HV_VENDOR[at : at + 4], "little") for at in (0, 4, 8)]
    told = {
        leaf.HvCpuIdFunctionHvVendorAndMaxFunction: (MAX_LEAF, *vendor),
        leaf.HvCpuIdFunctionHvInterface: (HV_INTERFACE_SIGNATURE, 0, 0, 0),
        leaf.HvCpuIdFunctionMsHvVersion: (
            version.build,
            int(HV_HYPERVISOR_VERSION_EBX.make(MajorVersion=version.major, MinorVersion=version.minor)),
            version.service_pack,
            version.service_number,
        ),
        leaf.HvCpuIdFunctionMsHvFeatures: (
            offered.privileges.eax,
            offered.privileges.ebx,
            0,
            int(offered.features),
        ),
        leaf.HvCpuIdFunctionMsHvEnlightenmentInformation: (
            int(offered.recommendations),
            limits.spin_retries,
            int(HV_ENLIGHTENMENT_INFORMATION_ECX.make(ImplementedPhysicalAddressBits=limits.gpa_bits)),
            0,
        ),
        leaf.HvCpuIdFunctionMsHvImplementationLimits: (
            limits.max_vps,
            limits.max_logical_processors,
            0,
            0,
        ),
    }
    first = int(leaf.HvCpuIdFunctionHvVendorAndMaxFunction)
    numbers = {int(number): registers for number, registers in told.items()}
    return [
        HvCpuidEntry(number, *numbers.get(number, (0, 0, 0, 0)))
        for number in (*range(first, MAX_LEAF + 1), *STACK_LEAVES)
    ]
