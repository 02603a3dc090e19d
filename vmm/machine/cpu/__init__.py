# SPDX-License-Identifier: Apache-2.0
"""Processors as guests see them: CPU models, features, topology, and the CPUID entries made from them.

Pure: no KVM, no files. `vmm.backend.host_profile` fetches what KVM supports, `parse_cpu` reads what the user
wants, `resolve_cpu` (or `build_cpuid`, for one vCPU) brings the two together.
"""

from vmm.machine.cpu.cpuid import CpuidEntry, CpuidTable
from vmm.machine.cpu.resolve import CpuModelResult, build_cpuid, resolve_cpu
from vmm.machine.cpu.resolved import ResolvedCpu
from vmm.machine.cpu.spec import DEFAULT_MODEL, CpuSpec, CpuSpecError, parse_cpu
from vmm.machine.cpu.topology import Topology, TopologyError

__all__ = [
    "DEFAULT_MODEL",
    "CpuModelResult",
    "CpuSpec",
    "CpuSpecError",
    "CpuidEntry",
    "CpuidTable",
    "ResolvedCpu",
    "Topology",
    "TopologyError",
    "build_cpuid",
    "parse_cpu",
    "resolve_cpu",
]
