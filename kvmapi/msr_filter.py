# SPDX-License-Identifier: Apache-2.0
"""MSR filters: ranges of MSRs with a bit for each, for `Vm.set_msr_filter` (api.rst 4.97)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kvmapi.uapi.x86_features import (
    KVM_MSR_FILTER_MAX_BITMAP_SIZE,
    KVM_MSR_FILTER_MAX_RANGES,
    KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_WRITE,
    kvm_msr_filter,
)


@dataclass(frozen=True)
class MsrRange:
    """MSRs `base` .. `base + count - 1` and which of them leave KVM.

    `flags`: KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE or both, the accesses meant. `filtered`: the MSRs whose
    accesses are filtered; None means all of the range.
    """

    base: int
    count: int
    flags: int = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE
    filtered: frozenset[int] | None = None

    def bitmap(self) -> bytes:
        """One bit per MSR, bit 0 the first: 1 lets KVM handle the access, 0 filters it."""
        size = (self.count + 7) // 8
        if self.count < 1 or size > KVM_MSR_FILTER_MAX_BITMAP_SIZE:
            raise ValueError(
                f"MsrRange({self.base:#x}): {self.count} MSRs, expected 1 to {KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8}"
            )
        if self.filtered is None:
            return bytes(size)
        bits = (1 << self.count) - 1
        for msr in self.filtered:
            if not 0 <= msr - self.base < self.count:
                raise ValueError(f"MsrRange({self.base:#x}): MSR {msr:#x} is outside the range")
            bits &= ~(1 << (msr - self.base))
        return bits.to_bytes(size, "little")


def msr_filter(ranges: Iterable[MsrRange], flags: int) -> tuple[Any, list[Any]]:
    """A kvm_msr_filter, and the buffers it points to, to be kept until the ioctl returned."""
    chosen = list(ranges)
    if len(chosen) > KVM_MSR_FILTER_MAX_RANGES:
        raise ValueError(
            f"set_msr_filter: {len(chosen)} ranges, KVM takes at most {KVM_MSR_FILTER_MAX_RANGES}"
        )
    argument = kvm_msr_filter(flags=flags)
    bitmaps: list[Any] = []
    for entry, wanted in zip(argument.ranges, chosen, strict=False):
        bits = wanted.bitmap()
        kept = (ctypes.c_char * len(bits)).from_buffer_copy(bits)
        bitmaps.append(kept)
        entry.flags = wanted.flags
        entry.nmsrs = wanted.count
        entry.base = wanted.base
        entry.bitmap = ctypes.addressof(kept)
    return argument, bitmaps
