# SPDX-License-Identifier: Apache-2.0
"""What a local APIC's registers say of the interrupts it has for its processor (SDM volume 3, 11.5.4, 11.8.3.1)."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from vmm.backend.vsm import readiness

TPR, SPIV, ISR, IRR, LVTT, TMICT, TMCCT, TDCR = 0x80, 0xF0, 0x100, 0x200, 0x320, 0x380, 0x390, 0x3E0
SOFTWARE_ENABLED = 0x1FF
MASKED, PERIODIC, TSC_DEADLINE = 1 << 16, 1 << 17, 2 << 17
DIVIDE_BY = {0b0000: 2, 0b0001: 4, 0b0010: 8, 0b0011: 16, 0b1000: 32, 0b1001: 64, 0b1010: 128, 0b1011: 1}
GHZ = 1_000_000  # in kHz


def lapic(registers: dict[int, int], **vectors: int) -> x86.kvm_lapic_state:
    """registers: offset -> value; the local APIC is software enabled if nothing else is said. irr, isr: a vector."""
    state = x86.kvm_lapic_state()
    values = {SPIV: SOFTWARE_ENABLED, **registers}
    for name, base in (("irr", IRR), ("isr", ISR)):
        if name in vectors:
            values[base + vectors[name] // 32 * 16] = 1 << vectors[name] % 32
    for offset, value in values.items():
        state.regs[offset : offset + 4] = value.to_bytes(4, "little")
    return state


@pytest.mark.tlfs("VSM-124", "VSM-125", "VSM-134")
@pytest.mark.parametrize(
    ("registers", "vectors", "expected"),
    [
        ({}, {}, False),
        ({}, {"irr": 0x31}, True),
        ({SPIV: 0xFF}, {"irr": 0x31}, False),  # software disabled
        ({TPR: 0x30}, {"irr": 0x3F}, False),  # the same class
        ({TPR: 0x30}, {"irr": 0x40}, True),
        ({}, {"irr": 0x3F, "isr": 0x30}, False),
        ({}, {"irr": 0x40, "isr": 0x30}, True),
        ({TPR: 0x50}, {"irr": 0x5F, "isr": 0x30}, False),  # the higher of TPR and ISR counts
    ],
)
def test_a_request_above_the_priority_wants_the_processor(
    registers: dict[int, int], vectors: dict[str, int], expected: bool
) -> None:
    assert readiness.requests(lapic(registers, **vectors)) is expected


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        ({LVTT: 0x40}, False),  # never started
        ({LVTT: 0x40, TMICT: 1000, TMCCT: 250}, False),
        ({LVTT: 0x40, TMICT: 1000}, True),
        ({LVTT: 0x40 | MASKED, TMICT: 1000}, False),
        ({LVTT: 0x0F, TMICT: 1000}, False),  # an illegal vector
        ({LVTT: 0x40 | TSC_DEADLINE}, True),  # the registers do not tell
    ],
)
def test_a_timer_that_may_have_run_out(registers: dict[int, int], expected: bool) -> None:
    assert readiness.may_be_over(lapic(registers)) is expected


def left(registers: dict[int, int], *, deadline: int = 0, tsc: int = 0) -> int | None:
    return readiness.timer_left_ns(lapic(registers), 1, deadline, tsc, GHZ)


@pytest.mark.parametrize(("tdcr", "divider"), DIVIDE_BY.items())
def test_a_count_is_in_divided_bus_cycles(tdcr: int, divider: int) -> None:
    assert left({LVTT: 0x40, TMICT: 1000, TMCCT: 250, TDCR: tdcr}) == 250 * divider


def test_a_bus_cycle_has_the_length_that_kvm_gives_it() -> None:
    state = lapic({LVTT: 0x40, TMICT: 1000, TMCCT: 250, TDCR: 0b1011})

    assert readiness.timer_left_ns(state, 40, 0, 0, GHZ) == 10_000


@pytest.mark.parametrize(
    "registers",
    [
        {LVTT: 0x40},  # never started
        {LVTT: 0x40, TMICT: 1000},  # one-shot, over
        {LVTT: 0x40 | MASKED, TMICT: 1000, TMCCT: 250},
        {LVTT: 0x40 | TSC_DEADLINE, TMICT: 1000, TMCCT: 250},  # the count means nothing in this mode
    ],
)
def test_a_timer_that_will_not_interrupt(registers: dict[int, int]) -> None:
    assert left(registers) is None


def test_a_periodic_timer_at_zero_is_due() -> None:
    assert left({LVTT: 0x40 | PERIODIC, TMICT: 1000}) == 0


def test_a_deadline_is_told_by_the_tsc() -> None:
    registers = {LVTT: 0x40 | TSC_DEADLINE}

    assert left(registers, deadline=5_000, tsc=2_000) == 3_000
    assert left(registers, deadline=5_000, tsc=5_000) == 0
    assert left(registers, deadline=5_000, tsc=9_000) == 0
