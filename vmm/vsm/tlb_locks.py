# SPDX-License-Identifier: Apache-2.0
"""TLB locks: while a higher VTL looks at a lower one's page tables, that one's flushes do not complete (TLFS 15.5.2.2).

A lock belongs to the VP and owner VTL whose HvRegisterVsmVpSecureConfigVtlN has TlbLocked set, whichever VP wrote it,
and holds VTL N's TLB of that VP. All locks on a VTL count, and each is counted apart.

Implements: VSM-140, VSM-141, VSM-142, VSM-143, VSM-144
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmm.vsm.vtl import TLB_LOCKED

if TYPE_CHECKING:
    from vmm.vsm.vp import VsmVp


class TlbLocks:
    """All locks of a partition. Thread-safe; `wake` is called without a lock."""

    def __init__(self, wake: Callable[[int], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._vps: tuple[VsmVp, ...] = ()
        self._held: dict[tuple[int, int], int] = {}  # (locked VTL, VP) -> owners, bit N for VTL N

    def attach(self, vps: tuple[VsmVp, ...]) -> None:
        """The VPs, which know their locks; once."""
        self._vps = vps

    def reset(self) -> None:
        """No locks. The VPs have been reset."""
        self._held = {}

    def blocks(self, vtl: int, vps: int) -> bool:
        """Whether a flush that `vtl` asks of the VPs in the mask `vps` has to wait: RIP stays at the hypercall, whose
        caller takes its interrupts and enters higher VTLs meanwhile (HC-015)."""
        if not self._held:
            return False
        return any(locked == vtl and vps >> vp & 1 for locked, vp in tuple(self._held))

    def configure(self, vp: int, owner: int, vtl: int, value: int) -> None:
        """`owner` on VP `vp` has HvRegisterVsmVpSecureConfigVtlN for `vtl` written: take or free the lock."""
        freed: list[int] = []
        with self._lock:
            state = self._vps[vp].vtls[owner]
            state.secure_config[vtl] = value
            if value & TLB_LOCKED:
                state.tlb_locks |= 1 << vtl
                self._held[vtl, vp] = self._held.get((vtl, vp), 0) | 1 << owner
            elif state.tlb_locks >> vtl & 1:
                freed = self._free(vp, owner, vtl)
        self._wake_all(freed)

    def take(self, vp: int, owner: int, vtl: int) -> None:
        """`owner` on VP `vp` takes the lock on `vtl`, as by its register (TlbFlushInhibit of a translation)."""
        configured = self._vps[vp].vtls[owner].secure_config.get(vtl, 0)
        self.configure(vp, owner, vtl, configured | TLB_LOCKED)

    def release(self, vp: int, owner: int) -> None:
        """A VTL return of `owner` on VP `vp`: all its locks there go, and their bits in its registers."""
        freed: list[int] = []
        with self._lock:
            state = self._vps[vp].vtls[owner]
            for vtl in range(owner):
                if state.tlb_locks >> vtl & 1:
                    state.secure_config[vtl] &= ~TLB_LOCKED
                    freed += self._free(vp, owner, vtl)
        self._wake_all(freed)

    def wait(self, vp: int, vtl: int, waiting: bool) -> None:
        """HvRegisterVsmVpWaitForTlbLock: hold `vtl` of VP `vp` back until the locks on that VTL that other VPs have now
        are gone, or hold it back no more.

        Implements: VSM-018, VSM-145
        """
        with self._lock:
            state = self._vps[vp].vtls[vtl]
            state.waits_for.clear()
            if waiting:
                state.waits_for |= {
                    (holder, owner)
                    for (locked, holder), owners in self._held.items()
                    if locked == vtl and holder != vp
                    for owner in range(owners.bit_length())
                    if owners >> owner & 1
                }

    def _free(self, vp: int, owner: int, vtl: int) -> list[int]:
        """The VPs that have something to go on with: those that waited for this lock. The lock is held."""
        self._vps[vp].vtls[owner].tlb_locks &= ~(1 << vtl)
        owners = self._held.get((vtl, vp), 0) & ~(1 << owner)
        if owners:
            self._held[vtl, vp] = owners
        else:
            self._held.pop((vtl, vp), None)
        freed = []
        for other in self._vps:
            state = other.vtls.get(vtl)
            if state is not None and (vp, owner) in state.waits_for:
                state.waits_for.discard((vp, owner))
                if not state.waits_for:
                    freed.append(other.index)
        return freed

    def _wake_all(self, vps: list[int]) -> None:
        for vp in vps:
            self._wake(vp)
