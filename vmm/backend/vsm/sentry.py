# SPDX-License-Identifier: Apache-2.0
"""A thread that waits in the kernel for an event of the vCPU of one inactive VTL (KVM_MP_STATE_HV_INACTIVE_VTL).

| state | who may use the vCPU | ends |
|---|---|---|
| home | the VP's thread, as always | `post` |
| posted | the sentry, in KVM_RUN | an event, a kick of the VP; `recall` waits for it |

So there is one user at any time, and the vCPU is back before the VP's thread touches it. It comes back as it was: its
MP state is put back, and KVM_RUN in that state executes nothing.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from kvmapi import KvmError, Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import KVM_MP_STATE_HV_INACTIVE_VTL
from vmm.backend import host_thread, kick

_EXIT_REASON_U32 = 2


class Sentry:
    """Of one vCPU. All methods are for the VP's thread, or while that is frozen."""

    def __init__(
        self, vcpu: Vcpu, name: str, woken: Callable[[], None], stay_out: Callable[[Vcpu, bool], None]
    ) -> None:
        """woken: an event has come, and the vCPU is on its way home; or it failed, which `recall` raises. stay_out: of
        the VP (`vmm.backend.vp.VirtualProcessor.ask_to_stay_out`).
        """
        self.vcpu = vcpu
        self._stay_out = stay_out
        self._woken = woken
        self._changed = threading.Condition()
        self._posted = False
        self._wanted_home = False
        self._ending = False
        self._event = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def post(self) -> None:
        """Let it wait. The vCPU is home."""
        # A kick that was seen already may have left its mark on this vCPU alone: the sentry would come home, and nobody
        # would post it again. From here on whatever marks this one marks the running one too.
        self._stay_out(self.vcpu, False)
        with self._changed:
            self._posted, self._wanted_home, self._event = True, False, False
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()

    def recall(self) -> bool:
        """Have the vCPU home. Whether an event has come since `post`. Errors: `KvmError` that the sentry met."""
        with self._changed:
            self._call_home()
            if self._failure is not None:
                raise self._failure
            event, self._event = self._event, False
            return event

    def _call_home(self) -> None:
        """With `_changed` held."""
        if not self._posted:
            return
        self._wanted_home = True
        self._stay_out(self.vcpu, True)
        kick.kick(self._thread)
        while not self._changed.wait_for(lambda: not self._posted, kick.AGAIN_S):
            kick.kick(self._thread)
        self._stay_out(self.vcpu, False)

    def end(self) -> None:
        """End the thread, wherever it is. Idempotent."""
        with self._changed:
            self._call_home()
            self._ending = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- on its own thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        host_thread.tell_name()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._posted or self._ending)
                if self._ending:
                    return
                home = self._wanted_home
            event = False
            if not home:
                try:
                    event = self._wait()
                except Exception as error:  # it is the VP's to deal with
                    self._failure = error
                    self._woken()
            with self._changed:
                self._posted, self._event = False, event
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Whether there is an event; False: somebody wants the vCPU, or its VP."""
        vcpu = self.vcpu
        before = vcpu.get_mp_state()
        vcpu.set_mp_state(KVM_MP_STATE_HV_INACTIVE_VTL)
        number = vcpu.run_once()
        if not number:
            self._woken()  # while its VP leaves the guest, the rest is done
        vcpu.set_mp_state(before)
        if number in (errno.EINTR, errno.EAGAIN):
            return False
        if number:
            raise KvmError(
                number, "KVM_RUN", {"mp_state": KVM_MP_STATE_HV_INACTIVE_VTL}, f"vCPU {vcpu.vcpu_id}"
            )
        reason = vcpu.run.u32[_EXIT_REASON_U32]
        if reason != k.KVM_EXIT_SYSTEM_EVENT:
            raise RuntimeError(
                f"the vCPU of an inactive VTL left KVM_RUN with exit reason {reason}: expected a wake-up"
            )
        return True
