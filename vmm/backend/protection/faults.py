# SPDX-License-Identifier: Apache-2.0
"""Accesses that memory attributes refuse: KVM_EXIT_MEMORY_FAULT of a kernel with VSM (api.rst, section 5).

KVM_RUN fails with EFAULT then. The instruction has not been carried out, RIP and all registers are as before it, and
entering again repeats it: whoever was told decides by what it has changed until then.

The exit may be one that was on its way while a VTL gave the rights back. Then the access is simply repeated.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from ctypes import sizeof
from struct import Struct
from typing import Final, NamedTuple

from kvmapi import KvmError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from kvmapi.uapi.vsm import (
    KVM_MEMORY_EXIT_FLAG_EXEC,
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK,
    KVM_MEMORY_EXIT_FLAG_WRITE,
)
from vmm.backend.protection.repeats import Repeats
from vmm.backend.vp import REFUSED_ACCESS, VirtualProcessor
from vmm.hv.constants import HV_PAGE_SHIFT
from vmm.vsm.outside import MemoryAccess, MemoryIntercepts
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ, WRITE, describe

# struct kvm_run: u32 exit_reason @8; the exit's own part from byte 32 on
_EXIT_REASON_U32: Final = 8 // 4
_EXIT: Final = 32
# kvmapi.uapi.vsm.kvm_run_memory_fault_vsm: flags, gpa, size u64; insn_len, nr_insn_bytes u8; insn_bytes; access_gpa u64
_fault: Final = Struct("<QQQBB15s7xQ").unpack_from

REPEATS: Final = 10_000
"""Faults of one instruction, one after the other and with all registers the same, that the table of rights has no
reason for. So often cannot be a change of rights under way: table and kernel disagree, and the guest would repeat the
instruction for ever. No guest can bring that about by itself: the host had memory neither for a change nor for its
undoing."""
TOLD_AGAIN: Final = 100
"""Such faults after which the kernel is told the page's rights once more."""
_REGS: Final = slice(run_page.SYNC_REGS, run_page.SYNC_REGS + sizeof(x86.kvm_regs))


_NAMES: Final = {READ: "reading", WRITE: "writing", EXECUTE: "executing"}


class Alias(NamedTuple):
    """A second place at which a VTL finds a piece of RAM: `size` bytes at `gpa` are those at `ram_gpa`."""

    gpa: int
    size: int
    ram_gpa: int


def ram_gpa_of(gpa: int, aliases: Sequence[Alias]) -> int:
    """Where in RAM `gpa` is: in the original of the alias that it is in, else `gpa` itself."""
    for alias in aliases:
        if alias.gpa <= gpa < alias.gpa + alias.size:
            return alias.ram_gpa + gpa - alias.gpa
    return gpa


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
        tell_again: Callable[[int, int], None],
        *,
        tells_instruction: bool,
    ) -> None:
        """tell_again: tells the kernel what a VTL may do with a page of RAM (`KvmError`). tells_instruction: whether
        the exit has the exact address and the instruction (KVM_X86_VSM_FAULT_INSN)."""
        self._processor = processor
        self._vcpu = vcpu
        self._vtl = vtl
        self._protections = protections
        self._intercepts = intercepts
        self._aliases = aliases
        self._tells_instruction = tells_instruction
        self._tell_again = tell_again
        self._repeats = Repeats()

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
            self._repeat(self._ram_gpa(gpa), wanted)
            return
        self._repeats.end()
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
        return ram_gpa_of(gpa, self._aliases)

    def _repeat(self, gpa: int, wanted: int) -> None:
        """The table allows the access: it has changed since, or the kernel has not heard of it."""
        repeated = self._repeats.count(bytes(self._vcpu.run.u8[_REGS]))
        if repeated == TOLD_AGAIN:
            with contextlib.suppress(KvmError):  # there is still no memory
                self._tell_again(self._vtl, gpa >> HV_PAGE_SHIFT)
        if repeated > REPEATS:
            allowed = describe(self._protections.rights(self._vtl, gpa >> HV_PAGE_SHIFT))
            self._processor.run_failed(
                errno.EFAULT,
                f"KVM keeps VTL{self._vtl} from {_NAMES[wanted]} {gpa:#x}, where its rights are {allowed}: it had no "
                "memory to take the page's attributes back",
            )
