# SPDX-License-Identifier: Apache-2.0
"""Accesses that memory attributes refuse: KVM_EXIT_MEMORY_FAULT of a kernel with VSM (api.rst, section 5).

KVM_RUN fails with EFAULT then. The instruction has not been carried out, RIP and all registers are as before it, and
entering again repeats it: whoever was told decides by what it has changed until then.

The exit may be one that was on its way while a VTL gave the rights back. Then the access is simply repeated.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from kvmapi import Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import (
    KVM_MEMORY_EXIT_FLAG_EXEC,
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK,
    KVM_MEMORY_EXIT_FLAG_WRITE,
)
from vmm.backend.vp import REFUSED_ACCESS, VirtualProcessor
from vmm.vsm.outside import MemoryAccess, MemoryIntercepts
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ, WRITE

# struct kvm_run: u32 exit_reason @8; the exit's own part from byte 32 on
_EXIT_REASON_U32: Final = 8 // 4
_EXIT: Final = 32
# kvmapi.uapi.vsm.kvm_run_memory_fault_vsm: flags, gpa, size u64; insn_len, nr_insn_bytes u8; insn_bytes; access_gpa u64
_fault: Final = Struct("<QQQBB15s7xQ").unpack_from

REPEATS: Final = 10_000
"""Faults of one instruction, one after the other, that the table of rights has no reason for. So often cannot be a
change of rights under way: table and kernel disagree, and the guest would repeat the instruction for ever."""


class Alias(NamedTuple):
    """A second place at which a VTL finds a piece of RAM: `size` bytes at `gpa` are those at `ram_gpa`."""

    gpa: int
    size: int
    ram_gpa: int


class AttributeFaults:
    """Those of one VTL of one VP. `attach` puts the handler in place; it runs on the VP's thread."""

    def __init__(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        protections: MemoryProtections,
        intercepts: MemoryIntercepts,
        aliases: Sequence[Alias],
        *,
        tells_instruction: bool,
    ) -> None:
        """tells_instruction: whether the exit has the exact address and the instruction (KVM_X86_VSM_FAULT_INSN)."""
        self._processor = processor
        self._vcpu = vcpu
        self._vtl = vtl
        self._protections = protections
        self._intercepts = intercepts
        self._aliases = aliases
        self._tells_instruction = tells_instruction
        self._repeated = 0
        self._last_rip = -1

    def attach(self, handlers: dict[int, Callable[[], None]]) -> None:
        """handlers: those of the VTL. The VP's thread has not started, or does not run the VTL."""
        handlers[REFUSED_ACCESS] = self.fault

    def fault(self) -> None:
        """KVM_RUN failed with EFAULT."""
        if self._vcpu.run.u32[_EXIT_REASON_U32] != k.KVM_EXIT_MEMORY_FAULT:
            self._processor.run_failed(errno.EFAULT)
            return
        flags, page, _, length, count, instruction, exact = _fault(self._vcpu.run.u8, _EXIT)
        if flags & KVM_MEMORY_EXIT_FLAG_WRITE:
            wanted = WRITE
        else:
            wanted = EXECUTE if flags & KVM_MEMORY_EXIT_FLAG_EXEC else READ
        gpa = exact if self._tells_instruction else page
        refused = self._protections.refusing(self._vtl, self._ram_gpa(gpa), 1, wanted)
        if refused is None:
            self._repeat()
            return
        self._last_rip = -1
        known = self._tells_instruction and wanted != EXECUTE
        access = MemoryAccess(
            gpa,
            wanted,
            instruction=instruction[:count] if known else b"",
            length=length,
            page_walk=bool(flags & KVM_MEMORY_EXIT_FLAG_PAGE_WALK),
        )
        self._intercepts.memory(self._processor.index, self._vtl, refused.owner, access)

    def _ram_gpa(self, gpa: int) -> int:
        for alias in self._aliases:
            if alias.gpa <= gpa < alias.gpa + alias.size:
                return alias.ram_gpa + gpa - alias.gpa
        return gpa

    def _repeat(self) -> None:
        """The table allows the access: it has changed since, or is about to be found wrong."""
        rip = self._vcpu.run.regs.rip
        if rip != self._last_rip:
            self._last_rip, self._repeated = rip, 0
        self._repeated += 1
        if self._repeated > REPEATS:
            self._processor.run_failed(errno.EFAULT)
