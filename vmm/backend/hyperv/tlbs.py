# SPDX-License-Identifier: Apache-2.0
"""Flushing the TLBs of several VPs (`vmm.hvcalls.outside.Tlbs`), on a KVM that has no call for it.

A VP flushes its own TLB, on its thread and before it enters the guest again: CR4.PGE changes and changes back, and
KVM drops the vCPU's translations when CR4 changes in KVM_SET_SREGS, as the processor does when the guest does it.
More goes than was asked for, which is allowed.

A VP that is outside the guest with a flush to do cannot use a stale translation, so it counts as done. The caller
waits for the others up to `PATIENCE_S`, then asks the guest to make the call again, so that its interrupts are served.

Implements: TLB-003, TLB-004
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kvmapi import run as run_page
from vmm.backend.vp import VirtualProcessor
from vmm.hvcalls.outside import TlbFlush
from vmm.hvcalls.vp_sets import members

PATIENCE_S: Final = 0.001
"""How long a call may wait. Longer than a kick of all VPs takes; an interrupt of the caller's may be this late."""
_CR4_PGE: Final = 1 << 7
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8


@dataclass(slots=True)
class _Target:
    wanted: int = 0
    """Flushes asked for so far."""
    done: int = 0
    """Up to which of them nothing stale can be used any more."""
    outside: bool = False
    """The VP is outside the guest, and carries out what it owes before it goes on."""
    owed: bool = False
    """A flush counts as done and is not carried out yet."""


@dataclass(slots=True)
class _Pending:
    """A call that was not finished."""

    request: TlbFlush
    stack_pointer: int
    """Of the caller: an interrupt handler that makes an equal call meanwhile has another one."""
    waits_for: dict[int, int]
    """VP -> its count that must be done."""


class VpTlbs:
    """The TLBs of a machine's VPs. Thread-safe; see the package for threads."""

    def __init__(self, processors: Sequence[VirtualProcessor]) -> None:
        self._processors = processors
        self._changed = threading.Condition()
        self._targets = [_Target() for _ in processors]
        self._pending: dict[int, _Pending] = {}
        # Whether a higher VTL holds the TLBs of `(vtl, vps)`: then a flush waits (VSM-140).
        self.held: Callable[[int, int], bool] = lambda vtl, vps: False

    def reset(self) -> None:
        """Forget unfinished calls. All VPs are frozen, their TLBs empty."""
        with self._changed:
            self._pending.clear()
            self._targets = [_Target() for _ in self._processors]

    def flush(self, vp: int, request: TlbFlush) -> bool:
        """Carry out a flush that `vp` asked for, on its thread; False: the caller is to ask again.

        So it does while a higher VTL holds one of the TLBs: its RIP stays at the call.

        Implements: IMP-009
        """
        if self.held(request.vtl, request.vps):
            return False
        stack_pointer: int = self._processors[vp].vcpu.run.regs.rsp
        with self._changed:
            call = self._pending.pop(vp, None)
            if call is None or call.request != request or call.stack_pointer != stack_pointer:
                call = _Pending(request, stack_pointer, self._ask(vp, request.vps))
            own = self._targets[vp]
            own.outside = True
            if own.done != own.wanted:
                self._owe(own)
            deadline = time.monotonic() + PATIENCE_S
            while not (finished := self._finished(call)):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._pending[vp] = call
                    break
                self._changed.wait(left)
            own.outside = False
            owed, own.owed = own.owed, False
        if owed:
            self.flush_own(vp)
        return finished

    def after_kick(self, vp: int) -> None:
        """The VP is on its way into the guest again: do what it was asked for."""
        target = self._targets[vp]
        if target.done != target.wanted:
            self.flush_own(vp)

    def flush_own(self, vp: int) -> None:
        """Drop all translations of `vp`, on its thread. Errors: `KvmError`."""
        target = self._targets[vp]
        wanted = target.wanted  # asked for before this flush begins
        self._processors[vp].before_stop()  # nobody else may have one of them
        for vcpu in self._processors[vp].all_vcpus:
            sregs = vcpu.get_sregs()
            sregs.cr4 ^= _CR4_PGE
            vcpu.set_sregs(sregs)
            sregs.cr4 ^= _CR4_PGE
            vcpu.set_sregs(sregs)
        with self._changed:
            target.done = max(target.done, wanted)
            self._changed.notify_all()

    def _ask(self, vp: int, vps: int) -> dict[int, int]:
        """Ask every VP of the set; which of them to wait for, with their counts. With the lock held."""
        waits_for = {}
        for number in members(vps):
            target = self._targets[number]
            target.wanted += 1
            waits_for[number] = target.wanted
            if target.outside:
                self._owe(target)
            elif number != vp:
                self._processors[number].kick()
        return waits_for

    def _owe(self, target: _Target) -> None:
        target.done = target.wanted
        target.owed = True
        self._changed.notify_all()

    def _finished(self, call: _Pending) -> bool:
        targets = self._targets
        return all(targets[number].done >= count for number, count in call.waits_for.items())
