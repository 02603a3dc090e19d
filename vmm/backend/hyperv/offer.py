# SPDX-License-Identifier: Apache-2.0
"""What a machine announces to its guests: features and calls as CPUID leaves, and what the MSRs need to know.

Implements: LNX-001, LNX-002, LNX-004
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmm.backend.hyperv.flags import EXITS, HypervFlagError, Wanted
from vmm.backend.hyperv.transport import PORT_WRITE, Transport
from vmm.hvcalls.register_values import Widths
from vmm.hvcpuid import HvCpuidEntry, HvFeature, HvLimits, leaves, words
from vmm.hvmsr.state import HvOffer
from vmm.hypercall.announce import announcement
from vmm.vsm.offer import VsmOffer
from vmm.vsm.profile import VsmProfile

HOST_NEEDS = ("sync_regs", "x86_user_space_msr", "x86_msr_filter")
"""KVM capabilities without which the interface cannot be."""
APIC_TIMER_HZ = 1_000_000_000
"""KVM's local APIC timer counts nanoseconds (APIC_BUS_CYCLE_NS)."""


@dataclass(frozen=True)
class Offer:
    """Decided before the vCPUs are made, since their CPUID says it."""

    wanted: Wanted
    leaves: Sequence[HvCpuidEntry]
    msrs: HvOffer
    transport: Transport
    vsm: VsmOffer | None = None
    """Virtual Trust Levels, None where there is only VTL0."""


def offer(
    wanted: Wanted,
    *,
    cpus: int,
    gpa_bits: int,
    tsc_hz: int,
    tsc_known: bool,
    transport: Transport = PORT_WRITE,
    vtls: int = 2,
    vsm_profile: VsmProfile = VsmProfile.HYPERV,
) -> Offer:
    """What to announce.

    tsc_known: whether the VMM can tell what a guest's RDTSC gives. transport: what is possible here. vtls: how many
    a guest may have, where it may have more than VTL0. vsm_profile: what counts where sources disagree on them.

    Errors: `HypervFlagError` for a feature without one that it needs.
    """
    transport = _transport(wanted, transport)
    if not tsc_known or not tsc_hz:
        wanted = wanted.without(HvFeature.REFERENCE_TSC)
    if not tsc_hz:
        wanted = wanted.without(HvFeature.FREQUENCIES)
    if wanted.vsm:
        transport = PORT_WRITE  # whatever VTL calls: KVM hands over only what it knows of
    wanted = replace(wanted, codes=transport.arriving(wanted.codes))
    try:
        said = words(wanted.features, announcement(wanted.codes, wanted.convention))
    except ValueError as error:
        raise HypervFlagError(str(error)) from error
    limits = HvLimits(max_vps=cpus, gpa_bits=gpa_bits, spin_retries=wanted.spin_retries)
    return Offer(
        wanted,
        leaves(said, limits),
        HvOffer(said.privileges, said.features, gpa_bits, tsc_hz, APIC_TIMER_HZ),
        transport,
        VsmOffer(maximum_vtl=vtls - 1, profile=vsm_profile, widths=Widths(physical=gpa_bits))
        if wanted.vsm
        else None,
    )


def _transport(wanted: Wanted, possible: Transport) -> Transport:
    """The way that hypercalls take."""
    if wanted.exits and not possible.exits:
        raise HypervFlagError(
            f"{EXITS}: expected a KVM with our series and a processor of the host's vendor for the guest, found none: "
            "leave it out, a port write does on every KVM"
        )
    lost = wanted.codes - possible.arriving(wanted.codes)
    if wanted.exits is False or (wanted.exits is None and lost):
        return PORT_WRITE
    return possible
