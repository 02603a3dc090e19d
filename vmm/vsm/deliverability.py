# SPDX-License-Identifier: Apache-2.0
"""HvRegisterDeliverabilityNotifications: what a higher VTL wants to hear of a lower one (hvdef, OHCL-009).

No backend sends the messages: machines do not offer the register (`VsmOffer.deliverability`).
"""

from __future__ import annotations

from vmm.hv.register_bits import HV_DELIVERABILITY_NOTIFICATIONS_REGISTER
from vmm.vsm.actions import NotifyDeliverable

Wanted = HV_DELIVERABILITY_NOTIFICATIONS_REGISTER


def deliverable(
    vp: int, owner: int, vtl: int, wanted: int, *, nmi: bool, priority: int | None, sints: int
) -> tuple[NotifyDeliverable | None, int]:
    """The message that is due, if one is, and what of `wanted` remains.

    nmi: whether `vtl` can take an NMI now. priority: the priority class above which it can take interrupts, None when
    it can take none. sints: those whose message slot is free. Each wish is fulfilled once.
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
