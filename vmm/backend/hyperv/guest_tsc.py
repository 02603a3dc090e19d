# SPDX-License-Identifier: Apache-2.0
"""The guest's time stamp counter, read without asking KVM (`vmm.timers.reference.GuestTsc`).

A guest's RDTSC gives the host's TSC plus an offset, which KVM tells (api.rst KVM_VCPU_TSC_CTRL, Linux 5.16). With
it any thread can compute what a guest would read now, to the tick; KVM_GET_MSRS on a vCPU would wait until that vCPU
leaves the guest.

Not to be had where KVM scales the TSC (the guest has another frequency than the host) or does not tell the offset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvmapi import KvmError, Vcpu
from kvmapi.uapi import x86

TSC_MASK = (1 << 64) - 1


class OffsetTsc:
    """The host's TSC plus `offset`, modulo 2**64."""

    def __init__(self, hz: int, offset: int, rdtsc: Callable[[], int]) -> None:
        self.hz = hz
        self.offset = offset
        self._rdtsc = rdtsc

    def read(self) -> int:
        """What RDTSC would give a guest now."""
        return self._rdtsc() + self.offset & TSC_MASK


def guest_tsc(vcpus: Sequence[Vcpu], hz: int, rdtsc: Callable[[], int]) -> OffsetTsc | None:
    """The TSC that all `vcpus` read, made equal where it was not; None where it cannot be known. No VP may run."""
    first = vcpus[0]
    if not first.has_device_attr(x86.KVM_VCPU_TSC_CTRL, x86.KVM_VCPU_TSC_OFFSET):
        return None
    try:
        offset = first.get_tsc_offset()
        for vcpu in vcpus[1:]:
            if vcpu.get_tsc_offset() != offset:
                vcpu.set_tsc_offset(offset)
        if any(vcpu.get_tsc_offset() != offset for vcpu in vcpus):
            return None
    except KvmError:
        return None
    return OffsetTsc(hz, offset, rdtsc)
