# SPDX-License-Identifier: Apache-2.0
"""The i8254 and port 0x61 (Intel 8254 data sheet, "Mode Definitions" and its figures)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.bus import PortBus
from vmm.machine.devices.pit import MINIMUM_INTERRUPT_PERIOD_NS, PIT_HZ, Pit
from vmm.machine.devices.pit_counter import PitCounter
from vmm.outside import Region

from .fakes import SECOND_NS, FakeClock, FakeLine
from .fuzz import ACCESSES, carry_out

LOW_ONLY, HIGH_ONLY, LOW_HIGH = 0x10, 0x20, 0x30
BCD = 1
CONTROL, SYSTEM_B = 0x43, 0x61
GATE2, OUT2 = 0x01, 0x20
STATUS_OUT, STATUS_NULL = 0x80, 0x40


def counter(mode: int, count: int | None = None, *, gate: bool = True, bcd: bool = False) -> PitCounter:
    """A counter at tick 0 in `mode`, its count just written. The next CLK pulse (tick 1) loads it."""
    made = PitCounter(gate)
    made.program(LOW_HIGH | mode << 1 | (BCD if bcd else 0))
    if count is not None:
        write(made, count)
    return made


def write(made: PitCounter, count: int) -> None:
    made.write(count & 0xFF)
    made.write(count >> 8)


def value(made: PitCounter) -> int:
    made.latch_count()
    return made.read() | made.read() << 8


def outs(made: PitCounter, ticks: int) -> str:
    """OUT at each of the next `ticks` ticks, H or L."""
    text = ""
    for tick in range(made.tick + 1, made.tick + 1 + ticks):
        made.advance(tick)
        text += "H" if made.out else "L"
    return text


def values(made: PitCounter, ticks: int) -> list[int]:
    found = []
    for tick in range(made.tick + 1, made.tick + 1 + ticks):
        made.advance(tick)
        found.append(value(made))
    return found


# ---- the modes, tick by tick -------------------------------------------------------------------------


def test_mode_0_goes_high_n_plus_1_pulses_after_the_write_and_stays() -> None:
    made = counter(0, 4)
    assert not made.out

    assert outs(made, 7) == "LLLLHHH"  # loaded at 1: 4 3 2 1 0 and on from 0xffff


def test_mode_0_counts_on_below_zero() -> None:
    assert values(counter(0, 3), 6) == [3, 2, 1, 0, 0xFFFF, 0xFFFE]


def test_mode_0_gate_holds_the_count() -> None:
    made = counter(0, 4)
    made.advance(3)
    made.set_gate(False)
    assert values(made, 3) == [2, 2, 2]

    made.set_gate(True)

    assert outs(made, 3) == "LHH"


def test_mode_0_is_loaded_even_while_gate_is_low() -> None:
    made = counter(0, 4, gate=False)
    assert values(made, 2) == [4, 4]

    made.set_gate(True)

    assert outs(made, 5) == "LLLHH"


def test_mode_0_stops_at_the_first_byte_of_a_new_count() -> None:
    made = counter(0, 2)
    made.advance(10)
    assert made.out

    made.write(3)
    assert not made.out
    assert outs(made, 5) == "LLLLL"
    made.write(0)
    assert outs(made, 5) == "LLLHH"


def test_mode_1_is_a_retriggerable_one_shot() -> None:
    made = counter(1, 3, gate=False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 5) == "LLLHH"

    made.set_gate(False)
    made.set_gate(True)
    assert outs(made, 2) == "LL"
    made.set_gate(False)
    made.set_gate(True)
    assert outs(made, 5) == "LLLHH"


def test_mode_1_uses_a_new_count_from_the_next_trigger_on() -> None:
    made = counter(1, 4, gate=False)
    made.set_gate(True)
    made.advance(2)
    write(made, 2)
    assert outs(made, 4) == "LLHH"

    made.set_gate(False)
    made.set_gate(True)

    assert outs(made, 4) == "LLHH"


def test_mode_2_is_low_for_the_last_pulse_of_each_period() -> None:
    assert outs(counter(2, 3), 9) == "HHLHHLHHL"
    assert values(counter(2, 3), 7) == [3, 2, 1, 3, 2, 1, 3]


def test_mode_2_gate_stops_and_restarts() -> None:
    made = counter(2, 4)
    made.advance(4)
    assert not made.out
    made.set_gate(False)
    assert made.out
    assert outs(made, 4) == "HHHH"

    made.set_gate(True)

    assert outs(made, 5) == "HHHLH"


@pytest.mark.parametrize("mode", [2, 3])
def test_a_new_count_waits_for_the_end_of_the_cycle(mode: int) -> None:
    made = counter(mode, 6)
    made.advance(2)
    write(made, 4)

    # Mode 2: the rest of a period of 6, then of 4. Mode 3: the rest of a half cycle of 3, then of 2.
    assert outs(made, 12) == {2: "HHHLHHHLHHHL", 3: "HLLHHLLHHLLH"}[mode]


def test_mode_3_is_a_square_wave() -> None:
    assert outs(counter(3, 4), 9) == "HHLLHHLLH"
    assert values(counter(3, 4), 5) == [4, 2, 4, 2, 4]


def test_mode_3_odd_counts_are_high_for_one_pulse_more() -> None:
    assert outs(counter(3, 5), 11) == "HHHLLHHHLLH"
    assert values(counter(3, 5), 6) == [4, 2, 0, 4, 2, 4]


def test_mode_3_gate_restarts_with_the_high_half() -> None:
    made = counter(3, 4)
    made.advance(3)
    assert not made.out
    made.set_gate(False)
    assert made.out
    made.set_gate(True)

    assert outs(made, 5) == "HHLLH"


def test_mode_4_strobes_once() -> None:
    made = counter(4, 3)
    assert made.out

    assert outs(made, 7) == "HHHLHHH"
    write(made, 2)
    assert outs(made, 5) == "HHLHH"


def test_mode_5_strobes_after_each_trigger() -> None:
    made = counter(5, 2, gate=False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 5) == "HHLHH"

    made.set_gate(False)
    assert outs(made, 3) == "HHH"
    made.set_gate(True)
    assert outs(made, 4) == "HHLH"


@pytest.mark.parametrize(("mode", "same"), [(6, 2), (7, 3)])
def test_modes_6_and_7_are_2_and_3(mode: int, same: int) -> None:
    assert outs(counter(mode, 5), 12) == outs(counter(same, 5), 12)


@pytest.mark.parametrize("mode", range(6))
def test_a_count_of_0_is_the_largest(mode: int) -> None:
    for bcd, modulus in ((False, 0x10000), (True, 10000)):
        made = counter(mode, 0, gate=False, bcd=bcd)
        made.set_gate(True)
        rise = made.next_rise()
        # Mode 4 and 5 rise at the end of the strobe, one pulse later.
        assert rise == 1 + modulus + (mode in (4, 5))


def test_bcd_counts_in_decimal_digits() -> None:
    assert values(counter(2, 0x1000, bcd=True), 3) == [0x1000, 0x0999, 0x0998]
    assert values(counter(0, 0x0001, bcd=True), 3) == [0x0001, 0x0000, 0x9999]


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_next_rise_and_advance_agree_with_out(mode: int, count: int) -> None:
    made = counter(mode, count, gate=False)
    made.set_gate(True)
    for _ in range(20):
        before, rise = made.out, made.next_rise()
        rose = made.advance(made.tick + 1)
        assert rose == (made.out and not before)
        assert rose == (rise == made.tick)


# ---- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "written", "read"),
    [
        (LOW_ONLY, [0x34], [0x34, 0x34]),
        (HIGH_ONLY, [0x12], [0x12, 0x12]),
        (LOW_HIGH, [0x34, 0x12], [0x34, 0x12]),
    ],
)
def test_reading_without_latch_follows_the_access_mode(
    access: int, written: list[int], read: list[int]
) -> None:
    made = PitCounter(gate=False)
    made.program(access)  # mode 0: GATE holds the count
    for byte in written:
        made.write(byte)
    made.advance(1)

    assert [made.read(), made.read()] == read


def test_a_latched_count_stays_until_it_is_read() -> None:
    made = counter(2, 0x1234)
    made.advance(1)
    made.latch_count()
    made.advance(0x100)
    made.latch_count()  # ignored: one is latched already

    assert [made.read(), made.read()] == [0x34, 0x12]
    assert value(made) == 0x1234 - 0xFF


def test_status_tells_out_null_count_and_the_control_word() -> None:
    made = counter(2, 0x100)
    made.latch_status()
    assert made.read() == STATUS_OUT | STATUS_NULL | LOW_HIGH | 2 << 1  # not loaded yet

    made.advance(1)
    made.latch_status()
    assert made.read() == STATUS_OUT | LOW_HIGH | 2 << 1

    write(made, 0x80)
    made.latch_status()
    assert made.read() & STATUS_NULL  # waits for the end of the period
    made.advance(0x101)
    made.latch_status()
    assert not made.read() & STATUS_NULL


def test_the_status_comes_before_the_count() -> None:
    made = counter(0, 0x1234, gate=False)
    made.advance(1)
    made.latch_count()
    made.latch_status()

    assert [made.read(), made.read(), made.read()] == [LOW_HIGH, 0x34, 0x12]


# ---- the chip on its ports ---------------------------------------------------------------------------


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
