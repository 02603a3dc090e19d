# SPDX-License-Identifier: Apache-2.0
"""The processor's MSRs that VTLs share, MTRRs and MCG_STATUS: a write of one VTL is a write of all.

Guests write them at boot and never again, so a VTL switch does not carry them over. Their writes leave the guest and
are done to the vCPUs of all VTLs, later ones included.

Of the 16 variable MTRRs that VP registers have names for, a KVM vCPU has eight, and MTRRCAP.VCNT says so. KVM refuses
the MSRs of the others, with ignore_msrs too: their registers are unknown to the guest, and need not be shared.

Implements: VSM-063, VSM-065, IMP-005
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from kvmapi import KvmError, MsrRange, Vcpu
from kvmapi.uapi.x86_features import KVM_MSR_FILTER_WRITE
from vmm.backend.vp import VirtualProcessor
from vmm.vsm.scope import SWITCHED_MSRS

MSRS = frozenset(int(msr) for msr in SWITCHED_MSRS)


def ranges() -> Iterator[MsrRange]:
    """For `Vm.set_msr_filter`: their writes leave the guest."""
    first = last = -1
    for msr in sorted(MSRS):
        if msr != last + 1:
            if first >= 0:
                yield MsrRange(first, last - first + 1, KVM_MSR_FILTER_WRITE)
            first = msr
        last = msr
    yield MsrRange(first, last - first + 1, KVM_MSR_FILTER_WRITE)


class SharedMsrs:
    """One VP's. Used on its thread, or while it is frozen, but for `bring`."""

    def __init__(self, processor: VirtualProcessor) -> None:
        self._processor = processor
        self._lock = threading.Lock()
        """The VP may write while another one enables a VTL on it. Held during KVM_SET_MSRS."""
        self._written: dict[int, int] = {}
        self._brought: dict[Vcpu, None] = {}
        """The vCPUs of VTLs above 0, also of one that the VP's thread does not know yet."""

    def reset(self) -> None:
        """Nothing is written yet, and there is VTL0 alone."""
        self._written.clear()
        self._brought.clear()

    def write(self, msr: int, value: int) -> bool:
        """WRMSR of any VTL; False for #GP, no vCPU is changed then."""
        if msr not in MSRS:
            return False
        with self._lock:
            try:
                for vcpu in {**dict.fromkeys(self._processor.all_vcpus), **self._brought}:
                    vcpu.set_msrs([(msr, value)])
            except KvmError:  # all are of one model: the first refuses if any does
                return False
            self._written[msr] = value
        return True

    def bring(self, vcpu: Vcpu) -> None:
        """Give a new VTL's vCPU what has been written so far, and from now on. On any thread. Errors: `KvmError`."""
        with self._lock:
            if self._written:
                vcpu.set_msrs(list(self._written.items()))
            self._brought[vcpu] = None
