# SPDX-License-Identifier: Apache-2.0
"""Synthetic timers whose message waits, is withdrawn or is answered at once; and any sequence of writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.synic.partition import PAGE
from tests.pure.timers.stimer_rig import (
    DIRECT,
    DIRECT_CONFIG,
    DIRECT_INTERRUPT,
    INTERRUPT,
    MESSAGE,
    MS,
    MS_NS,
    PERIODIC,
    SIMP_PAGE,
    SINT,
    VP,
    VTL,
    Rig,
)
from vmm.hv.msr_bits import HV_X64_MSR_STIMER_CONFIG
from vmm.hv.status import HvStatus
from vmm.synic.messages import Message, PostedMessage
from vmm.synic.synic import Synic
from vmm.timers.stimer import SyntheticTimers


@pytest.mark.tlfs("SYN-022", "TMR-013")
def test_a_busy_slot_delays_the_message_until_eom(rig: Rig) -> None:
    """As stimer_test_one_shot_busy of kvm-unit-tests."""
    rig.memory.write(SIMP_PAGE * PAGE + SINT * 256, b"\x10\x00\x00\x80")
    rig.start(MESSAGE, MS)
    rig.advance(2 * MS)
    busy = rig.message(SIMP_PAGE, SINT)
    interrupts = rig.services.taken()

    rig.empty_slot(SIMP_PAGE, SINT)
    rig.synic.write_eom(0)

    assert busy.MessageFlags.MessagePending
    assert interrupts == []
    assert rig.services.taken() == [INTERRUPT]
    payload = rig.take()
    assert payload is not None
    assert (payload.ExpirationTime, payload.DeliveryTime) == (MS, 2 * MS)


@pytest.mark.tlfs("TMR-013", "TMR-015")
def test_a_periodic_timer_goes_on_from_the_delivery_on_its_grid(rig: Rig) -> None:
    rig.synic.post(SINT, PostedMessage(1, b""))
    rig.start(MESSAGE | PERIODIC, MS)
    rig.advance(10 * MS + MS // 2)
    standing = rig.clock.next_deadline_ns()

    rig.empty_slot(SIMP_PAGE, SINT)
    rig.synic.write_eom(0)

    assert (standing, rig.clock.next_deadline_ns()) == (None, 11 * MS_NS)


@pytest.mark.tlfs("TMR-013")
def test_each_timer_has_one_message_outstanding(rig: Rig) -> None:
    rig.synic.post(SINT, PostedMessage(1, b""))
    for index in range(4):
        rig.start(MESSAGE | PERIODIC, MS, index)

    rig.advance(100 * MS)
    waiting = rig.synic.waiting(SINT)
    rig.empty_slot(SIMP_PAGE, SINT)
    rig.synic.write_eom(0)
    payloads = [rig.take() for _ in range(4)]

    assert waiting == 4
    assert [payload.TimerIndex for payload in payloads if payload] == [0, 1, 2, 3]


def test_a_stopped_timers_waiting_message_is_withdrawn(rig: Rig) -> None:
    rig.synic.post(SINT, PostedMessage(1, b""))
    rig.start(MESSAGE | PERIODIC, MS)
    rig.advance(2 * MS)

    rig.timers.write_config(0, 0)
    rig.empty_slot(SIMP_PAGE, SINT)
    rig.synic.write_eom(0)
    rig.advance(10 * MS)

    assert rig.message(SIMP_PAGE, SINT).MessageType == 0


def test_a_message_waits_for_a_disabled_synic(rig: Rig) -> None:
    rig.synic.write_scontrol(0)
    rig.start(MESSAGE, MS)
    rig.advance(5 * MS)
    before = rig.message(SIMP_PAGE, SINT).MessageType

    rig.synic.write_scontrol(1)

    assert before == 0
    payload = rig.take()
    assert payload is not None
    assert payload.DeliveryTime == 5 * MS


def test_a_write_between_expiry_and_posting_leaves_nothing_behind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer thread has decided to post; the VP disables the timer before it does."""
    rig.synic.post(SINT, PostedMessage(1, b""))
    post = rig.synic.post
    between: list[int] = []

    def disable_first(sint: int, message: Message) -> HvStatus:
        rig.timers.write_config(0, 0)
        between.append(sint)
        return post(sint, message)

    monkeypatch.setattr(rig.synic, "post", disable_first)
    rig.start(MESSAGE, MS)
    rig.advance(MS)

    assert between == [SINT]
    assert rig.synic.waiting(SINT) == 0


def test_reset_stops_everything(rig: Rig) -> None:
    rig.start(MESSAGE | PERIODIC, MS)
    rig.start(DIRECT_CONFIG | PERIODIC, MS, 1)

    rig.timers.reset()
    deadline = rig.clock.next_deadline_ns()
    rig.advance(10 * MS)

    assert deadline is None
    assert rig.services.taken() == []
    assert [(rig.timers.read_config(n), rig.timers.read_count(n)) for n in range(4)] == [(0, 0)] * 4


def test_reset_withdraws_what_waits(rig: Rig) -> None:
    rig.synic.post(SINT, PostedMessage(1, b""))
    for index in range(4):
        rig.start(MESSAGE, MS, index)
    rig.advance(MS)
    before = rig.synic.waiting(SINT)

    rig.timers.reset()

    assert (before, rig.synic.waiting(SINT)) == (4, 0)


def test_an_interrupt_sink_may_use_the_timers_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is held while an interrupt is requested."""
    request = rig.services.request_interrupt

    def rearm(vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        request(vp, vtl, vector, auto_eoi)
        if len(rig.services.interrupts) < 3:
            rig.start(DIRECT_CONFIG, rig.reference.now() + MS)

    monkeypatch.setattr(rig.services, "request_interrupt", rearm)  # a guest that reacts at once
    rig.synic = Synic(VP, VTL, rig.overlays, rig.services)
    rig.timers = SyntheticTimers(rig.synic, rig.reference, rig.clock, rig.services)
    rig.start(DIRECT_CONFIG, MS)

    rig.advance(10 * MS)

    assert rig.services.taken() == [DIRECT_INTERRUPT] * 3


# Any sequence of writes

CONFIGS = st.builds(
    lambda flags, vector, sint: flags | vector << 4 | sint << 16,
    st.integers(0, 15).map(lambda flags: flags) | st.integers(0, 15).map(lambda flags: flags | DIRECT),
    st.integers(0, 255),
    st.sampled_from([0, SINT]),
)
WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("config"), st.integers(0, 3), CONFIGS),
        st.tuples(
            st.just("count"),
            st.integers(0, 3),
            st.one_of(st.integers(0, 50 * MS), st.integers(0, (1 << 64) - 1)),
        ),
        st.tuples(st.just("advance"), st.just(0), st.integers(0, 20 * MS)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
        st.tuples(st.just("synic"), st.just(0), st.integers(0, 1)),
    ),
    max_size=40,
)


@pytest.mark.tlfs("TMR-010", "TMR-011", "TMR-012", "TMR-013")
@given(WRITES)
def test_invariants_of_any_sequence(writes: list[tuple[str, int, int]]) -> None:
    """Nothing raises; no message is early; a timer that is off or has count 0 is not armed; Enabled never goes with
    SINT 0 in message mode."""
    rig = Rig()
    for action, index, value in writes:
        if action == "config":
            assert rig.timers.write_config(index, value)
        elif action == "count":
            assert rig.timers.write_count(index, value)
        elif action == "advance":
            rig.advance(value)
        elif action == "synic":
            rig.synic.write_scontrol(value)
        elif (payload := rig.take()) is not None:
            assert payload.ExpirationTime <= payload.DeliveryTime <= rig.reference.now()
        for number, host_timer in enumerate(rig.clock.timers):
            config = HV_X64_MSR_STIMER_CONFIG(rig.timers.read_config(number))
            if host_timer.deadline_ns is not None:
                assert config.Enabled
                assert rig.timers.read_count(number) != 0
            assert not (config.Enabled and config.SINTx == 0 and not config.DirectMode)
