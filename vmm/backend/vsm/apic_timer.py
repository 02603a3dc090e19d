# SPDX-License-Identifier: Apache-2.0
"""The local APIC timer of a VTL that does not run: it must bring its VP back."""

from __future__ import annotations

from collections.abc import Callable

from kvmapi import Vcpu
from vmm.backend.vsm import readiness
from vmm.outside import Clock

_MSR_TSC_DEADLINE = 0x6E0
TSC_UNKNOWN_NS = 1_000_000
"""A VTL that is entered too early finds nothing to do and returns."""


class ApicTimer:
    """One VTL's of one VP. KVM counts on while the vCPU stands, but tells nobody that the timer ran out.

    `due`: it ran out since the vCPU stopped. Used on the VP's thread; only the timer's kick comes from another one.
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
        """kick: brings the VP's thread out of the guest. read_tsc: the guest's TSC now, None where it is not known:
        then a TSC deadline counts as reached `TSC_UNKNOWN_NS` after the vCPU stopped.
        """
        self._vcpu = vcpu
        self._clock = clock
        self._bus_cycle_ns = bus_cycle_ns
        self._read_tsc = read_tsc
        self._tsc_khz = tsc_khz
        self._timer = clock.timer(kick)
        self._deadline_ns: int | None = None

    @property
    def due(self) -> bool:
        """Whether the timer has run out since the VTL stopped."""
        return self._deadline_ns is not None and self._clock.now_ns() >= self._deadline_ns

    def stopped(self) -> None:
        """The VTL has just stopped. Errors: `KvmError`."""
        left_ns = self._left_ns()
        if left_ns is None:
            self._deadline_ns = None
            return
        self._deadline_ns = self._clock.now_ns() + left_ns
        self._timer.arm(self._deadline_ns)

    def runs(self) -> None:
        """The VTL runs: its timer is KVM's business again."""
        self._deadline_ns = None
        self._timer.cancel()

    def close(self) -> None:
        """The VTL is gone."""
        self.runs()

    def _left_ns(self) -> int | None:
        lapic = self._vcpu.get_lapic()
        deadline = tsc = 0
        if readiness.by_deadline(lapic):
            deadline = self._vcpu.get_msrs([_MSR_TSC_DEADLINE])[0][1]
            if self._read_tsc is None:
                return TSC_UNKNOWN_NS if deadline and readiness.timer_vector(lapic) is not None else None
            tsc = self._read_tsc()
        return readiness.timer_left_ns(lapic, self._bus_cycle_ns, deadline, tsc, self._tsc_khz)
