# SPDX-License-Identifier: Apache-2.0
"""What one VP needs of another one's vCPU, done on that one's own thread.

A vCPU's ioctls wait while it is in `KVM_RUN`, and its registers change there. So the asking VP leaves an errand and
kicks the other one, which carries it out on its way into the guest again. While it waits, it carries out those that are
left for itself: two VPs may ask each other. It waits for a while (`patience`), then takes the errand back and asks its
guest to make the call again.

What an errand changes of the general registers of a VP that waits is what that VP goes on with, whatever its own call
does to them: it has come while the call was being made, and is kept (`Meanwhile`) for when the call ends.

An errand that the other VP has begun is waited for to its end, which needs nothing of the asking one. So one is
done once, and nobody but the call that left it gets its answer; of a call that is not done nothing is left.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import sizeof
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kvmapi import run as run_page
from kvmapi.uapi import x86
from vmm.backend.hyperv.patience import Patience
from vmm.backend.hyperv.tlbs import VpTlbs
from vmm.backend.vp import VirtualProcessor

T = TypeVar("T")

_FIRST_U64: Final = run_page.SYNC_REGS // 8
_GENERAL: Final = slice(_FIRST_U64, _FIRST_U64 + sizeof(x86.kvm_regs) // 8)
RIP_U64: Final = (run_page.SYNC_REGS + x86.kvm_regs.rip.offset) // 8
"""Where RIP is among `Meanwhile.general`."""


@dataclass(slots=True, eq=False)
class _Errand:
    work: Callable[[], Any]
    done: bool = False
    result: Any = None
    error: Exception | None = None


class Meanwhile:
    """What errands have done to a VP whose hypercall waited. Its own thread's; its caller takes it when the call ends.

    general: general registers that they have changed, by their place in kvm_run as 64-bit words.
    """

    __slots__ = ("general", "happened")

    def __init__(self) -> None:
        self.happened = False
        self.general: dict[int, int] = {}


class Errands:
    """A machine's. Thread-safe; see the package for threads."""

    def __init__(self, processors: Sequence[VirtualProcessor], tlbs: VpTlbs) -> None:
        """tlbs: nobody waits for a flush of a VP that waits here, perhaps for that one."""
        self._tlbs = tlbs
        self._processors = processors
        self.before_work: Callable[[int], object] = lambda vp: None
        """Called on the VP's thread before it does something for a VP."""
        self._changed = threading.Condition()
        self._left: list[deque[_Errand]] = [deque() for _ in processors]
        """By VP: what others wait for, the oldest first."""
        self._patience = [Patience() for _ in processors]
        self.meanwhile = [Meanwhile() for _ in processors]
        """By VP."""

    def ask(self, caller: int, target: int, work: Callable[[], T]) -> T | None:
        """What `work`, done on `target`'s thread, returns; None: it was not done, `caller` is to ask again.

        Called on `caller`'s thread. `work` does not wait for the caller. An exception of `work` is raised here.
        """
        if caller == target:
            self.before_work(caller)
            return work()
        errand, patience = _Errand(work), self._patience[caller]
        with self._changed:
            self._left[target].append(errand)
            self._changed.notify_all()  # the target may be waiting itself
        self._tlbs.leave(caller)
        try:
            self._processors[target].kick()
            done = self._wait(caller, target, errand, patience.seconds)
        finally:
            self._tlbs.come_back(caller)
        if not done:
            patience.ran_out()
            return None
        patience.sufficed()
        if errand.error is not None:
            raise errand.error
        result: T = errand.result
        return result

    def _wait(self, caller: int, target: int, errand: _Errand, seconds: float) -> bool:
        """Until the errand is done; False: nobody has begun it, and nobody will."""
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                if errand.done:
                    return True
                own = self._take(caller)
                if own is None:
                    left = deadline - time.monotonic()
                    if left > 0:
                        self._changed.wait(left)
                    elif self._take_back(target, errand):
                        return False
                    else:
                        self._changed.wait()  # it has begun
                    continue
            try:
                self._carry_out_meanwhile(caller, own)
            except Exception:
                with self._changed:
                    self._take_back(target, errand)
                raise

    def after_kick(self, vp: int) -> None:
        """The VP is on its way into the guest again: do what it was asked for."""
        while self._left[vp]:
            with self._changed:
                errand = self._take(vp)
            if errand is not None:
                self._carry_out(vp, errand)

    def _take(self, vp: int) -> _Errand | None:
        """The oldest errand left for `vp`. With the lock held."""
        left = self._left[vp]
        return left.popleft() if left else None

    def _take_back(self, target: int, errand: _Errand) -> bool:
        """Whether nobody has begun it; then nobody will. With the lock held."""
        left = self._left[target]
        if errand not in left:
            return False
        left.remove(errand)
        return True

    def _carry_out_meanwhile(self, vp: int, errand: _Errand) -> None:
        """`_carry_out` while a hypercall of `vp` waits."""
        u64 = self._processors[vp].vcpu.run.u64
        before = u64[_GENERAL].tolist()
        self._carry_out(vp, errand)
        now = u64[_GENERAL].tolist()
        meanwhile = self.meanwhile[vp]
        meanwhile.happened = True
        if now != before:
            for place, (old, new) in enumerate(zip(before, now, strict=True), _FIRST_U64):
                if old != new:
                    meanwhile.general[place] = new

    def _carry_out(self, vp: int, errand: _Errand) -> None:
        """On `vp`'s thread. An error of the work is the asker's to deal with, one before it also this VP's."""
        try:
            self.before_work(vp)
            try:
                errand.result = errand.work()
            except Exception as error:
                errand.error = error
        except Exception as error:
            errand.error = error
            raise
        finally:  # whatever it was, somebody waits
            with self._changed:
                errand.done = True
                self._changed.notify_all()
