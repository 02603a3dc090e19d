# SPDX-License-Identifier: Apache-2.0
"""Exceptions and interrupts on their way into a guest when their delivery failed: which, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi import x86

_ISR: Final = 0x100
_TRAPS: Final = (x86.DB_VECTOR, x86.BP_VECTOR, x86.OF_VECTOR)
NMI_VECTOR: Final = 2


class Kind(Enum):
    """Where KVM has an event."""

    EXCEPTION = "exception"
    INTERRUPT = "interrupt"
    NMI = "nmi"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. error_code: what its handler finds on the stack, None for nothing."""

    kind: Kind
    vector: int
    error_code: int | None = None

    @property
    def fault(self) -> bool:
        """Whether it is an exception whose return address is the instruction that raised it."""
        return self.kind is Kind.EXCEPTION and self.vector not in _TRAPS

    @property
    def comes_again(self) -> bool:
        """Whether the instruction raises it again when it is repeated."""
        return self.fault

    def delivered(self, vcpu: Vcpu) -> None:
        """The VMM has delivered it: KVM need not. Errors: `KvmError`."""
        events = vcpu.get_vcpu_events()
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        events.exception.injected = events.exception.pending = 0
        if self.kind is Kind.INTERRUPT:
            events.interrupt.injected = 0
        if self.kind is Kind.NMI:
            events.nmi.injected, events.nmi.masked = 0, 1
        vcpu.set_vcpu_events(events)


def in_delivery(vcpu: Vcpu) -> Event | None:
    """What KVM was delivering when KVM_RUN failed, and has kept. Errors: `KvmError`."""
    events = vcpu.get_vcpu_events()
    exception = events.exception
    if exception.injected:
        return exception_of(events)
    if events.nmi.injected:
        return Event(Kind.NMI, NMI_VECTOR)
    if events.interrupt.injected and not events.interrupt.soft:
        return Event(Kind.INTERRUPT, int(events.interrupt.nr))
    return None


def lost_in_delivery(vcpu: Vcpu) -> Event:
    """What a KVM that emulates ring 0 was delivering when it gave up with KVM_EXIT_SHUTDOWN. Errors: `KvmError`.

    It has forgotten it, but for the number. An interrupt is in service in the local APIC, where none is there as soon
    as its handler runs.
    """
    events = vcpu.get_vcpu_events()
    number = int(events.interrupt.nr)
    try:
        registers = vcpu.get_lapic().regs
    except OSError:  # no local APIC in the kernel: interrupts are nobody's then
        return exception_of(events)
    if registers[_ISR + (number >> 5) * 0x10 + (number >> 3 & 3)] >> (number & 7) & 1:
        return Event(Kind.INTERRUPT, number)
    return exception_of(events)


def exception_of(events: x86.kvm_vcpu_events) -> Event:
    """The exception that KVM tells last."""
    exception = events.exception
    code = int(exception.error_code) if exception.has_error_code else None
    return Event(Kind.EXCEPTION, int(exception.nr), code)


def keep(vcpu: Vcpu, event: Event) -> None:
    """Have KVM deliver the event when the vCPU runs next. Errors: `KvmError`."""
    events = vcpu.get_vcpu_events()
    events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
    if event.kind is Kind.EXCEPTION:
        exception = events.exception
        exception.injected, exception.pending, exception.nr = 1, 0, event.vector
        exception.has_error_code = event.error_code is not None
        exception.error_code = event.error_code or 0
    elif event.kind is Kind.NMI:
        events.nmi.injected = 1
    else:
        events.interrupt.injected, events.interrupt.nr, events.interrupt.soft = 1, event.vector, 0
    vcpu.set_vcpu_events(events)
