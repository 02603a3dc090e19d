# SPDX-License-Identifier: Apache-2.0
"""Whether a local APIC of a vCPU that does not run would interrupt it, and when its timer will.

KVM keeps the local APICs of all VTLs, those of inactive ones too: IPIs and MSIs reach their IRR at once. Their timers
count on, but the interrupt of one that runs out enters IRR only with the next KVM_RUN (`poke`). When that is due, the
timer's registers tell (SDM volume 3, 11.5.4).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from kvmapi.uapi import x86
from vmm.backend.hyperv.local_apic import IRR, ISR, highest

Lapic = x86.kvm_lapic_state

_TPR: Final = 0x80
_SPIV: Final = 0xF0
_LVTT: Final = 0x320
_TMICT: Final = 0x380
_TMCCT: Final = 0x390
_TDCR: Final = 0x3E0

_U32: Final = Struct("<I").unpack_from
_SPIV_ENABLED: Final = 1 << 8
_LVT_MASKED: Final = 1 << 16
_LVTT_MODE: Final = 3 << 17
_ONE_SHOT, _PERIODIC, _TSC_DEADLINE = 0 << 17, 1 << 17, 2 << 17
_VECTOR: Final = 0xFF
_FIRST_VECTOR: Final = 16  # below: illegal


def _u32(lapic: Lapic, register: int) -> int:
    value: int = _U32(lapic, register)[0]
    return value


def enabled(lapic: Lapic) -> bool:
    """Whether software has enabled it; else it takes no fixed interrupts."""
    return _u32(lapic, _SPIV) & _SPIV_ENABLED != 0


def priority(lapic: Lapic) -> int:
    """The processor priority class: only interrupts of a higher one are taken (SDM volume 3, 11.8.3.1).

    From TPR and ISR, since KVM brings the PPR up to date only when it delivers.
    """
    in_service = highest(lapic, ISR)
    return max(_u32(lapic, _TPR) >> 4 & 0xF, -1 if in_service is None else in_service >> 4)


def requests(lapic: Lapic) -> bool:
    """Whether it would interrupt its processor, RFLAGS.IF aside."""
    vector = highest(lapic, IRR)
    return vector is not None and enabled(lapic) and vector >> 4 > priority(lapic)


def timer_vector(lapic: Lapic) -> int | None:
    """The vector of its timer, None where that is masked or illegal."""
    lvtt = _u32(lapic, _LVTT)
    vector = lvtt & _VECTOR
    return None if lvtt & _LVT_MASKED or vector < _FIRST_VECTOR else vector


def by_deadline(lapic: Lapic) -> bool:
    """Whether its timer interrupts at a value of the TSC."""
    return _u32(lapic, _LVTT) & _LVTT_MODE == _TSC_DEADLINE


def periodic(lapic: Lapic) -> bool:
    """Whether its timer goes on by itself when it has run out."""
    return _u32(lapic, _LVTT) & _LVTT_MODE == _PERIODIC


def may_be_over(lapic: Lapic) -> bool:
    """Whether its timer has been started and has run out, at some time; in TSC-deadline mode always."""
    if timer_vector(lapic) is None:
        return False
    return by_deadline(lapic) or bool(_u32(lapic, _TMICT) and not _u32(lapic, _TMCCT))


def timer_left_ns(lapic: Lapic, bus_cycle_ns: int, tsc_deadline: int, tsc: int, tsc_khz: int) -> int | None:
    """Nanoseconds until its timer interrupts; 0 when it is due; None when it will not.

    lapic: read when the vCPU had stopped, or later. bus_cycle_ns: of KVM's local APICs (KVM_CAP_X86_APIC_BUS_CYCLES_NS,
    else 1). tsc_deadline: IA32_TSC_DEADLINE; tsc: the guest's TSC now, of tsc_khz.
    """
    if timer_vector(lapic) is None:
        return None
    mode = _u32(lapic, _LVTT) & _LVTT_MODE
    if by_deadline(lapic):
        if not tsc_deadline:
            return None
        return max(tsc_deadline - tsc, 0) * 1_000_000 // tsc_khz
    if mode not in (_ONE_SHOT, _PERIODIC) or not _u32(lapic, _TMICT):
        return None
    left = _u32(lapic, _TMCCT)
    if not left:
        return 0 if mode == _PERIODIC else None
    return left * _divider(lapic) * bus_cycle_ns


def _divider(lapic: Lapic) -> int:
    """What the timer's input clock is divided by: bits 3, 1 and 0 of the divide configuration register."""
    value = _u32(lapic, _TDCR)
    exponent = ((value & 3) | (value & 8) >> 1) + 1
    return 1 << (exponent & 7)
