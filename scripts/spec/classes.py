# SPDX-License-Identifier: Apache-2.0
"""Why an item of the checklist cannot be shown, where that is so: a class and a reason.

| class | |
|---|---|
| not offered | what TLFS leaves to the implementation, or is a VMM's and not a guest's; nothing announces it here |
| asks nothing | it permits every behaviour, or tells what another implementation does, so that no test could fail |
| no guest | only a guest that this machine cannot boot could show it |

No code says that it implements an item in here. Once some does, and a test shows it, the item goes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NOT_OFFERED: Final = "not offered"
ASKS_NOTHING: Final = "asks nothing"
NO_GUEST: Final = "no guest"


class Class(NamedTuple):
    """A class and why an item is in it."""

    name: str
    reason: str


_MBEC: Final = "mode-based execute control, which no KVM has for this, nor our series: MbecVtlMask is 0"
_NOT_SEEN: Final = (
    "no KVM hands over writes of CR0, CR4, XCR0 and descriptor tables: their control bits are refused"
)
_DELIVERABILITY: Final = (
    "HvRegisterDeliverabilityNotifications: unknown in every VTL, for reasons in docs/vsm.md"
)

ITEMS: Final = {
    "HCP-012": Class(ASKS_NOTHING, "a trap instruction outside of the page may be #UD or anything else"),
    "VSM-058": Class(NOT_OFFERED, "actions at a VTL return: bit 28 of HvRegisterVsmCapabilities is clear"),
    "VSM-086": Class(NOT_OFFERED, _MBEC),
    "VSM-087": Class(NOT_OFFERED, _MBEC),
    "VSM-088": Class(NOT_OFFERED, _MBEC),
    "VSM-089": Class(NOT_OFFERED, "memory cannot be added to a machine that runs"),
    "VSM-111": Class(
        NOT_OFFERED, "TlbLocked in what a memory intercept tells, which is optional: always clear"
    ),
    "VSM-118": Class(NOT_OFFERED, _NOT_SEEN),
    "VSM-135": Class(ASKS_NOTHING, "VINA may be a stub: it is none, as VSM-132 to VSM-134 show"),
    "APIC-005": Class(ASKS_NOTHING, "the APIC base may be fixed or not"),
    "MISC-006": Class(
        NOT_OFFERED, "NPIEP (leaf 0x40000003 EDX bit 12): UMIP does it without a hypervisor; its MSR faults"
    ),
    "MISC-010": Class(
        NOT_OFFERED, "retargeting interrupts of assigned devices: there are none; the call is unknown"
    ),
    "WIN-007": Class(NOT_OFFERED, f"not as a whole: {_NOT_SEEN}; the MSRs are intercepted"),
    "WIN-010": Class(ASKS_NOTHING, "writes of MISC_ENABLE may be dropped or not"),
    "WIN-011": Class(ASKS_NOTHING, "what another implementation announces, which is not said to be needed"),
    "WIN-012": Class(NO_GUEST, "Windows, which needs UEFI firmware and a disk: this machine has neither"),
    "OHCL-001": Class(NOT_OFFERED, "a paravisor that the VMM loads and starts in VTL2: VTL0 boots, alone"),
    "OHCL-004": Class(
        NOT_OFFERED, "HvX64RegisterPmTimerAssist: the PM timer is the VMM's own; unknown register"
    ),
    "OHCL-007": Class(
        NOT_OFFERED,
        "calls for what a paravisor emulates: CPUID results, 0xAD, MMIO, pinning, isolation, assigned devices",
    ),
    "OHCL-008": Class(
        NOT_OFFERED, f"not as a whole: HvRegisterPendingEvent1 is a paravisor's; {_DELIVERABILITY}"
    ),
    "OHCL-009": Class(NOT_OFFERED, _DELIVERABILITY),
    "OHCL-011": Class(NOT_OFFERED, "the alias map of VTL0: bit 29 of HvRegisterVsmCapabilities is clear"),
    "OHCL-012": Class(ASKS_NOTHING, "what another implementation answers in the paravisor's stead"),
}
"""By id."""


def class_of(item_id: str) -> Class | None:
    """The class of an item, if it is in one."""
    return ITEMS.get(item_id)
