# SPDX-License-Identifier: Apache-2.0
"""Exceptions that a higher VTL makes a lower one take, and what it wants to hear of (REG-013, OHCL-009).

Implements: REG-013
"""

from __future__ import annotations

from typing import Final

from vmm.hv.register_bits import (
    HV_DELIVERABILITY_NOTIFICATIONS_REGISTER,
    HV_X64_PENDING_EXCEPTION_EVENT,
    HvX64PendingEventType,
)
from vmm.vsm.actions import InjectException, NotifyDeliverable

Event = HV_X64_PENDING_EXCEPTION_EVENT

DOUBLE_FAULT: Final = 8
PAGE_FAULT: Final = 14
_WITH_ERROR_CODE: Final = frozenset((8, 10, 11, 12, 13, 14, 17, 21))
_VECTORS: Final = frozenset((0, 1, 3, 4, 5, 6, 7, 16, 18, 19)) | _WITH_ERROR_CODE
"""Exceptions that processors of both vendors have (SDM volume 3, 6.15): NMI, 9, #VE and AMD's own are not events."""
_CONTRIBUTORY: Final = frozenset((0, 10, 11, 12, 13))
_ERROR_CODE_MAX: Final = 0xFFFF
_RESERVED: Final = Event.Reserved0.mask | Event.Reserved1.mask


def valid_event(value: int) -> int | None:
    """HvRegisterPendingEvent0 as it is kept: 0 when nothing is pending; None for what no processor can take."""
    event = Event(value & ~_RESERVED)
    if not event.EventPending:
        return 0
    if event.EventType != HvX64PendingEventType.HvX64PendingEventException or event.Vector not in _VECTORS:
        return None
    if event.DeliverErrorCode != (event.Vector in _WITH_ERROR_CODE) or event.ErrorCode > _ERROR_CODE_MAX:
        return None
    return int(event)


def combined(first: int, second: int) -> int | None:
    """The event that two become, `first` not being delivered yet: #DF by the rules of SDM volume 3, 6.15, else the
    newer one. None: they would shut the processor down.
    """
    if not first:
        return second
    before, after = Event(first).Vector, Event(second).Vector
    severe = after in _CONTRIBUTORY or after == PAGE_FAULT
    if before == DOUBLE_FAULT:
        return None if severe else second
    if (before in _CONTRIBUTORY and after in _CONTRIBUTORY) or (before == PAGE_FAULT and severe):
        return int(Event.make(EventPending=1, DeliverErrorCode=1, Vector=DOUBLE_FAULT))
    return second


def injection(vp: int, vtl: int, value: int) -> InjectException:
    """The action for a kept event."""
    event = Event(value)
    error_code = event.ErrorCode if event.DeliverErrorCode else None
    return InjectException(vp, vtl, event.Vector, error_code, event.ExceptionParameter)


Wanted = HV_DELIVERABILITY_NOTIFICATIONS_REGISTER


def deliverable(
    vp: int, owner: int, vtl: int, wanted: int, *, nmi: bool, priority: int | None, sints: int
) -> tuple[NotifyDeliverable | None, int]:
    """The message that is due, if one is, and what of `wanted` remains.

    nmi: whether `vtl` can take an NMI now. priority: the priority class above which it can take interrupts, None when
    it can take none. sints: those whose message slot is free. Each wish is fulfilled once.

    Implements: OHCL-009
    """
    register = Wanted(wanted)
    due_nmi = register.NmiNotification and nmi
    # Priority 0 asks for any interrupt.
    due_interrupt = (
        register.InterruptNotification
        and priority is not None
        and (register.InterruptPriority == 0 or register.InterruptPriority > priority)
    )
    due_sints = register.Sints & sints
    if not (due_nmi or due_interrupt or due_sints):
        return None, wanted
    remaining = register.replace(Sints=register.Sints & ~due_sints)
    if due_nmi:
        remaining = remaining.replace(NmiNotification=0)
    if due_interrupt:
        remaining = remaining.replace(InterruptNotification=0, InterruptPriority=0)
    return NotifyDeliverable(vp, owner, vtl, due_nmi, due_interrupt, due_sints), int(remaining)
