# SPDX-License-Identifier: Apache-2.0
"""The i8254 on its ports, with its interrupt line and port 0x61."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.devices.pit_rig import LOW_HIGH
from vmm.bus import PortBus
from vmm.machine.devices.pit import MINIMUM_INTERRUPT_PERIOD_NS, PIT_HZ, Pit
from vmm.machine.devices.pit_counter import PitCounter
from vmm.outside import Region

from .fakes import SECOND_NS, FakeClock, FakeLine
from .fuzz import ACCESSES, carry_out

CONTROL, SYSTEM_B = 0x43, 0x61
GATE2, OUT2 = 0x01, 0x20


class Board:
    def __init__(self) -> None:
        self.clock, self.line, self.bus = FakeClock(), FakeLine(), PortBus()
        self.pit = Pit(self.line, self.clock)
        self.pit.attach(self.bus)
        self.pit.reset()

    def out(self, port: int, *values: int) -> None:
        for item in values:
            self.bus.write(port, 1, item)

    def inb(self, port: int) -> int:
        return self.bus.read(port, 1)

    def program(self, channel: int, mode: int, count: int) -> None:
        self.out(CONTROL, channel << 6 | LOW_HIGH | mode << 1)
        self.out(0x40 + channel, count & 0xFF, count >> 8)

    def rises(self, duration_ns: int) -> int:
        before = self.line.rises
        self.clock.advance(duration_ns)
        return self.line.rises - before


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize("mode", [2, 3])
def test_interrupts_come_at_the_programmed_rate(board: Board, mode: int) -> None:
    board.program(0, mode, 11932)  # 100 Hz

    assert board.rises(SECOND_NS) in (99, 100)
    assert board.rises(10 * SECOND_NS) == 1000


def test_a_count_of_65536_is_18_hertz(board: Board) -> None:
    board.program(0, 2, 0)

    assert board.rises(10 * SECOND_NS) == 182


def test_the_line_is_the_square_wave(board: Board) -> None:
    board.program(0, 3, 11932)
    levels = []
    for _ in range(4):
        board.clock.advance(5_000_000 - 10_000)
        levels.append(board.line.level)
        board.clock.advance(10_000 + 100)

    assert levels == [True, False, True, False]


def test_mode_0_interrupts_once(board: Board) -> None:
    board.program(0, 0, 1193)
    assert not board.line.level
    assert board.rises(999_000) == 0
    assert board.rises(3_000) == 1

    assert board.rises(SECOND_NS) == 0
    assert board.line.level
    assert board.clock.next_deadline_ns() is None


@pytest.mark.parametrize("mode", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_tiny_counts_do_not_overrun_the_timer(board: Board, mode: int, count: int) -> None:
    board.program(0, mode, count)
    board.clock.arms = 0

    rises = board.rises(SECOND_NS // 10)

    most = SECOND_NS // 10 // MINIMUM_INTERRUPT_PERIOD_NS
    assert most // 2 - 1 <= rises <= most + 1
    assert board.clock.arms <= most + 1


def test_the_limit_does_not_slow_down_what_is_allowed(board: Board) -> None:
    count = -(-MINIMUM_INTERRUPT_PERIOD_NS * PIT_HZ // SECOND_NS)  # just above it
    board.program(0, 2, count)

    assert board.rises(SECOND_NS) == pytest.approx(PIT_HZ / count, abs=1)


def test_reading_does_not_arm_the_timer_anew(board: Board) -> None:
    board.program(0, 2, 11932)
    board.clock.arms = 0

    for _ in range(100):
        board.clock.advance(1000)
        board.inb(0x40)

    assert board.clock.arms == 0


def test_a_late_timer_makes_one_interrupt_of_many(board: Board) -> None:
    board.program(0, 2, 1193)
    before = board.line.rises
    board.clock.time_ns = SECOND_NS  # nobody ran for a second
    board.clock.timers[0].callback()

    assert board.line.rises == before + 1
    assert board.rises(SECOND_NS) == pytest.approx(1000, abs=1)


def test_counter_2_shows_at_port_0x61(board: Board) -> None:
    board.out(SYSTEM_B, GATE2)
    board.program(2, 0, 11932)
    assert not board.inb(SYSTEM_B) & OUT2
    board.clock.advance(9_990_000)
    assert not board.inb(SYSTEM_B) & OUT2
    board.clock.advance(20_000)
    assert board.inb(SYSTEM_B) & OUT2

    board.program(2, 0, 11932)
    board.out(SYSTEM_B, 0)
    board.clock.advance(SECOND_NS)
    assert not board.inb(SYSTEM_B) & OUT2  # stopped by its GATE


def test_port_0x61_keeps_four_bits_and_toggles_refresh(board: Board) -> None:
    board.out(SYSTEM_B, 0xFE)
    refresh = []
    for _ in range(8):
        refresh.append(board.inb(SYSTEM_B) & 0x10)
        board.clock.advance(15_086)  # 18 ticks

    assert board.inb(SYSTEM_B) & 0x0F == 0x0E
    assert {first != second for first, second in pairwise(refresh)} == {True}


def test_read_back_latches_the_chosen_counters(board: Board) -> None:
    board.program(0, 2, 0x1234)
    board.program(2, 3, 0x5678)
    board.out(SYSTEM_B, GATE2)
    board.clock.advance(1_000)  # a tick: loaded
    board.out(CONTROL, 0xCA)  # count and status of counters 0 and 2
    board.clock.advance(1_000_000)

    assert board.inb(0x40) & 0x3F == LOW_HIGH | 2 << 1
    assert board.inb(0x40) | board.inb(0x40) << 8 == 0x1234
    assert board.inb(0x42) & 0x3F == LOW_HIGH | 3 << 1
    assert board.inb(0x42) | board.inb(0x42) << 8 == 0x5678


def test_the_control_word_register_cannot_be_read(board: Board) -> None:
    assert board.inb(CONTROL) == 0xFF


def test_reset_silences_it(board: Board) -> None:
    board.program(0, 2, 100)
    board.clock.advance(SECOND_NS)
    board.out(SYSTEM_B, 0x0F)

    board.pit.reset()

    assert board.rises(SECOND_NS) == 0
    assert board.clock.next_deadline_ns() is None
    assert board.inb(SYSTEM_B) & 0x0F == 0


@given(ACCESSES)
def test_whatever_a_guest_does_the_timer_is_bounded(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    regions: list[tuple[Region, int]] = [(board.bus, port) for port in (0x40, 0x41, 0x42, 0x43, 0x61)]
    for access in accesses:
        carry_out(access, regions)
        board.clock.advance(min(access[3], SECOND_NS // 100))
    board.clock.arms = 0
    board.clock.advance(SECOND_NS // 100)
    assert board.clock.arms <= SECOND_NS // 100 // MINIMUM_INTERRUPT_PERIOD_NS + 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("control"), st.integers(0, 0x3F)),
        st.tuples(st.just("write"), st.integers(0, 8)),
        st.tuples(st.just("gate"), st.integers(0, 1)),
        st.tuples(st.just("advance"), st.integers(0, 40)),
        st.tuples(st.just("read"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_long_steps_see_what_short_steps_see(steps: list[tuple[str, int]]) -> None:
    """Advancing by many ticks at once tells the same as tick by tick: whether OUT rose, OUT, and what is read."""
    short, long = PitCounter(gate=True), PitCounter(gate=True)
    for action, argument in steps:
        if action == "control":
            short.program(argument)
            long.program(argument)
        elif action == "write":
            short.write(argument)
            long.write(argument)
        elif action == "gate":
            short.set_gate(bool(argument))
            long.set_gate(bool(argument))
        elif action == "advance":
            rose = False
            for tick in range(short.tick, short.tick + argument):
                low = not short.out
                rose |= short.advance(tick + 1)
                assert not (low and short.out) or rose
            assert long.advance(long.tick + argument) == rose
        else:
            assert short.read() == long.read()
        assert short.out == long.out
