# SPDX-License-Identifier: Apache-2.0
"""Sockets, cores and threads: APIC ids and the CPUID leaves that describe them.

An APIC id is the thread, core and socket number side by side, each in just enough bits (SDM 3A 9.9.1). With
one thread per core and one socket, which is the default, the APIC id therefore is the CPU's number.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmm.machine.cpu.cpuid import CpuidEntry, entry

MAX_CPUS = 4096  # KVM_MAX_VCPU_IDS of the largest kernel configuration
SMT_LEVEL = 1  # level types of leaf 0xB, ECX bits 15:8
CORE_LEVEL = 2


class TopologyError(ValueError):
    """Sockets, cores and threads do not make up the number of CPUs."""


def _width(count: int) -> int:
    return (count - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Topology:
    """`cpus` CPUs as `sockets` x `cores` x `threads`. A socket has `cores` cores, a core `threads`
    threads.
    """

    cpus: int
    threads: int = 1
    cores: int = 0
    sockets: int = 0

    def __post_init__(self) -> None:
        """Fill in what was left at 0: cores first, as QEMU does since 6.2."""
        if not 1 <= self.cpus <= MAX_CPUS:
            raise TopologyError(f"{self.cpus} CPUs: expected 1 to {MAX_CPUS}")
        if self.threads < 1 or self.cores < 0 or self.sockets < 0:
            raise TopologyError(
                f"sockets={self.sockets}, cores={self.cores}, threads={self.threads}: each must be at least 1"
            )
        sockets = self.sockets or (self.cpus // (self.cores * self.threads) if self.cores else 1)
        cores = self.cores or self.cpus // (max(sockets, 1) * self.threads)
        if sockets * cores * self.threads != self.cpus:
            raise TopologyError(
                f"sockets={sockets} x cores={cores} x threads={self.threads} makes "
                f"{sockets * cores * self.threads} CPUs, but {self.cpus} were asked for"
            )
        object.__setattr__(self, "sockets", sockets)
        object.__setattr__(self, "cores", cores)

    @property
    def thread_bits(self) -> int:
        """Bits of the APIC id that number the threads of a core."""
        return _width(self.threads)

    @property
    def package_shift(self) -> int:
        """Bits of the APIC id below the socket number."""
        return self.thread_bits + _width(self.cores)

    @property
    def threads_per_package(self) -> int:
        return self.cores * self.threads

    def apic_id(self, cpu: int) -> int:
        """The APIC id of the CPU with number `cpu`, counted from 0."""
        core, thread = divmod(cpu, self.threads)
        socket, core = divmod(core, self.cores)
        return socket << self.package_shift | core << self.thread_bits | thread

    def apic_ids(self) -> list[int]:
        """The APIC ids of all CPUs, in order of their numbers."""
        return [self.apic_id(cpu) for cpu in range(self.cpus)]

    def place(self, apic_id: int) -> tuple[int, int, int]:
        """(socket, core in the socket, thread in the core) of an APIC id."""
        thread = apic_id & (1 << self.thread_bits) - 1
        core = (apic_id & (1 << self.package_shift) - 1) >> self.thread_bits
        return apic_id >> self.package_shift, core, thread


def leaf1_ebx(topology: Topology, apic_id: int, clflush_qwords: int) -> int:
    """EBX of leaf 1: initial APIC id, logical processors per package, CLFLUSH line in 8-byte units.

    Both counts are 8 bits wide. Above 255 the APIC id is cut (SDM: software then takes leaf 0xB) and the
    count saturates.
    """
    logical = min(topology.threads_per_package, 0xFF)
    return (apic_id & 0xFF) << 24 | logical << 16 | clflush_qwords << 8


def x2apic_leaves(topology: Topology, apic_id: int, function: int) -> list[CpuidEntry]:
    """Leaf 0xB or 0x1F: a sub-leaf per level and a terminator, each with the x2APIC id in EDX (SDM 2A)."""
    return [
        entry(function, 0, eax=topology.thread_bits, ebx=topology.threads, ecx=SMT_LEVEL << 8, edx=apic_id),
        entry(
            function,
            1,
            eax=topology.package_shift,
            ebx=topology.threads_per_package,
            ecx=CORE_LEVEL << 8 | 1,
            edx=apic_id,
        ),
        entry(function, 2, ecx=2, edx=apic_id),
    ]


def amd_size_identifiers(topology: Topology) -> int:
    """ECX of leaf 0x80000008 (APM 3): number of threads less one, and the width of the APIC id's core
    part.
    """
    if topology.threads_per_package == 1:
        return 0
    return topology.package_shift << 12 | min(topology.threads_per_package - 1, 0xFF)


def amd_identifiers(topology: Topology, apic_id: int) -> CpuidEntry:
    """Leaf 0x8000001E (APM 3): extended APIC id, core id with threads per core, node id with nodes per
    package.
    """
    socket, core, _thread = topology.place(apic_id)
    return entry(
        0x8000_001E,
        eax=apic_id,
        ebx=(topology.threads - 1 & 0xFF) << 8 | (core & 0xFF),
        ecx=socket & 0xFF,  # one node per socket: bits 10:8 stay 0
    )
