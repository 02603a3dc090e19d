# SPDX-License-Identifier: Apache-2.0
"""Sleep by the idle MSR: until an interrupt comes, taken or not (TLFS 7.5).

KVM's halt ends with an interrupt that the VP can take, so it is what a VP with RFLAGS.IF gets. One without is put into
the same halt, brought out of the guest now and then, and let go once an interrupt waits in its local APIC. It goes on
up to `LONGEST_LOOK_NS` late.

Implements: MISC-003
"""

from __future__ import annotations

from typing import Final

from kvmapi.uapi import kvm as k
from vmm.backend.hyperv.local_apic import deliverable
from vmm.backend.vp import VirtualProcessor
from vmm.outside import Clock

FIRST_LOOK_NS: Final = 100_000
LONGEST_LOOK_NS: Final = 2_000_000
_RFLAGS_IF: Final = 1 << 9


class IdleSleep:
    """One VP's. Used on its thread."""

    def __init__(self, processor: VirtualProcessor, clock: Clock) -> None:
        self._processor = processor
        self._vcpu = processor.vcpu
        """That of the VTL which sleeps; another may run meanwhile."""
        self._clock = clock
        self._timer = clock.timer(processor.kick)
        self._masked = False
        """Asleep with interrupts disabled: KVM does not wake it."""
        self._wait_ns = FIRST_LOOK_NS

    def sleep(self) -> None:
        """Let the VP halt. Errors: `KvmError`."""
        vcpu = self._vcpu = self._processor.vcpu
        self._masked = not vcpu.run.regs.rflags & _RFLAGS_IF
        if self._masked:
            if self._interrupted():
                self._masked = False
                return
            self._wait_ns = FIRST_LOOK_NS
            self._timer.arm(self._clock.now_ns() + self._wait_ns)
        vcpu.set_mp_state(k.KVM_MP_STATE_HALTED)

    def look(self) -> None:
        """The VP is on its way into the guest again: let it run if it was interrupted. Errors: `KvmError`."""
        if not self._masked:
            return
        vcpu = self._vcpu
        if vcpu.get_mp_state() != k.KVM_MP_STATE_HALTED:  # an NMI or INIT has ended the sleep
            self._masked = False
        elif self._interrupted():
            self._masked = False
            vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)
        else:
            self._wait_ns = min(2 * self._wait_ns, LONGEST_LOOK_NS)
            self._timer.arm(self._clock.now_ns() + self._wait_ns)

    def reset(self) -> None:
        """The VP does not sleep. It is frozen."""
        self._masked = False
        self._timer.cancel()

    def _interrupted(self) -> bool:
        return deliverable(self._vcpu.get_lapic())
