# SPDX-License-Identifier: Apache-2.0
"""Writes of an instruction that is over but for them, and that cannot be made again: they wait for the VTL to go on.

A KVM that emulates ring 0 tells of a refused write when the instruction's registers are changed already. Where the
instruction is not found (`write_origin`), its owner is told with RIP behind it, and the write is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvmapi import Vcpu
from vmm.backend.vp import BEFORE_ENTRY
from vmm.hypercall.outside import AccessInterceptedError

_IMMEDIATE_EXIT: Final = 1  # struct kvm_run: u8 immediate_exit


@dataclass(slots=True)
class _Instruction:
    """RIP behind it and RSP, and `(gpa, data)` of those of its writes that are not made yet."""

    rip: int
    rsp: int
    parts: list[tuple[int, bytes]]


class KeptWrites:
    """Those of one VTL of one VP, of one instruction at a time. All but `drop` on the VP's thread."""

    def __init__(
        self, vcpu: Vcpu, write: Callable[[int, bytes], None], refuse: Callable[[int, int], None]
    ) -> None:
        """write: makes a write at a GPA (`AccessInterceptedError`). refuse: given GPA and bytes of a write, tells
        whoever refuses it, if anybody does."""
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

    def keep(self, rip: int, rsp: int, parts: list[tuple[int, bytes]]) -> None:
        """Tell of the first of `parts`, which are `(gpa, data)`; all are made when the VTL goes on at `rip`."""
        self._wait(_Instruction(rip, rsp, parts))

    def _wait(self, kept: _Instruction) -> None:
        self._kept = kept
        self._handlers[BEFORE_ENTRY] = self._go_on
        gpa, data = kept.parts[0]
        self._refuse(gpa, len(data))

    def _go_on(self) -> None:
        """Unless a higher VTL has sent this one elsewhere, what it wanted to write is written, or refused again."""
        del self._handlers[BEFORE_ENTRY]
        kept, self._kept = self._kept, None
        regs = self._vcpu.run.regs  # where a higher VTL's changes are
        if kept is None or (int(regs.rip), int(regs.rsp)) != (kept.rip, kept.rsp):
            return
        while kept.parts:
            try:
                self._write(*kept.parts[0])
            except AccessInterceptedError:
                self._vcpu.run.u8[_IMMEDIATE_EXIT] = 1  # asked again, where nobody else runs meanwhile
                self._wait(kept)
                return
            del kept.parts[0]
