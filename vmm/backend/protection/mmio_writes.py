# SPDX-License-Identifier: Apache-2.0
"""Writes that KVM's emulator tells of by KVM_EXIT_MMIO, when RIP is behind their instruction: made, or refused.

For one that is refused the instruction is found and taken back, and its owner is told. Where it cannot be made again,
or is not found, the write is kept (`kept_writes`). The other accesses that a mapping refuses: `mapping_faults`.

Implements: VSM-080, IMP-007
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from kvmapi import Vcpu
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection import mmio_exit, write_origin
from vmm.backend.protection.faults import Alias, ram_gpa_of
from vmm.backend.protection.kept_writes import KeptWrites
from vmm.backend.protection.unfinished import take_back
from vmm.backend.protection.view import ProtectedView
from vmm.backend.protection.write_origin import Origin
from vmm.hypercall.outside import AccessInterceptedError, ProcessorMemory
from vmm.outside import GuestMemoryError
from vmm.vsm.outside import MemoryAccess, Refused
from vmm.vsm.rights import WRITE


class Rights(Protocol):
    """`vmm.vsm.protections.MemoryProtections`, as far as it is needed here."""

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        """Who refuses `wanted` to `vtl`, if anybody."""


class MmioWrites:
    """Those of one VTL of one VP. All but `drop` on the VP's thread.

    `inexact` counts refused writes whose instruction was not found. Its owner is told with RIP behind it and without an
    instruction; the write is kept, and done when the VTL goes on from there and may do it. Else it is told again.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        vtl: int,
        view: ProtectedView,
        memory: ProcessorMemory,
        protections: Rights,
        tell: Callable[[int, MemoryAccess], None],
        aliases: Sequence[Alias],
    ) -> None:
        """memory: with the VTL's rights. tell: an owner, of an access that it refuses."""
        self.inexact = 0
        self._vcpu = vcpu
        self._vtl = vtl
        self._view = view
        self._memory = memory
        self._protections = protections
        self._tell = tell
        self._aliases = aliases
        self._otherwise: Callable[[], None] = lambda: None
        self._kept = KeptWrites(vcpu, self._make_kept, self._refuse)

    def attach(self, handlers: dict[int, Callable[[], None]], otherwise: Callable[[], None]) -> None:
        """handlers: those of the VTL. otherwise: whose KVM_EXIT_MMIO is for those with whom rights have nothing to do.
        The VP's thread does not run the VTL."""
        self._kept.attach(handlers)
        self._otherwise = otherwise

    def drop(self) -> None:
        """The VTL begins anew: what it was about to write is written no more. Its VP is frozen."""
        self._kept.drop()

    def answer(self, gpa: int, data: bytes) -> bool:
        """Make the write, or leave it to whose it is. False: rights refuse it."""
        if self._is_elsewhere(gpa):
            self._otherwise()
            return True
        try:
            self._memory.write(gpa, data)
        except AccessInterceptedError:
            return False
        except GuestMemoryError:  # a higher VTL's overlay, which has come meanwhile
            self._otherwise()
        return True

    def refuse(self, cpu: Processor, gpa: int, data: bytes) -> None:
        """Take back the instruction of the write, as far as that can be, and tell who refuses it."""
        origin = write_origin.find(cpu, self._view, gpa, data)
        if origin is None or not origin.again:
            parts = [(gpa, data), *take_back(self._vcpu, cpu, vector=False)]
            if origin is not None:
                self._kept.keep_known(origin, cpu.regs, parts)
                return
            self.inexact += 1
            self._kept.keep(cpu.regs, parts)
            return
        cpu.regs = origin.regs
        take_back(self._vcpu, cpu, vector=False)
        self._refuse(gpa, len(data), origin, 0)

    def _refuse(self, gpa: int, size: int, origin: Origin | None, made: int) -> None:
        refused = self._protections.refusing(self._vtl, ram_gpa_of(gpa, self._aliases), size, WRITE)
        if refused is not None:
            self._tell(refused.owner, _access(gpa, origin, made))

    def _make_kept(self, gpa: int, data: bytes) -> None:
        """Errors: `AccessInterceptedError`."""
        if not self._is_elsewhere(gpa):
            with contextlib.suppress(GuestMemoryError):  # a higher VTL's overlay, which has come meanwhile
                self._memory.write(gpa, data)
                return
        # An instruction that writes over two pages may have only one of them in RAM. To those who answer
        # KVM_EXIT_MMIO it is as if KVM told of it now.
        mmio_exit.put_write(self._vcpu.run, gpa, data)
        self._otherwise()

    def _is_elsewhere(self, gpa: int) -> bool:
        return mmio_exit.is_elsewhere(self._view, gpa, ram_gpa_of(gpa, self._aliases), is_write=True)


def _access(gpa: int, origin: Origin | None, made: int) -> MemoryAccess:
    """made: bytes of the write before this one."""
    if origin is None:
        return MemoryAccess(gpa, WRITE)
    raw = origin.instruction.raw
    return MemoryAccess(gpa, WRITE, origin.gva + made, raw, len(raw))
