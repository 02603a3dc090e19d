# SPDX-License-Identifier: Apache-2.0
"""Why an item of the checklist cannot be shown, where that is so: a class and a reason.

| class | |
|---|---|
| VTLs | what it is about begins with a second VTL that runs |
| not offered | a feature that TLFS leaves to the implementation and that CPUID does not announce here |
| asks nothing | it permits every behaviour, so that no test could fail |

An item in here may be implemented all the same, and counts as proven like any other once a test shows it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

VTLS: Final = "VTLs"
NOT_OFFERED: Final = "not offered"
ASKS_NOTHING: Final = "asks nothing"


class Class(NamedTuple):
    """A class and why an item is in it."""

    name: str
    reason: str


GROUPS: Final = {
    "WIN": Class(VTLS, "Windows with VBS, whose secure kernel runs in VTL1"),
    "OHCL": Class(VTLS, "a paravisor in VTL2"),
    "IMP": Class(VTLS, "notes about one KVM VM for each VTL"),
}
"""Groups whose items are in a class, but for those in `ITEMS`."""

_MBEC: Final = "mode-based execute control, which no host here has: MbecVtlMask is 0"

ITEMS: Final = {
    "DISC-017": Class(VTLS, "compares the CPUID leaves of two VTLs"),
    "HCP-008": Class(VTLS, "an overlay that one VTL sees and another does not"),
    "HCP-010": Class(VTLS, "the page's VTL call and return sequences"),
    "HCP-011": Class(VTLS, "VTL call and return through the page's start"),
    "REG-008": Class(VTLS, "registers that VTL1 reads and writes for VTL0, those of VSM among them"),
    "REG-009": Class(VTLS, "what VTL1 may read and write of VTL0"),
    "REG-010": Class(VTLS, "registers of a VTL below the caller's"),
    "REG-011": Class(VTLS, "registers that VTLs share"),
    "VP-004": Class(VTLS, "which VTL of a started VP runs first"),
    "SYN-007": Class(VTLS, "SINT0 carries the intercepts of lower VTLs"),
    "SYN-030": Class(VTLS, "a call by which VTL2 interrupts VTL0"),
    "TMR-016": Class(VTLS, "a VTL's timers while another VTL runs"),
    "TLB-004": Class(VTLS, "a flush while a target VP is in VTL1"),
    "LNX-006": Class(VTLS, "a Linux that is built to run in a VTL above 0"),
    "VSM-086": Class(NOT_OFFERED, _MBEC),
    "VSM-087": Class(NOT_OFFERED, _MBEC),
    "VSM-088": Class(NOT_OFFERED, _MBEC),
    "VSM-089": Class(NOT_OFFERED, "memory cannot be added to a machine that runs"),
    "VSM-111": Class(
        NOT_OFFERED, "what an emulating VTL may be told of TLB locks, where the hypervisor likes to"
    ),
    "VSM-118": Class(
        NOT_OFFERED,
        "no KVM hands over writes of CR0, CR4, XCR0 and descriptor tables: their control bits are refused",
    ),
    "MISC-006": Class(
        NOT_OFFERED, "NPIEP (leaf 0x40000003 EDX bit 12): UMIP does it without a hypervisor; its MSR faults"
    ),
    "MISC-010": Class(
        NOT_OFFERED, "retargeting interrupts of assigned devices: there are none; the call is unknown"
    ),
    "HCP-012": Class(ASKS_NOTHING, "a trap instruction outside of the page may be #UD or anything else"),
    "APIC-005": Class(ASKS_NOTHING, "the APIC base may be fixed or not"),
}
"""Single items of other groups, or in another class than their group."""


def class_of(item_id: str) -> Class | None:
    """The class of an item, if it is in one."""
    return ITEMS.get(item_id) or GROUPS.get(item_id.partition("-")[0])
