# SPDX-License-Identifier: Apache-2.0
"""Where each VP register lives, for HvCallGetVpRegisters and HvCallSetVpRegisters: a row for every one there is.

A register that lives nowhere is unknown to guests (INVALID_PARAMETER), each group with the reason.
"""

from __future__ import annotations

import enum
from typing import Final

from vmm.hv.registers import HvRegisterName

_N = HvRegisterName


class Home(enum.Enum):
    """Who answers for a register."""

    VSM = "vmm.vsm.registers"
    SYNTHETIC_MSR = "the synthetic MSRs of the target VP and VTL"
    VCPU_MSR = "the same, on the VP's thread: there is a vCPU behind it"
    CONSTANT = "what the machine announces: CPUID leaves, clock frequencies"
    PROCESSOR = "a vCPU of the target VP"
    ABSENT = "nobody"


SYNTHETIC: Final = range(0x4000_0000, 0x4000_0200)
"""MSRs of the Hyper-V interface."""

_VSM: Final = frozenset(
    {
        _N.GuestVsmPartitionConfig,
        _N.HvRegisterVsmVpWaitForTlbLock,
        *(name for name in _N if 0xD0002 <= name <= 0xD0007),
        *(name for name in _N if 0xD0010 <= name <= 0xD001E),
        *(name for name in _N if 0xE0000 <= name <= 0xE0003),
    }
)
_VCPU_MSR: Final = frozenset(
    {
        _N.HvRegisterGuestIdle,
        _N.HvX64RegisterSyntheticEoi,
        _N.HvX64RegisterSyntheticIcr,
        _N.HvX64RegisterSyntheticTpr,
    }
)
_CONSTANT: Final = (range(0x100, 0x101), range(0x200, 0x20A), range(0x240, 0x242))
_PROCESSOR: Final = (
    range(0x4, 0x5),  # internal activity state
    range(0x10002, 0x10005),  # pending interruption, interrupt state, pending exception
    range(0x20000, 0x20012),  # general registers, RIP, RFLAGS
    range(0x30000, 0x3001A),  # XMM, x87
    range(0x40000, 0x40006),  # CR0 to CR8, XFEM
    range(0x50000, 0x50006),
    range(0x60000, 0x60008),
    range(0x70000, 0x70002),
    range(0x8000C, 0x8000D),  # initial APIC id
    range(0x84800, 0x84840),  # local APIC, by x2APIC register number
    range(0xC0000, 0xC0020),  # YMM halves
)

ABSENT: Final = (
    (range(0x4), "suspension of a VP by a parent partition"),
    (range(0x220, 0x240), "power states of the root partition"),
    (range(0x251, 0x280), "debugging of the root partition"),
    (range(0x10005, 0x10006), "events that only a paravisor's hardware raises"),
    (
        range(0x10006, 0x10007),
        "a paravisor that emulates a PIC or VMBus; KVM tells of no window for an interrupt",
    ),
    (range(0x10007, 0x1000A), "events that only a paravisor's hardware raises"),
    (range(0x41000, 0x41005), "state of a nested hypervisor"),
    (range(0x80087, 0x80088), "the TSC is the same in all VTLs"),
    (range(0x8008A, 0x8008B), "no meaning"),
    (range(0x8008E, 0x8008F), "only inside KVM"),
    (range(0x80094, 0x80095), "the TSC is the same in all VTLs"),
    (range(0x800A2, 0x800B5), "nested virtualization is not offered"),
    (range(0x81000, 0x84000), "performance monitoring and tracing are not offered"),
    (range(0x90007, 0x90008), "management of the root partition"),
    (range(0x90014, 0x90015), "signals of the root partition"),
    (range(0x90018, 0x90020), "pages and schedulers of other partitions"),
    (range(0x90020, 0x90044), "statistics, emulated timers, encrypted guests: not offered"),
    (range(0x90050, 0xA0000), "nested virtualization is not offered"),
    (range(0xA1000, 0xA1016), "nested virtualization is not offered"),
    (range(0xD0100, 0xD0101), "isolation is not offered"),
)
"""Codes that no home claims, and why."""


_NO_SIDE_EFFECTS: Final = frozenset({_N.HvX64RegisterApicEoi, _N.HvX64RegisterApicSelfIpi})
"""Write-only registers that are nothing but a side effect, which a set must not have (REG-012)."""


def _home(name: HvRegisterName) -> Home:
    code = int(name)
    if name in _NO_SIDE_EFFECTS:
        return Home.ABSENT
    if name in _VSM:
        return Home.VSM
    if name in _VCPU_MSR:
        return Home.VCPU_MSR
    if name.msr is not None:
        if name.msr in SYNTHETIC:
            return Home.SYNTHETIC_MSR
        return Home.ABSENT if name.msr >> 28 == 4 else Home.PROCESSOR
    if any(code in codes for codes in _CONSTANT):
        return Home.CONSTANT
    if any(code in codes for codes in _PROCESSOR):
        return Home.PROCESSOR
    return Home.ABSENT


HOMES: Final[dict[int, Home]] = {name: _home(name) for name in HvRegisterName}
"""By register code: all of `HvRegisterName`."""

SYNTHETIC_MSRS: Final[dict[int, int]] = {
    name: name.msr for name in HvRegisterName if name.msr is not None and name.msr in SYNTHETIC
}
"""Register code to MSR number."""

ON_ITS_THREAD: Final = frozenset(
    register for register, home in HOMES.items() if home in (Home.PROCESSOR, Home.VCPU_MSR)
)
"""Registers that can be had on their VP's thread only."""
