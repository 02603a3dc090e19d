# SPDX-License-Identifier: Apache-2.0
"""Flushing the TLBs of several VPs (`vmm.hvcalls.outside.Tlbs`), on a KVM that has no call for it.

A VP flushes its own TLB, on its thread and before it enters the guest again: CR4.PGE changes and changes back, and
KVM drops the vCPU's translations when CR4 changes in KVM_SET_SREGS, as the processor does when the guest does it.
More goes than was asked for, which is allowed.

A VP that is outside the guest with a flush to do cannot use a stale translation, so it counts as done. The caller
waits for the others for a while (`patience`), then asks the guest to make the call again. That one asks for all flushes
anew: an equal call that is made later, after other changes to the tables, must not be taken for the repeated one.

Implements: TLB-003, TLB-004
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kvmapi import run as run_page
from vmm.backend.hyperv.patience import Patience
from vmm.backend.vp import VirtualProcessor
from vmm.hvcalls.outside import TlbFlush
from vmm.hvcalls.vp_sets import members

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


class VpTlbs:
    """The TLBs of a machine's VPs. Thread-safe; see the package for threads."""

    def __init__(self, processors: Sequence[VirtualProcessor]) -> None:
        self._processors = processors
        self._changed = threading.Condition()
        self._targets = [_Target() for _ in processors]
        self._patience = [Patience() for _ in processors]
        # Whether a higher VTL holds the TLBs of `(vtl, vps)`: then a flush waits (VSM-140).
        self.held: Callable[[int, int], bool] = lambda vtl, vps: False

    def reset(self) -> None:
        """All VPs are frozen, their TLBs empty."""
        with self._changed:
            self._targets = [_Target() for _ in self._processors]

    def flush(self, vp: int, request: TlbFlush) -> bool:
        """Carry out a flush that `vp` asked for, on its thread; False: the caller is to ask again.

        So it does while a higher VTL holds one of the TLBs: its RIP stays at the call.

        Implements: IMP-009
        """
        if self.held(request.vtl, request.vps):
            return False
        patience = self._patience[vp]
        with self._changed:
            waits_for = self._ask(vp, request.vps)
            self._leave(vp)
            deadline = time.monotonic() + patience.seconds
            while not (finished := self._finished(waits_for)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        if finished:
            patience.sufficed()
        else:
            patience.ran_out()
        self.come_back(vp)
        return finished

    def leave(self, vp: int) -> None:
        """The VP is going to wait for others, outside the guest: nobody needs to wait for its flushes."""
        with self._changed:
            self._leave(vp)

    def come_back(self, vp: int) -> None:
        """It has waited. Carries out what was asked for meanwhile. Errors: `KvmError`."""
        own = self._targets[vp]
        with self._changed:
            own.outside = False
            owed, own.owed = own.owed, False
        if owed:
            self.flush_own(vp)

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
        """Ask every VP of the set; the counts of each that must be done. With the lock held."""
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

    def _leave(self, vp: int) -> None:
        """With the lock held."""
        own = self._targets[vp]
        own.outside = True
        if own.done != own.wanted:
            self._owe(own)

    def _owe(self, target: _Target) -> None:
        target.done = target.wanted
        target.owed = True
        self._changed.notify_all()

    def _finished(self, waits_for: dict[int, int]) -> bool:
        targets = self._targets
        return all(targets[number].done >= count for number, count in waits_for.items())
