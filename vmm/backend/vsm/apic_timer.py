# SPDX-License-Identifier: Apache-2.0
"""The local APIC timer of a VTL that does not run: it must bring its VP back."""

from __future__ import annotations

from collections.abc import Callable

from kvmapi import Vcpu
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_ioctl import KVM_GET_LAPIC
from vmm.backend.hyperv.local_apic import IRR, has
from vmm.backend.vsm import readiness
from vmm.backend.vsm.poke import poke
from vmm.outside import Clock

_MSR_TSC_DEADLINE = 0x6E0
TSC_UNKNOWN_NS = 1_000_000
"""How often a TSC deadline is looked at where nobody knows the guest's TSC."""
LATE_NS = 200_000
"""By when the host's timer has fired whose count is zero, unless the host is busy."""


class ApicTimer:
    """One VTL's of one VP. KVM counts on while the vCPU stands, but tells nobody that the timer ran out.

    Used on the VP's thread; only the timer's kick comes from another one.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        clock: Clock,
        kick: Callable[[], None],
        *,
        bus_cycle_ns: int,
        read_tsc: Callable[[], int] | None,
        tsc_khz: int,
    ) -> None:
        """kick: brings the VP's thread out of the guest. read_tsc: the guest's TSC now, None where it is not known."""
        self._vcpu = vcpu
        self._clock = clock
        self._bus_cycle_ns = bus_cycle_ns
        self._read_tsc = read_tsc
        self._tsc_khz = tsc_khz
        self._timer = clock.timer(kick)
        self.lapic = x86.kvm_lapic_state()
        """Its local APIC as `read_lapic` has found it last."""
        self.read_lapic = vcpu.quick_ioctl(KVM_GET_LAPIC, self.lapic)
        self._unread = False  # it has stopped since, and nobody has looked
        self._deadline_ns: int | None = None
        self._counts = False  # it had not run out when the VTL stopped

    def stopped(self) -> None:
        """The VTL has just stopped; `lapic` says what waits for it. Errors: `KvmError`."""
        self._unread = False
        lapic = self.lapic
        self.read_lapic()
        if self._read_tsc is not None and readiness.by_deadline(lapic):
            self._stopped_with_deadline()
            return
        over = readiness.may_be_over(lapic)
        if over:  # since the last entry, and its interrupt is not in IRR then
            poke(self._vcpu)
            self.read_lapic()
            over = readiness.may_be_over(lapic)
        left_ns = self._left_ns(lapic)
        self._counts = left_ns is not None
        if left_ns is None and over and not self._arrived(lapic):
            left_ns = LATE_NS  # it was delivered long ago, or its host timer is late: look once more
        self._arm(left_ns)

    def _stopped_with_deadline(self) -> None:
        """KVM sets the deadline to 0 when its interrupt enters IRR: what is due and not 0 has not done so."""
        left_ns = self._left_ns(self.lapic)
        if left_ns == 0:
            poke(self._vcpu)
            self.read_lapic()
            left_ns = self._left_ns(self.lapic)
        self._counts = left_ns is not None
        self._arm(left_ns)

    def left(self) -> None:
        """The VTL has just stopped for a higher one, which does not care what comes for it meanwhile."""
        self._unread = True

    def look(self) -> None:
        """See to it that the interrupt is in IRR if the timer has run out; `lapic` says it. Errors: `KvmError`."""
        if self._unread:
            self.stopped()
            return
        lapic = self.lapic
        if self._deadline_ns is None or self._clock.now_ns() < self._deadline_ns:
            self.read_lapic()
            return
        poke(self._vcpu)
        self.read_lapic()
        if not readiness.periodic(lapic) and self._requested(lapic):
            self._arm(None)  # that was all
            return
        left_ns = self._left_ns(lapic)
        if left_ns is None and self._counts and not self._arrived(lapic):
            left_ns = LATE_NS  # the count is zero, and the host's timer behind it has not fired yet
        self._arm(left_ns)

    def _requested(self, lapic: readiness.Lapic) -> bool:
        vector = readiness.timer_vector(lapic)
        return vector is not None and has(lapic, IRR, vector)

    def _arrived(self, lapic: readiness.Lapic) -> bool:
        """Whether the timer's interrupt is requested, or on its way."""
        vector = readiness.timer_vector(lapic)
        if vector is None or has(lapic, IRR, vector):
            return True
        interrupt = self._vcpu.get_vcpu_events().interrupt
        return bool(interrupt.injected and interrupt.nr == vector)

    def runs(self) -> None:
        """The VTL runs: its timer is KVM's business again."""
        self._unread = False
        self._arm(None)

    def close(self) -> None:
        """The VTL is gone."""
        self._arm(None)

    def _arm(self, left_ns: int | None) -> None:
        if left_ns is None:
            if self._deadline_ns is not None:
                self._deadline_ns = None
                self._timer.cancel()
            return
        self._deadline_ns = self._clock.now_ns() + left_ns
        self._timer.arm(self._deadline_ns)

    def _left_ns(self, lapic: readiness.Lapic) -> int | None:
        deadline = tsc = 0
        if readiness.by_deadline(lapic):
            deadline = self._vcpu.get_msrs([_MSR_TSC_DEADLINE])[0][1]
            if self._read_tsc is None:
                return TSC_UNKNOWN_NS if deadline and readiness.timer_vector(lapic) is not None else None
            tsc = self._read_tsc()
        return readiness.timer_left_ns(lapic, self._bus_cycle_ns, deadline, tsc, self._tsc_khz)
