# SPDX-License-Identifier: Apache-2.0
"""Writes of an instruction that is over but for them, and that cannot be made again: they wait for the VTL to go on.

A KVM that emulates ring 0 tells of a refused write when the instruction's registers are changed already. Where the
instruction is not found (`write_origin`), its owner is told with RIP behind it, and the write is kept here. So it is
where the instruction is known and cannot be made again (`Origin.again`); then the owner is told with the registers
before it, and those behind it are kept as well.

An exception that a higher VTL gives the VTL instead ends it: nothing more is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import sregs_of
from vmm.backend.protection.unfinished import put_registers
from vmm.backend.protection.write_origin import Origin
from vmm.backend.vp import BEFORE_ENTRY
from vmm.hypercall.outside import AccessInterceptedError

_IMMEDIATE_EXIT: Final = 1  # struct kvm_run: u8 immediate_exit


@dataclass(slots=True)
class _Instruction:
    """regs: with which its owner was told; after: those behind it, if that are others. parts: `(gpa, data)` of those of
    its writes that are not made yet; made: bytes of the others."""

    regs: x86.kvm_regs
    after: x86.kvm_regs | None
    origin: Origin | None
    parts: list[tuple[int, bytes]]
    made: int = 0


class KeptWrites:
    """Those of one VTL of one VP, of one instruction at a time. All but `drop` on the VP's thread."""

    def __init__(
        self,
        vcpu: Vcpu,
        write: Callable[[int, bytes], None],
        refuse: Callable[[int, int, Origin | None, int], None],
    ) -> None:
        """write: makes a write at a GPA (`AccessInterceptedError`). refuse: given GPA and bytes of a write, and where
        it came from and how many bytes of that are made, tells whoever refuses it, if anybody does."""
        self._vcpu = vcpu
        self._write = write
        self._refuse = refuse
        self._handlers: dict[int, Callable[[], None]] = {}
        self._kept: _Instruction | None = None

    def attach(self, handlers: dict[int, Callable[[], None]]) -> None:
        """handlers: those of the VTL. The VP's thread does not run it."""
        self._handlers = handlers

    def drop(self) -> None:
        """The VTL begins anew: nothing is written. Its VP is frozen."""
        self._handlers.pop(BEFORE_ENTRY, None)
        self._kept = None

    def keep(self, regs: x86.kvm_regs, parts: list[tuple[int, bytes]]) -> None:
        """Tell of the first of `parts`, which are `(gpa, data)`, of an instruction that is not found; all are made when
        the VTL goes on behind it. regs: the VTL's."""
        self._wait(_Instruction(_copy(regs), None, None, parts))

    def keep_known(self, origin: Origin, after: x86.kvm_regs, parts: list[tuple[int, bytes]]) -> None:
        """The same of an instruction that is known: the VTL has the registers before it, and gets those behind it
        (`after`) when it goes on with it. Errors: `KvmError`."""
        kept = _Instruction(_copy(origin.regs), _copy(after), origin, parts)
        put_registers(self._vcpu, kept.regs, self._vcpu.get_sregs())
        self._wait(kept)

    def _wait(self, kept: _Instruction) -> None:
        self._kept = kept
        self._handlers[BEFORE_ENTRY] = self._go_on
        gpa, data = kept.parts[0]
        self._refuse(gpa, len(data), kept.origin, kept.made)

    def _go_on(self) -> None:
        """Unless a higher VTL has sent this one elsewhere, what it wanted to write is written, or refused again."""
        del self._handlers[BEFORE_ENTRY]
        kept, self._kept = self._kept, None
        regs = self._vcpu.run.regs  # where a higher VTL's changes are
        if kept is None or (regs.rip, regs.rsp) != (kept.regs.rip, kept.regs.rsp):
            return
        exception = self._vcpu.get_vcpu_events().exception
        if exception.injected or exception.pending:
            return
        while kept.parts:
            try:
                self._write(*kept.parts[0])
            except AccessInterceptedError:
                self._vcpu.run.u8[_IMMEDIATE_EXIT] = 1  # asked again, where nobody else runs meanwhile
                self._wait(kept)
                return
            kept.made += len(kept.parts.pop(0)[1])
        if kept.after is not None:
            self._end(kept.regs, kept.after)

    def _end(self, before: x86.kvm_regs, after: x86.kvm_regs) -> None:
        """The instruction is over. What a higher VTL has changed of the registers stays so."""
        regs = _copy(self._vcpu.run.regs)
        for name, *_ in x86.kvm_regs._fields_:
            if getattr(regs, name) == getattr(before, name):
                setattr(regs, name, getattr(after, name))
        put_registers(self._vcpu, regs, sregs_of(self._vcpu))


def _copy(regs: x86.kvm_regs) -> x86.kvm_regs:
    return x86.kvm_regs.from_buffer_copy(regs)
