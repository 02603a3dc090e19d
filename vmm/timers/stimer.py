# SPDX-License-Identifier: Apache-2.0
"""The four synthetic timers of one VTL of one VP (TLFS 12.5).

| | one-shot | periodic |
|---|---|---|
| count | reference time of expiry; in the past: at once | period |
| at expiry | Enabled clears | stays, `vmm.timers.periodic` says when next |

Every write to a timer's config or count stops it and forgets a message that still waits; then it starts if it is
enabled and its count is not zero. Rules on the way:

| write | effect |
|---|---|
| config with reserved bits, or with direct mode where that is not announced | #GP |
| config with Enabled, SINT 0, not direct | Enabled clears at once |
| count 0 | Enabled clears, AutoEnable or not |
| count not 0, AutoEnable | Enabled sets |

A direct timer interrupts the local APIC; the others send a message that has a buffer of its own: while it waits
for its slot the timer stands, a periodic one goes on from the delivery.

Implements: TMR-010, TMR-011, TMR-012, TMR-013, TMR-014, TMR-015
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Final

from vmm.hv.constants import HV_STIMER_COUNT
from vmm.hv.messages import HvMessageType
from vmm.hv.msr_bits import HV_X64_MSR_STIMER_CONFIG
from vmm.outside import Clock
from vmm.synic.interrupts import FIRST_VECTOR, InterruptSink
from vmm.synic.messages import compose
from vmm.synic.synic import Synic
from vmm.timers.periodic import PeriodicSchedule
from vmm.timers.reference import ReferenceTime

LONGEST_SLEEP_NS: Final = 24 * 3600 * 1_000_000_000
"""A timer looks at the time at least once a day: a guest may ask for a year 60000 that no host timer can wait
for, and the guest's TSC drifts against the host's clock."""

LAZY_GRAIN_100NS: Final = 5_000
"""Lazy timers fire at multiples of 0.5 ms on the reference time's scale, so that several cost the host one wake-up."""

_ENABLED: Final = HV_X64_MSR_STIMER_CONFIG.Enabled.mask  # plain numbers: this runs at every write and expiry
_PERIODIC: Final = HV_X64_MSR_STIMER_CONFIG.Periodic.mask
_LAZY: Final = HV_X64_MSR_STIMER_CONFIG.Lazy.mask
_AUTO_ENABLE: Final = HV_X64_MSR_STIMER_CONFIG.AutoEnable.mask
_DIRECT: Final = HV_X64_MSR_STIMER_CONFIG.DirectMode.mask
_VECTOR: Final = HV_X64_MSR_STIMER_CONFIG.ApicVector.mask
_SINT: Final = HV_X64_MSR_STIMER_CONFIG.SINTx.mask
_VECTOR_SHIFT: Final = HV_X64_MSR_STIMER_CONFIG.ApicVector.low
_SINT_SHIFT: Final = HV_X64_MSR_STIMER_CONFIG.SINTx.low
_RESERVED: Final = HV_X64_MSR_STIMER_CONFIG.RSVDZ_MASK

# HV_TIMER_MESSAGE_PAYLOAD: u32 TimerIndex, u32 reserved, u64 ExpirationTime, u64 DeliveryTime.
_PAYLOAD: Final = struct.Struct("<IIQQ")
_TIME_MASK: Final = (1 << 64) - 1


class _Timer:
    """One timer's state; its owner's lock covers it."""

    __slots__ = ("config", "count", "due", "host_timer", "index", "message", "schedule")

    def __init__(self, index: int, clock: Clock, callback: Callable[[], None]) -> None:
        self.index = index
        self.config = 0
        self.count = 0
        self.due: int | None = None  # reference time of the next expiry; None: it does not run
        self.schedule: PeriodicSchedule | None = None
        self.message: _TimerMessage | None = None  # on its way, or waiting for its slot
        self.host_timer = clock.timer(callback)

    @property
    def sint(self) -> int:
        return (self.config & _SINT) >> _SINT_SHIFT

    @property
    def wake_up(self) -> int:
        """When to look at it: `due`, or a little later if it is lazy."""
        due = self.due or 0
        return -(-due // LAZY_GRAIN_100NS) * LAZY_GRAIN_100NS if self.config & _LAZY else due


class _TimerMessage:
    """HvMessageTimerExpired for one expiry. The delivery time is that of its arrival in the slot."""

    __slots__ = ("_expiration", "_owner", "arrived", "sint", "timer")

    has_own_buffer = True

    def __init__(self, owner: SyntheticTimers, timer: _Timer, expiration: int) -> None:
        self._owner = owner
        self._expiration = expiration
        self.timer = timer
        self.sint = timer.sint
        self.arrived = False

    def compose(self) -> bytes:
        """The 256 bytes, delivered now."""
        payload = _PAYLOAD.pack(
            self.timer.index, 0, self._expiration & _TIME_MASK, self._owner.reference.now() & _TIME_MASK
        )
        return compose(HvMessageType.HvMessageTypeTimerExpired, 0, payload)

    def delivered(self) -> None:
        """The timer may go on."""
        self.arrived = True
        self._owner.message_delivered(self)


class SyntheticTimers:
    """The timers of one VP and VTL. Thread-safe.

    One lock for the four, taken above the SynIC's. It is held while a message is withdrawn and while a host timer
    is armed, so that the last of two writes wins; not while a message is posted or an interrupt is requested.
    """

    def __init__(
        self,
        synic: Synic,
        reference: ReferenceTime,
        clock: Clock,
        interrupts: InterruptSink,
        *,
        direct_mode: bool = True,
    ) -> None:
        """synic: the same VP's and VTL's. clock: wakes up; `reference` decides. direct_mode: CPUID announces it."""
        self.reference = reference
        self._synic = synic
        self._interrupts = interrupts
        self._direct_mode = direct_mode
        self._lock = threading.Lock()
        self._timers = [
            _Timer(index, clock, lambda index=index: self._woken(index))  # type: ignore[misc]  # bound default
            for index in range(HV_STIMER_COUNT)
        ]

    def reset(self) -> None:
        """All timers off, zero. Messages that wait are withdrawn."""
        with self._lock:
            for timer in self._timers:
                self._stop(timer)
                timer.config = timer.count = 0

    def read_config(self, index: int) -> int:
        """HV_X64_MSR_STIMER0_CONFIG + 2 * `index`."""
        return self._timers[index].config

    def read_count(self, index: int) -> int:
        """HV_X64_MSR_STIMER0_COUNT + 2 * `index`: what was written, not what is left."""
        return self._timers[index].count

    def write_config(self, index: int, value: int) -> bool:
        """False: #GP."""
        if value & _RESERVED or (value & _DIRECT and not self._direct_mode):
            return False
        timer = self._timers[index]
        with self._lock:
            self._stop(timer)
            timer.config = _without_useless_enable(value)
            message = self._start(timer)
        self._signal(timer, message)
        return True

    def write_count(self, index: int, value: int) -> bool:
        """Never faults."""
        timer = self._timers[index]
        with self._lock:
            self._stop(timer)
            timer.count = value
            if value == 0:
                timer.config &= ~_ENABLED
            elif timer.config & _AUTO_ENABLE:
                timer.config = _without_useless_enable(timer.config | _ENABLED)
            message = self._start(timer)
        self._signal(timer, message)
        return True

    def message_delivered(self, message: _TimerMessage) -> None:
        """A timer's message is in its slot (from `_TimerMessage`, no lock held)."""
        timer = message.timer
        with self._lock:
            if timer.message is not message:  # the guest reprogrammed the timer meanwhile
                return
            timer.message = None
            if timer.schedule is not None:
                now = self.reference.now()
                if timer.schedule.due <= now:
                    timer.schedule.skip(now)
                timer.due = timer.schedule.due
                self._arm(timer)

    # What happens to a timer. `_signal` runs without the lock, all else with it. What `_start` and `_expire` return
    # is for `_signal`: the message or the vector that is due, None for neither.

    def _stop(self, timer: _Timer) -> None:
        timer.host_timer.cancel()
        timer.due = None
        timer.schedule = None
        message, timer.message = timer.message, None
        if message is not None:
            self._synic.withdraw(message.sint, message)

    def _start(self, timer: _Timer) -> _TimerMessage | int | None:
        if not timer.config & _ENABLED or timer.count == 0:
            return None
        now = self.reference.now()
        if timer.config & _PERIODIC:
            timer.schedule = PeriodicSchedule(now, timer.count, timer.config & _LAZY != 0)
            timer.due = timer.schedule.due
        else:
            timer.due = timer.count
            if timer.due <= now:
                return self._expire(timer, now)
        self._arm(timer)
        return None

    def _arm(self, timer: _Timer) -> None:
        timer.host_timer.arm(self.reference.clock_deadline_ns(timer.wake_up, LONGEST_SLEEP_NS))

    def _expire(self, timer: _Timer, now: int) -> _TimerMessage | int:
        expiration = timer.due or 0
        timer.due = None
        if timer.schedule is not None:
            timer.schedule.expired(now)
        else:
            timer.config &= ~_ENABLED
        if timer.config & _DIRECT:
            if timer.schedule is not None:
                timer.due = timer.schedule.due
                self._arm(timer)
            return (timer.config & _VECTOR) >> _VECTOR_SHIFT
        timer.message = _TimerMessage(self, timer, expiration)
        return timer.message

    def _woken(self, index: int) -> None:
        """The host timer fired."""
        timer = self._timers[index]
        with self._lock:
            if timer.due is None:
                return
            now = self.reference.now()
            if now < timer.due:  # the clocks drifted, or it was too far away for one sleep
                self._arm(timer)
                return
            signal = self._expire(timer, now)
        self._signal(timer, signal)

    def _signal(self, timer: _Timer, signal: _TimerMessage | int | None) -> None:
        if signal is None:
            return
        if isinstance(signal, int):
            # A guest may choose a vector that no APIC takes; such a timer expires without a trace.
            if signal >= FIRST_VECTOR:
                self._interrupts.request_interrupt(self._synic.vp, self._synic.vtl, signal, False)
            return
        self._synic.post(signal.sint, signal)
        if signal.arrived:
            return
        with self._lock:
            stopped = timer.message is not signal
        if stopped:
            # The VP wrote to the timer between expiry and posting: the message must not wait any more.
            self._synic.withdraw(signal.sint, signal)


def _without_useless_enable(config: int) -> int:
    """SINT 0 carries intercepts, so a timer that would send messages there is disabled at once (TLFS 12.5)."""
    if not config & (_DIRECT | _SINT):
        return config & ~_ENABLED
    return config
