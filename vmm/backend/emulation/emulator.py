# SPDX-License-Identifier: Apache-2.0
"""`Emulator`: carries out the instruction at which KVM's emulator gave up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmapi import Vcpu
    from vmm.backend.emulation.processor import Cpuid
    from vmm.outside import GuestMemory


class Emulator:
    """One vCPU's. Used by the VP's own thread, between two `KVM_RUN`s.

    `carried_out` counts by the name of the instruction; it has at most one key per row of `table`.
    """

    def __init__(self, vcpu: Vcpu, memory: GuestMemory) -> None:
        """memory: guest RAM as this vCPU's VM sees it. The vCPU's CPUID is read at the first use and kept."""
        self.carried_out: Counter[str] = Counter()
        self._vcpu = vcpu
        self._memory = memory
        self._cpuid: Cpuid | None = None

    def carry_out(self, instruction_bytes: bytes, run_flags: int = 0) -> str | None:
        """Carry out the instruction at RIP. None: done, run on. Else why not, and the vCPU is as it was.

        instruction_bytes: what the exit told, maybe none: the rest comes from guest memory.
        run_flags: `kvm_run.flags`.

        Not done in ring 3, or by a nested guest, ends in #UD there: one process must not end the machine, and
        it is what KVM does itself without KVM_CAP_EXIT_ON_EMULATION_FAILURE.
        """
        # Most guests on most hosts never come here, so the rest of the package is loaded with the first need.
        from vmm.backend.emulation import execute
        from vmm.backend.emulation.processor import Cpuid, Processor

        if self._cpuid is None:
            self._cpuid = Cpuid(self._vcpu.get_cpuid2())
        cpu = Processor(self._vcpu, self._memory, self._cpuid)
        ended = execute.carry_out(cpu, instruction_bytes, run_flags)
        if ended.name:
            self.carried_out[ended.name] += 1
        return ended.refusal or None
