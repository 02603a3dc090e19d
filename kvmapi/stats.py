# SPDX-License-Identifier: Apache-2.0
"""`Stats`: the counters KVM keeps of a VM or vCPU, read from a statistics fd (api.rst 4.133)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from struct import unpack

from kvmapi.errors import KvmClosedError, KvmError
from kvmapi.fd import KvmFd
from kvmapi.uapi.kvm_device import (
    KVM_STATS_BASE_MASK,
    KVM_STATS_BASE_POW2,
    KVM_STATS_TYPE_MASK,
    KVM_STATS_UNIT_BOOLEAN,
    KVM_STATS_UNIT_BYTES,
    KVM_STATS_UNIT_CYCLES,
    KVM_STATS_UNIT_MASK,
    KVM_STATS_UNIT_NONE,
    KVM_STATS_UNIT_SECONDS,
    kvm_stats_desc,
    kvm_stats_header,
)

_TYPES = ("cumulative", "instant", "peak", "linear histogram", "log histogram")
_UNITS = {
    KVM_STATS_UNIT_NONE: "",
    KVM_STATS_UNIT_BYTES: "bytes",
    KVM_STATS_UNIT_SECONDS: "seconds",
    KVM_STATS_UNIT_CYCLES: "cycles",
    KVM_STATS_UNIT_BOOLEAN: "boolean",
}


@dataclass(frozen=True)
class Statistic:
    """What one counter means. Its value is `count` numbers, in `unit` times `factor`."""

    name: str
    kind: str
    unit: str
    factor: float
    count: int
    offset: int
    bucket_size: int


class Stats(KvmFd):
    """The statistics fd of a VM or vCPU. The set of counters depends on the kernel: look them up by name."""

    __slots__ = ("__dict__",)

    @cached_property
    def header(self) -> kvm_stats_header:
        """Where things lie in the file."""
        return kvm_stats_header.from_buffer_copy(self._read(0, 24))

    @cached_property
    def identity(self) -> str:
        """E.g. "kvm-1234" for a VM, "kvm-1234/vcpu-0" for a vCPU."""
        return _text(self._read(self.header.id_offset, self.header.name_size))

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """What there is, in KVM's order."""
        stride = 16 + self.header.name_size
        block = self._read(self.header.desc_offset, stride * self.header.num_desc)
        return tuple(_statistic(block[at : at + stride]) for at in range(0, len(block), stride))

    def read(self) -> dict[str, tuple[int, ...]]:
        """The values now, by name."""
        end = max((entry.offset + entry.count * 8 for entry in self.statistics), default=0)
        block = self._read(self.header.data_offset, end)
        return {
            entry.name: unpack(f"<{entry.count}Q", block[entry.offset : entry.offset + entry.count * 8])
            for entry in self.statistics
        }

    def _read(self, offset: int, size: int) -> bytes:
        if self._fd < 0:
            raise KvmClosedError("read", self._label)
        try:
            return self._seam.read(self._fd, size, offset)
        except OSError as error:
            raise KvmError(error.errno or 0, "read", {"offset": offset, "size": size}, self._label) from error


def _statistic(raw: bytes) -> Statistic:
    desc = kvm_stats_desc.from_buffer_copy(raw[:16])
    kind = desc.flags & KVM_STATS_TYPE_MASK
    base = 2 if desc.flags & KVM_STATS_BASE_MASK == KVM_STATS_BASE_POW2 else 10
    return Statistic(
        name=_text(raw[16:]),
        kind=_TYPES[kind] if kind < len(_TYPES) else f"type {kind}",
        unit=_UNITS.get(desc.flags & KVM_STATS_UNIT_MASK, "unknown unit"),
        factor=float(base) ** desc.exponent,
        count=desc.size,
        offset=desc.offset,
        bucket_size=desc.bucket_size,
    )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
