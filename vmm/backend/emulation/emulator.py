# SPDX-License-Identifier: Apache-2.0
"""`Emulator`: carries out the instruction at which KVM's emulator gave up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmapi import Vcpu
    from vmm.backend.emulation.faults import ProtectedError
    from vmm.backend.emulation.processor import Cpuid
    from vmm.hypercall.outside import ProcessorMemory
    from vmm.vsm.outside import MemoryAccess


class Emulator:
    """One vCPU's. Used by the VP's own thread, between two `KVM_RUN`s.

    `carried_out` counts by the name of the instruction; it has at most one key per row of `table`.
    """

    def __init__(self, vcpu: Vcpu, memory: ProcessorMemory) -> None:
        """memory: guest RAM as this vCPU's VM sees it. The vCPU's CPUID is read at the first use and kept."""
        self.carried_out: Counter[str] = Counter()
        self._vcpu = vcpu
        self._memory = memory
        self._tell: Callable[[MemoryAccess], None] = self._nobody_protects
        self._cpuid: Cpuid | None = None

    def obey(self, memory: ProcessorMemory, tell: Callable[[MemoryAccess], None]) -> None:
        """Keep to the rights of the vCPU's VTL. The VP's thread does not run it.

        memory: with these rights. tell: told of an access that it refuses, of which nothing has happened; what the VP
        runs next is up to it (`vmm.vsm.memory.report`).
        """
        self._memory, self._tell = memory, tell

    def _nobody_protects(self, access: MemoryAccess) -> None:
        raise AssertionError(f"{access} is refused, and nobody is to be told")

    def carry_out(self, instruction_bytes: bytes, run_flags: int = 0) -> str | None:
        """Carry out the instruction at RIP. None: done, or a higher VTL was told that it is not allowed: run on. Else
        why not, and the vCPU is as it was.

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
        if ended.protected is not None:
            self._refused(ended.protected, instruction_bytes)
        return ended.refusal or None

    def _refused(self, error: ProtectedError, instruction: bytes) -> None:
        from vmm.vsm.outside import MemoryAccess
        from vmm.vsm.rights import EXECUTE, READ, WRITE

        if error.write:
            wanted = WRITE
        else:
            wanted = EXECUTE if error.fetch else READ
        known = b"" if wanted == EXECUTE else instruction
        self._tell(MemoryAccess(error.gpa, wanted, error.gva, known, page_walk=error.page_walk))
