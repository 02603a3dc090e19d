# SPDX-License-Identifier: Apache-2.0
"""Synthetic timers against a clock that the test moves and a SynIC of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.synic.partition import PAGE, FakePartition, FakeTsc
from vmm.hv.messages import HV_TIMER_MESSAGE_PAYLOAD, HvMessageType
from vmm.hv.msr_bits import HV_X64_MSR_STIMER_CONFIG
from vmm.hv.status import HvStatus
from vmm.synic.messages import Message, PostedMessage
from vmm.synic.synic import Synic
from vmm.timers.reference import ReferenceTime
from vmm.timers.stimer import LAZY_GRAIN_100NS, LONGEST_SLEEP_NS, SyntheticTimers

VP, VTL = 1, 0
SIMP_PAGE, SINT, SINT_VECTOR = 5, 2, 0xF1
MS = 10_000  # in 100 ns units
MS_NS = 1_000_000
DIRECT_VECTOR = 0xF3
ENABLED, PERIODIC, LAZY, AUTO_ENABLE, DIRECT = 1, 2, 4, 8, 1 << 12
MESSAGE = SINT << 16
DIRECT_CONFIG = DIRECT | DIRECT_VECTOR << 4
INTERRUPT = (VP, VTL, SINT_VECTOR, False)
DIRECT_INTERRUPT = (VP, VTL, DIRECT_VECTOR, False)


class Rig(FakePartition):
    def __init__(self, tsc: bool = False, direct_mode: bool = True) -> None:
        super().__init__()
        self.reference = ReferenceTime(self.clock, FakeTsc(self.clock) if tsc else None)
        self.reference.resume()
        self.synic = Synic(VP, VTL, self.overlays, self.services)
        self.synic.write_scontrol(1)
        self.synic.write_simp(SIMP_PAGE * PAGE | 1)
        self.synic.write_sint(SINT, SINT_VECTOR)
        self.timers = SyntheticTimers(
            self.synic, self.reference, self.clock, self.services, direct_mode=direct_mode
        )

    def start(self, config: int, count: int, index: int = 0) -> None:
        """Count first, then config with Enabled, as Linux and kvm-unit-tests do it."""
        assert self.timers.write_count(index, count)
        assert self.timers.write_config(index, config | ENABLED)

    def enabled(self, index: int = 0) -> bool:
        return bool(self.timers.read_config(index) & ENABLED)

    def advance(self, units: int) -> None:
        self.clock.advance(units * 100)

    def take(self) -> HV_TIMER_MESSAGE_PAYLOAD | None:
        """Read the timer message in the slot, empty the slot, write EOM if asked to."""
        message = self.message(SIMP_PAGE, SINT)
        if message.MessageType == 0:
            return None
        assert message.MessageType == HvMessageType.HvMessageTypeTimerExpired
        assert message.PayloadSize == HV_TIMER_MESSAGE_PAYLOAD.SIZE
        self.empty_slot(SIMP_PAGE, SINT)
        if message.MessageFlags.MessagePending:
            self.synic.write_eom(0)
        return HV_TIMER_MESSAGE_PAYLOAD.unpack(message.Payload)


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
def test_an_expired_count_fires_at_once(rig: Rig) -> None:
    rig.advance(10 * MS)

    rig.start(MESSAGE, 1)

    assert rig.services.taken() == [INTERRUPT]
    assert not rig.enabled()
    payload = rig.take()
    assert payload is not None
    assert (payload.ExpirationTime, payload.DeliveryTime) == (1, 10 * MS)


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


def test_a_direct_vector_no_apic_takes_expires_silently(rig: Rig) -> None:
    rig.start(DIRECT | 15 << 4, MS)

    rig.advance(MS)

    assert rig.services.taken() == []
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


# Undeliverable messages


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
    rig.advance(10 * MS)

    assert rig.services.taken() == []
    assert [(rig.timers.read_config(n), rig.timers.read_count(n)) for n in range(4)] == [(0, 0)] * 4


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
