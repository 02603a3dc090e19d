# SPDX-License-Identifier: Apache-2.0
"""How VTL0 of a processor starts: by INIT and SIPI inside KVM_RUN, of which nobody tells, or by hypercall alone.

`VsmPartition.accepts_startup_signal` says which processors hear INIT and SIPI; others are kept from them
(`startup_signals`). Before a VTL is enabled on another processor, that one's own thread looks what has become of it,
and closes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi import kvm as k
from vmm.backend.hyperv.starts import WAITING
from vmm.backend.vp import VirtualProcessor
from vmm.backend.vsm import startup_signals
from vmm.backend.vsm.startup_signals import StartupSignals
from vmm.vsm.partition import VsmPartition

VTL0: Final = 0


class Startup:
    """A machine's processors. Thread-safe where it does not say whose thread it is."""

    def __init__(
        self, partition: VsmPartition, processors: Sequence[VirtualProcessor], signals: StartupSignals
    ) -> None:
        """The processors run VTL0."""
        self._partition = partition
        self._processors = processors
        self._signals = signals
        self._vcpus = [processor.vcpu for processor in processors]
        self._higher: list[Vcpu] = []
        self._begun: set[int] = set()
        self._looked: list[bool | None] = [None] * len(processors)
        """Whether a VP has looked since it was asked to; None: nobody has asked."""

    def ready_for_vtl(self, vp: int) -> bool:
        """Whether VTLs can be enabled on the VP now; else it has been asked to see to it.

        `abandon` follows where none is enabled then.
        """
        processor = self._processors[vp]
        if processor.is_current_thread():
            if not self._partition.vps[vp].started:
                self._partition.vps[vp].start(VTL0)  # it runs, so somebody has
            self._signals.block(self._vcpus[vp], True)
            return True
        state = self._partition.vps[vp]
        if state.enabled != 1 or self._looked[vp] or (state.started and not self._signals.can_block):
            return True
        self._looked[vp] = False
        processor.kick()
        return False

    def begun(self, vp: int) -> None:
        """On the VP's thread: a hypercall has just made a VTL runnable, and will say that the VP is started."""
        self._begun.add(vp)

    def has_begun(self, vp: int) -> bool:
        """On the VP's thread: whether it is started, or a hypercall is about to say so."""
        return self._partition.vps[vp].started or vp in self._begun

    def abandon(self, vp: int) -> None:
        """No VTL was enabled on the VP."""
        self._looked[vp] = None
        self._processors[vp].kick()

    def attend(self, vp: int) -> None:
        """On the VP's thread, on its way into the guest. Errors: `KvmError`."""
        partition, vcpu = self._partition, self._vcpus[vp]
        state, processor = partition.vps[vp], self._processors[vp]
        asked = self._looked[vp] is not None
        # One that is about to get a VTL waits outside of KVM_RUN, where INIT and SIPI would start it meanwhile.
        closed = asked or not partition.accepts_startup_signal(vp, VTL0)
        if state.started:
            self._begun.discard(vp)
        kept_out = processor.held and not state.started  # nobody has started it since
        if closed and state.enabled == 1 and not kept_out:
            self._notice(vp)
        if not state.started and vp not in self._begun:
            if processor.held or closed:
                startup_signals.drop(vcpu)
                # KVM acts on what comes between the two when it is asked; behind INIT alone SIPI would do something.
                if vcpu.get_mp_state() != k.KVM_MP_STATE_UNINITIALIZED:
                    vcpu.set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
            processor.held = closed
            if not closed:
                self._notice(vp)
        self._signals.block(vcpu, closed)
        if asked:
            self._looked[vp] = True if state.enabled == 1 else None

    def _notice(self, vp: int) -> None:
        """Has KVM started VTL0, or sent it back to wait? KVM acts on what has come when it is asked."""
        self._partition.signalled(vp, waits=self._vcpus[vp].get_mp_state() in WAITING)

    def close(self, vp: int, vtl: int, vcpu: Vcpu) -> None:
        """The vCPU of a VTL above 0, which does not run yet: never started by a signal. Errors: `KvmError`."""
        self._signals.block(vcpu, not self._partition.accepts_startup_signal(vp, vtl))
        self._higher.append(vcpu)

    def reset(self) -> None:
        """Signals start processors again; VTLs above 0 are gone. All VPs are frozen. Errors: `KvmError`."""
        self._looked = [None] * len(self._looked)
        self._begun.clear()
        while self._higher:
            self._signals.forget(self._higher.pop())
        for vcpu in self._vcpus:
            self._signals.block(vcpu, False)
