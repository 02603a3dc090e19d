# SPDX-License-Identifier: Apache-2.0
"""Recorded hosts: what KVM said it supports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vmm.machine.cpu import CpuidEntry, CpuidTable, ResolvedCpu, Topology, parse_cpu, resolve_cpu
from vmm.machine.cpu.cpuid import brand_entries

DATA = Path(__file__).parents[2] / "data"


@dataclass(frozen=True)
class RecordedHost:
    """KVM_GET_SUPPORTED_CPUID, the processor's name and the feature MSRs that can be set."""

    name: str
    supported: tuple[CpuidEntry, ...]
    brand: str
    feature_msrs: tuple[tuple[int, int], ...]

    def resolve(self, text: str, *, tsc_khz: int | None = None, vtls: bool = False) -> ResolvedCpu:
        return resolve_cpu(
            parse_cpu(text),
            self.supported,
            brand_entries(self.brand),
            feature_msrs=dict(self.feature_msrs),
            tsc_khz=tsc_khz,
            vtls=vtls,
        )

    def table(self, text: str, topology: Topology | None = None, cpu: int = 0) -> CpuidTable:
        """The CPUID entries of CPU number `cpu` as a table."""
        shape = topology or Topology(1)
        return CpuidTable(self.resolve(text).entries(shape, shape.apic_id(cpu)))


@cache
def load(name: str) -> RecordedHost:
    data = json.loads((DATA / f"cpuid-{name}.json").read_text())
    entries = tuple(
        CpuidEntry(int(function, 16), index, flags, *(int(value, 16) for value in registers))
        for function, index, flags, *registers in data["entries"]
    )
    msrs = tuple((int(index, 16), int(value, 16)) for index, value in data["feature_msrs"].items())
    return RecordedHost(name, entries, data["brand"], msrs)
