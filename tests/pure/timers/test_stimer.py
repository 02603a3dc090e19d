# SPDX-License-Identifier: Apache-2.0
"""Synthetic timers against a clock that the test moves and a SynIC of their own."""

from __future__ import annotations

import pytest

from tests.pure.synic.partition import FakeTsc
from tests.pure.timers.stimer_rig import (
    AUTO_ENABLE,
    DIRECT,
    DIRECT_CONFIG,
    DIRECT_INTERRUPT,
    ENABLED,
    INTERRUPT,
    LAZY,
    MESSAGE,
    MS,
    PERIODIC,
    SIMP_PAGE,
    SINT,
    VP,
    VTL,
    Rig,
)
from vmm.timers.stimer import LAZY_GRAIN_100NS, LONGEST_SLEEP_NS


@pytest.mark.tlfs("TMR-010")
def test_reset_values_and_what_is_written_is_read(rig: Rig) -> None:
    fresh = [(rig.timers.read_config(n), rig.timers.read_count(n)) for n in range(4)]
    for index in range(4):
        rig.timers.write_config(index, MESSAGE | PERIODIC)
        rig.timers.write_count(index, 1000 + index)

    assert fresh == [(0, 0)] * 4
    assert [(rig.timers.read_config(n), rig.timers.read_count(n)) for n in range(4)] == [
        (MESSAGE | PERIODIC, 1000 + n) for n in range(4)
    ]
    assert rig.clock.next_deadline_ns() is None


@pytest.mark.tlfs("TMR-010")
@pytest.mark.parametrize("bit", [13, 14, 15, 20, 40, 63])
def test_reserved_bits_of_the_config_fault(rig: Rig, bit: int) -> None:
    assert not rig.timers.write_config(0, 1 << bit)
    assert rig.timers.read_config(0) == 0


@pytest.mark.tlfs("TMR-014")
def test_direct_mode_faults_where_it_is_not_offered() -> None:
    rig = Rig(direct_mode=False)

    assert not rig.timers.write_config(0, DIRECT_CONFIG)
    assert rig.timers.write_config(0, MESSAGE | ENABLED)


# One-shot


@pytest.mark.tlfs("TMR-011", "TMR-013")
@pytest.mark.parametrize("tsc", [False, True])
def test_a_one_shot_timer_sends_its_message_once(tsc: bool) -> None:
    rig = Rig(tsc)
    rig.advance(5 * MS)
    expiry = rig.reference.now() + MS
    rig.start(MESSAGE, expiry, index=3)

    rig.advance(MS - 2)
    early = rig.services.taken()
    rig.advance(3)
    interrupts = rig.services.taken()
    payload = rig.take()
    rig.advance(100 * MS)

    assert (early, interrupts) == ([], [INTERRUPT])
    assert payload is not None
    assert (payload.TimerIndex, payload.ExpirationTime) == (3, expiry)
    assert expiry <= payload.DeliveryTime <= expiry + 1
    assert not rig.enabled(3)
    assert rig.timers.read_count(3) == expiry
    assert (rig.take(), rig.services.taken()) == (None, [])


@pytest.mark.tlfs("TMR-011")
@pytest.mark.parametrize("count", [1, 10 * MS])
def test_an_expired_count_fires_at_once(rig: Rig, count: int) -> None:
    rig.advance(10 * MS)

    rig.start(MESSAGE, count)

    assert rig.services.taken() == [INTERRUPT]
    assert not rig.enabled()
    payload = rig.take()
    assert payload is not None
    assert (payload.ExpirationTime, payload.DeliveryTime) == (count, 10 * MS)


@pytest.mark.tlfs("TMR-014")
def test_a_direct_timer_interrupts_without_message(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG, MS)

    rig.advance(MS)

    assert rig.services.taken() == [DIRECT_INTERRUPT]
    assert rig.message(SIMP_PAGE, SINT).MessageType == 0
    assert not rig.enabled()


@pytest.mark.tlfs("TMR-014")
def test_a_direct_timer_needs_no_synic(rig: Rig) -> None:
    rig.synic.reset()
    rig.start(DIRECT_CONFIG, MS)

    rig.advance(MS)

    assert rig.services.taken() == [DIRECT_INTERRUPT]


@pytest.mark.parametrize(("vector", "interrupts"), [(15, 0), (16, 1)])
def test_a_direct_vector_no_apic_takes_expires_silently(rig: Rig, vector: int, interrupts: int) -> None:
    rig.start(DIRECT | vector << 4, MS)

    rig.advance(MS)

    assert rig.services.taken() == [(VP, VTL, vector, False)] * interrupts
    assert not rig.enabled()


@pytest.mark.tlfs("TMR-011")
def test_a_clock_that_runs_ahead_of_the_tsc_does_not_fire_early() -> None:
    rig = Rig(tsc=True)
    tsc = rig.reference._tsc
    assert isinstance(tsc, FakeTsc)
    rig.start(DIRECT_CONFIG, rig.reference.now() + MS)
    tsc.start -= tsc.hz // 1_000_000 * 50  # the TSC falls behind by 50 us

    rig.advance(MS)
    early = rig.services.taken()
    rig.advance(50 * 10 + 1)

    assert early == []
    assert rig.services.taken() == [DIRECT_INTERRUPT]


def test_a_host_timer_that_could_not_be_cancelled_in_time_does_nothing(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG, MS)
    rig.timers.write_config(0, DIRECT_CONFIG)
    rig.advance(2 * MS)

    rig.clock.timers[0].callback()

    assert rig.services.taken() == []
    assert rig.clock.next_deadline_ns() is None


def test_a_far_expiry_is_slept_for_in_parts(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG, (1 << 64) - 1)

    deadline = rig.clock.next_deadline_ns()
    rig.clock.advance(LONGEST_SLEEP_NS)

    assert deadline == LONGEST_SLEEP_NS
    assert rig.clock.next_deadline_ns() == 2 * LONGEST_SLEEP_NS
    assert rig.services.taken() == []


# Rules of the writes


@pytest.mark.tlfs("TMR-012")
def test_enable_with_sint_0_and_not_direct_does_not_stick(rig: Rig) -> None:
    assert rig.timers.write_config(0, ENABLED)
    config = rig.timers.read_config(0)
    rig.timers.write_config(0, AUTO_ENABLE)
    rig.timers.write_count(0, MS)

    assert (config, rig.timers.read_config(0)) == (0, AUTO_ENABLE)
    assert rig.clock.next_deadline_ns() is None


@pytest.mark.tlfs("TMR-012")
def test_enable_with_sint_0_and_direct_sticks(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG, MS)

    assert rig.enabled()


@pytest.mark.tlfs("TMR-012")
@pytest.mark.parametrize("auto", [0, AUTO_ENABLE])
def test_count_0_stops_the_timer(rig: Rig, auto: int) -> None:
    rig.start(MESSAGE | PERIODIC | auto, MS)

    rig.timers.write_count(0, 0)
    rig.advance(10 * MS)

    assert not rig.enabled()
    assert rig.services.taken() == []


@pytest.mark.tlfs("TMR-012")
def test_auto_enable_starts_with_the_count(rig: Rig) -> None:
    rig.timers.write_config(0, MESSAGE | AUTO_ENABLE)
    before = rig.enabled()

    rig.timers.write_count(0, MS)
    during = rig.enabled()
    rig.advance(MS)

    assert (before, during, rig.enabled()) == (False, True, False)
    assert rig.services.taken() == [INTERRUPT]


@pytest.mark.tlfs("TMR-012")
def test_without_auto_enable_the_count_starts_nothing(rig: Rig) -> None:
    rig.timers.write_config(0, MESSAGE)

    rig.timers.write_count(0, MS)
    rig.advance(2 * MS)

    assert rig.services.taken() == []


def test_enabling_before_the_count_waits_for_the_count(rig: Rig) -> None:
    rig.timers.write_config(0, MESSAGE | ENABLED)
    rig.advance(5 * MS)
    before = rig.services.taken()

    rig.timers.write_count(0, 6 * MS)
    rig.advance(MS)

    assert (before, rig.services.taken()) == ([], [INTERRUPT])


def test_clearing_enable_stops_it(rig: Rig) -> None:
    rig.start(MESSAGE | PERIODIC, MS)

    rig.timers.write_config(0, MESSAGE | PERIODIC)
    rig.advance(10 * MS)

    assert rig.services.taken() == []


def test_writing_the_count_of_a_running_timer_starts_it_anew(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG, 2 * MS)

    rig.timers.write_count(0, 5 * MS)
    rig.advance(4 * MS)
    early = rig.services.taken()
    rig.advance(MS)

    assert (early, rig.services.taken()) == ([], [DIRECT_INTERRUPT])


# Periodic


@pytest.mark.tlfs("TMR-011")
def test_a_periodic_timer_keeps_its_grid(rig: Rig) -> None:
    rig.start(MESSAGE | PERIODIC, MS)

    expirations = []
    for _ in range(5):
        rig.advance(MS)
        payload = rig.take()
        assert payload is not None
        expirations.append(payload.ExpirationTime)

    assert expirations == [MS * n for n in range(1, 6)]
    assert rig.enabled()
    assert rig.services.taken() == [INTERRUPT] * 5


@pytest.mark.tlfs("TMR-011", "TMR-014")
def test_a_periodic_direct_timer(rig: Rig) -> None:
    rig.start(DIRECT_CONFIG | PERIODIC, MS)

    rig.advance(10 * MS)

    assert rig.services.taken() == [DIRECT_INTERRUPT] * 10


@pytest.mark.tlfs("TMR-015")
def test_a_stopped_guest_finds_one_message_not_a_thousand(rig: Rig) -> None:
    rig.start(MESSAGE | PERIODIC, MS)

    rig.advance(1000 * MS)
    interrupts = rig.services.taken()
    first, second = rig.take(), rig.take()
    rig.services.taken()
    rig.advance(3 * MS)

    assert interrupts == [INTERRUPT]
    assert first is not None
    assert first.ExpirationTime == MS
    assert second is not None  # the one that waited, delivered when the slot got empty
    assert (second.ExpirationTime, second.DeliveryTime) == (2 * MS, 1000 * MS)
    assert len(rig.services.taken()) == 1  # the slot is full again from the next period on


@pytest.mark.tlfs("TMR-015")
def test_a_lazy_timer_fires_on_a_coarse_grid_and_never_early(rig: Rig) -> None:
    rig.advance(1)
    rig.start(DIRECT_CONFIG | LAZY, MS + 1)

    deadline = rig.clock.next_deadline_ns()

    assert deadline == (MS + LAZY_GRAIN_100NS) * 100
