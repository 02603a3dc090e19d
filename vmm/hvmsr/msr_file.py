# SPDX-License-Identifier: Apache-2.0
"""The synthetic MSRs of one VP and VTL as two flat tables: number to method.

What is in a table may be done. Everything else faults: an MSR that CPUID does not announce, one that nobody owns,
a read of a write-only and a write of a read-only one.

The time-unhalted timer is optional and has no owner.

Implements: MISC-007, REG-007, TMR-017
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vmm.hv.bits import BitField
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.msrs import HvMsr
from vmm.hv.status import HvStatus

ReadMsr = Callable[[], int]
WriteMsr = Callable[[int], bool]
"""Gets 64 bits. False: the value is refused, #GP."""


@dataclass(frozen=True, slots=True)
class MsrMethods:
    """Who answers an MSR. None where the MSR's row forbids that access anyway.

    value: what HvCallGetVpRegisters gives, where RDMSR does more than to read; else it is what `read` gives.
    put: what HvCallSetVpRegisters does, where that is another thing than WRMSR; else it is what `write` does.
    """

    read: ReadMsr | None = None
    write: WriteMsr | None = None
    value: ReadMsr | None = None
    put: WriteMsr | None = None


Bindings = Mapping[HvMsr, MsrMethods]


def announced(
    msr: HvMsr, privileges: HV_PARTITION_PRIVILEGE_MASK, features: HV_HYPERVISOR_FEATURES_EDX
) -> bool:
    """Whether leaf 0x40000003 offers this MSR: privileges are its EBX:EAX, features its EDX."""
    bit: BitField[Any] = cast(Any, msr).privilege  # mypy takes an attribute of this type for a descriptor
    word = privileges if bit.owner is HV_PARTITION_PRIVILEGE_MASK else features
    return int(word) & bit.mask != 0


class MsrFile:
    """The MSRs of one VP and VTL. Immutable; as thread-safe as the methods behind it."""

    __slots__ = ("_puts", "readers", "values", "writers")

    def __init__(
        self,
        bindings: Bindings,
        privileges: HV_PARTITION_PRIVILEGE_MASK,
        features: HV_HYPERVISOR_FEATURES_EDX,
    ) -> None:
        self.readers: dict[int, ReadMsr] = {}
        self.values: dict[int, ReadMsr] = {}
        """Those of `readers`, without what a RDMSR does beside."""
        self.writers: dict[int, WriteMsr] = {}
        self._puts: dict[int, WriteMsr] = {}
        for msr, methods in bindings.items():
            if not announced(msr, privileges, features):
                continue
            if methods.read is not None and msr.access.readable:
                self.readers[int(msr)] = methods.read
                self.values[int(msr)] = methods.value or methods.read
            if methods.write is not None and msr.access.writable:
                self.writers[int(msr)] = methods.write
                if methods.put is not None:
                    self._puts[int(msr)] = methods.put

    def read(self, msr: int) -> int | None:
        """RDMSR: the value, None for #GP."""
        reader = self.readers.get(msr)
        return None if reader is None else reader()

    def value(self, msr: int) -> int | None:
        """What RDMSR would give, for a hypercall; None for #GP."""
        reader = self.values.get(msr)
        return None if reader is None else reader()

    def write(self, msr: int, value: int) -> bool:
        """WRMSR of 64 bits: False for #GP."""
        writer = self.writers.get(msr)
        return writer is not None and writer(value)

    def put(self, msr: int, value: int) -> HvStatus:
        """A write of 64 bits by HvCallSetVpRegisters, of a VTL that need not run next.

        INVALID_REGISTER_VALUE for a value that is refused, INVALID_PARAMETER where the MSR is only read, ACCESS_DENIED
        where it is not announced.
        """
        writer = self._puts.get(msr) or self.writers.get(msr)
        if writer is None:
            return HvStatus.INVALID_PARAMETER if msr in self.values else HvStatus.ACCESS_DENIED
        return HvStatus.SUCCESS if writer(value) else HvStatus.INVALID_REGISTER_VALUE
