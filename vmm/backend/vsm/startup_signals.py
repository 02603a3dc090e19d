# SPDX-License-Identifier: Apache-2.0
"""INIT and SIPI to processors with VTLs above 0, which hypercalls start (VSM-129): they are to do nothing.

KVM's local APICs carry them out inside KVM_RUN, and tell nobody. Accesses to a local APIC never exit: x2APIC's MSRs
cannot be filtered, and xAPIC's page cannot be taken away. So only KVM itself can drop them.

| KVM | way |
|---|---|
| with our series (KVM_X86_VSM_BLOCK_INIT) | `BlockedByKvm` |
| any other | `CarriedOutByKvm`: a processor that does not run drops them, one that runs is reset |
"""

from __future__ import annotations

from typing import Protocol

from kvmapi import Vcpu
from kvmapi.uapi import vsm, x86
from kvmapi.vsm_support import VsmSupport


class StartupSignals(Protocol):
    """A machine's. Used on the thread that runs the vCPU, or while nobody can."""

    can_block: bool

    def block(self, vcpu: Vcpu, wanted: bool) -> None:
        """Whether INIT and SIPI of `vcpu` do nothing from now on. Errors: `KvmError` if it waits for its SIPI."""

    def forget(self, vcpu: Vcpu) -> None:
        """`vcpu` is about to be closed."""


class CarriedOutByKvm:
    """Nothing can be done."""

    can_block = False

    def block(self, vcpu: Vcpu, wanted: bool) -> None:
        """See `StartupSignals`."""

    def forget(self, vcpu: Vcpu) -> None:
        """See `StartupSignals`."""


class BlockedByKvm:
    """INIT waits in the local APIC until it is dropped, SIPI is dropped at once."""

    can_block = True

    def __init__(self) -> None:
        self._blocked: set[Vcpu] = set()

    def block(self, vcpu: Vcpu, wanted: bool) -> None:
        """See `StartupSignals`. What came while it was blocked does not come later."""
        if wanted == (vcpu in self._blocked):
            return
        if wanted:
            vcpu.enable_cap(vsm.KVM_CAP_X86_VSM, vsm.KVM_X86_VSM_BLOCK_INIT)
            self._blocked.add(vcpu)
            return
        drop(vcpu)
        vcpu.enable_cap(vsm.KVM_CAP_X86_VSM, 0)
        self._blocked.discard(vcpu)

    def forget(self, vcpu: Vcpu) -> None:
        """See `StartupSignals`."""
        self._blocked.discard(vcpu)


def can_block(support: VsmSupport) -> bool:
    """Whether a host with this KVM can keep them from a processor."""
    return bool(support.features & vsm.KVM_X86_VSM_BLOCK_INIT)


def choose(support: VsmSupport) -> StartupSignals:
    """What a host with this KVM does."""
    return BlockedByKvm() if can_block(support) else CarriedOutByKvm()


def drop(vcpu: Vcpu) -> None:
    """Forget an INIT that waits in the local APIC, and a STARTUP with it. Errors: `KvmError`."""
    events = vcpu.get_vcpu_events()
    if events.smi.latched_init:
        events.smi.latched_init = 0
        events.flags |= x86.KVM_VCPUEVENT_VALID_SMM
        vcpu.set_vcpu_events(events)
