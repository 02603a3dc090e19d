# SPDX-License-Identifier: Apache-2.0
"""Which CPUID bits the set of handled calls, and the offered features, let the machine announce."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from vmm.hv.bits import BitField
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_PARTITION_PRIVILEGE_MASK,
)
from vmm.hypercall.call import Features
from vmm.hypercall.calls import CALLS


class Announcement(NamedTuple):
    """Bits to be set, beside what other parts of the interface announce."""

    privileges: HV_PARTITION_PRIVILEGE_MASK
    """Leaf 0x40000003, EBX:EAX."""
    features: HV_HYPERVISOR_FEATURES_EDX
    """Leaf 0x40000003, EDX."""
    recommendations: HV_ENLIGHTENMENT_INFORMATION_EAX
    """Leaf 0x40000004, EAX."""


def announcement(codes: Collection[int], features: Features) -> Announcement:
    """What may be announced when `codes` have handlers (`Dispatcher.codes`).

    A bit that stands for several calls is announced only when each of them has a handler: a guest that sees it may
    use any of them.
    """
    bits = [*_offered(features), *_complete(codes)]
    return Announcement(
        HV_PARTITION_PRIVILEGE_MASK(_mask(bits, HV_PARTITION_PRIVILEGE_MASK)),
        HV_HYPERVISOR_FEATURES_EDX(_mask(bits, HV_HYPERVISOR_FEATURES_EDX)),
        HV_ENLIGHTENMENT_INFORMATION_EAX(_mask(bits, HV_ENLIGHTENMENT_INFORMATION_EAX)),
    )


def _mask(bits: list[BitField[bool]], owner: type) -> int:
    mask = 0
    for announced in bits:
        if announced.owner is owner:
            mask |= announced.mask
    return mask


def _offered(features: Features) -> Iterator[BitField[bool]]:
    if features.xmm_input:
        yield HV_HYPERVISOR_FEATURES_EDX.XmmRegistersForFastHypercallAvailable
    if features.xmm_output:
        yield HV_HYPERVISOR_FEATURES_EDX.FastHypercallOutputAvailable
        yield HV_PARTITION_PRIVILEGE_MASK.FastHypercallOutput
    if features.nested:
        yield HV_ENLIGHTENMENT_INFORMATION_EAX.Nested


def _complete(codes: Collection[int]) -> Iterator[BitField[bool]]:
    handled = {int(code) for code in codes}
    missing = {bit for call in CALLS if int(call.code) not in handled for bit in call.announces}
    for call in CALLS:
        if int(call.code) in handled:
            yield from (bit for bit in call.announces if bit not in missing)
