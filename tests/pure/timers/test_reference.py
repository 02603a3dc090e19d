# SPDX-License-Identifier: Apache-2.0
"""Reference time: one formula for counter and page, right over pauses."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.devices.fakes import SECOND_NS, FakeClock
from tests.pure.synic.partition import PAGE, FakePartition, FakeTsc
from vmm.timers.reference import (
    SEQUENCE_LAST,
    UNITS_PER_SECOND,
    ReferenceTime,
    TscFormula,
    tsc_scale,
)
from vmm.timers.tsc_page import ReferenceTscPage

TSC_HZ = st.integers(UNITS_PER_SECOND + 1, 10_000_000_000)
PAGE_NUMBER = 4


def guest_time(page: bytes, tsc: int) -> int | None:
    """What a guest computes from the page, in C's arithmetic; None where it says not to."""
    sequence, _, scale, offset = struct.unpack_from("<IIQq", page)
    if sequence == 0:
        return None
    time: int = ((tsc * scale >> 64) + offset) & (1 << 64) - 1
    return time


@pytest.mark.tlfs("TMR-001")
def test_it_starts_paused_at_zero() -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock, FakeTsc(clock))
    clock.advance(SECOND_NS)

    before = reference.now()
    reference.resume()
    clock.advance(SECOND_NS)

    # The scale is rounded down, so a second may be one unit short.
    assert before == 0
    assert reference.now() == pytest.approx(UNITS_PER_SECOND, abs=1)


@pytest.mark.tlfs("TMR-001")
def test_without_a_tsc_the_machines_clock_counts() -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock)
    reference.resume()

    clock.advance(1_234)

    assert reference.now() == 12
    assert reference.formula.sequence == 0


@pytest.mark.tlfs("TMR-001")
@given(TSC_HZ, st.integers(0, 1 << 62), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_it_never_goes_back_and_keeps_pace(hz: int, start: int, steps: list[int]) -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock, FakeTsc(clock, hz, start))
    reference.resume()
    previous = reference.now()
    for step in steps:
        clock.advance(step)
        now = reference.now()
        assert now >= previous
        previous = now
    # Both the TSC and the scale are rounded down: an error below 10 ppb plus two units.
    elapsed = clock.now_ns() // 100
    assert elapsed - elapsed // 10**8 - 2 - UNITS_PER_SECOND * 2 // hz <= previous <= elapsed + 2


@pytest.mark.tlfs("TMR-001", "TMR-003")
def test_it_stands_while_paused_though_the_tsc_runs() -> None:
    clock = FakeClock()
    tsc = FakeTsc(clock)
    reference = ReferenceTime(clock, tsc)
    reference.resume()
    clock.advance(SECOND_NS)
    reference.pause()
    at_pause = reference.now()
    sequence = reference.formula.sequence
    tsc.start += 50 * tsc.hz

    standing = reference.now()
    reference.resume()
    at_resume = reference.now()
    clock.advance(SECOND_NS)

    assert (standing, at_resume) == (at_pause, at_pause)
    assert reference.now() == pytest.approx(at_pause + UNITS_PER_SECOND, abs=1)
    assert reference.formula.sequence == sequence + 1


def test_pause_and_resume_twice_are_harmless() -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock, FakeTsc(clock))
    reference.resume()
    formula = reference.formula

    reference.resume()
    reference.pause()
    reference.pause()

    assert reference.formula == formula


def test_another_tsc_frequency_at_resume_makes_another_scale() -> None:
    clock = FakeClock()
    tsc = FakeTsc(clock)
    reference = ReferenceTime(clock, tsc)
    reference.resume()
    clock.advance(SECOND_NS)
    reference.pause()
    at_pause = reference.now()
    tsc.hz = 1_000_000_000

    reference.resume()
    clock.advance(SECOND_NS)

    assert reference.formula.scale == tsc_scale(1_000_000_000)
    assert reference.now() == pytest.approx(at_pause + UNITS_PER_SECOND, abs=1)


@pytest.mark.tlfs("TMR-002")
def test_the_sequence_skips_what_means_invalid() -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock, FakeTsc(clock))
    reference._state = (TscFormula(SEQUENCE_LAST - 1, 1, 0), 0)

    sequences = []
    for _ in range(3):
        reference.resume()
        sequences.append(reference.formula.sequence)
        reference.pause()

    assert sequences == [SEQUENCE_LAST, 1, 2]


@pytest.mark.tlfs("TMR-002")
def test_scale_is_the_formula_of_the_specification() -> None:
    assert tsc_scale(2_500_000_000) == 10**7 * 2**64 // 2_500_000_000
    assert tsc_scale(UNITS_PER_SECOND + 1) < 1 << 64


def test_a_tsc_too_slow_for_the_page_is_refused() -> None:
    with pytest.raises(ValueError, match="10000000 Hz is too slow"):
        ReferenceTime(FakeClock(), FakeTsc(FakeClock(), 10_000_000))


def test_deadlines_on_the_machines_clock() -> None:
    clock = FakeClock()
    reference = ReferenceTime(clock)
    clock.advance(1000)

    assert reference.clock_deadline_ns(110, 10**9) == 11_000
    assert reference.clock_deadline_ns(5, 10**9) <= clock.now_ns()
    assert reference.clock_deadline_ns(1 << 64, 10**9) == 1000 + 10**9


class PageRig(FakePartition):
    def __init__(self, hz: int = 2_500_000_000) -> None:
        super().__init__()
        self.tsc = FakeTsc(self.clock, hz)
        self.reference = ReferenceTime(self.clock, self.tsc)
        self.pages = [ReferenceTscPage(vtl, self.reference, self.overlays) for vtl in range(2)]
        self.reference.resume()

    def seen(self, number: int = PAGE_NUMBER) -> bytes:
        return self.memory.read(number * PAGE, PAGE)


@pytest.mark.tlfs("TMR-002")
def test_the_page_is_placed_and_taken_away() -> None:
    rig = PageRig()
    value = PAGE_NUMBER * PAGE | 0xF00 | 1

    assert rig.pages[0].write_msr(value)
    placed = rig.seen()
    read = rig.pages[0].read_msr()
    rig.pages[0].write_msr(0)

    assert read == value
    assert placed[0:4] != bytes(4)
    assert placed[24:] == bytes(PAGE - 24)
    assert rig.seen() == b"\xcc" * PAGE


@pytest.mark.tlfs("TMR-002", "TMR-003")
@given(
    TSC_HZ, st.lists(st.tuples(st.integers(0, 10**11), st.booleans(), st.integers(0, 1 << 40)), max_size=8)
)
def test_page_and_counter_agree_to_the_unit(hz: int, steps: list[tuple[int, bool, int]]) -> None:
    """As in hyperv_clock: page, counter, page are in order; here nothing passes between, so they are equal."""
    rig = PageRig(hz)
    rig.pages[0].write_msr(PAGE_NUMBER * PAGE | 1)
    for step, pause, jump in steps:
        rig.clock.advance(step)
        assert guest_time(rig.seen(), rig.tsc.read()) == rig.reference.now()
        if pause:
            rig.reference.pause()
            rig.tsc.start += jump
            rig.reference.resume()
            assert guest_time(rig.seen(), rig.tsc.read()) == rig.reference.now()


def test_the_pages_of_all_vtls_say_the_same() -> None:
    rig = PageRig()
    rig.pages[0].write_msr(PAGE_NUMBER * PAGE | 1)
    rig.pages[1].write_msr((PAGE_NUMBER + 1) * PAGE | 1)

    rig.reference.pause()
    rig.tsc.start += 12345678
    rig.reference.resume()

    assert rig.seen(PAGE_NUMBER)[:24] == rig.seen(PAGE_NUMBER + 1)[:24]


@pytest.mark.tlfs("TMR-002")
def test_a_page_without_tsc_says_invalid() -> None:
    partition = FakePartition()
    page = ReferenceTscPage(0, ReferenceTime(partition.clock), partition.overlays)

    page.write_msr(PAGE_NUMBER * PAGE | 1)

    assert guest_time(partition.memory.read(PAGE_NUMBER * PAGE, PAGE), 12345) is None


@pytest.mark.tlfs("TMR-002")
def test_an_update_first_says_invalid_and_last_the_new_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that reads in the middle must see the sequence 0, never the old one with new values."""
    rig = PageRig()
    rig.pages[0].write_msr(PAGE_NUMBER * PAGE | 1)
    writes: list[bytes] = []
    write = rig.memory.write

    def recording(gpa: int, data: bytes) -> None:
        write(gpa, data)
        writes.append(rig.memory.read(PAGE_NUMBER * PAGE, 24))

    monkeypatch.setattr(rig.memory, "write", recording)
    rig.reference.pause()
    rig.tsc.start += 1 << 40
    rig.reference.resume()

    sequences = [struct.unpack_from("<I", state)[0] for state in writes]
    assert sequences == [0, 0, rig.reference.formula.sequence]


def test_a_closed_page_is_not_written_any_more() -> None:
    rig = PageRig()
    rig.pages[0].write_msr(PAGE_NUMBER * PAGE | 1)
    rig.pages[0].close()
    before = rig.seen()

    rig.reference.pause()
    rig.reference.resume()

    assert rig.seen() == before
