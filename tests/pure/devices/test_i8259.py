# SPDX-License-Identifier: Apache-2.0
"""Two cascaded 8259As (Intel 8259A data sheet; ICH data sheet for the ELCR)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.bus import PortBus
from vmm.machine.devices.i8259 import PicPair

from .fuzz import SIZES

MASTER, MASTER_DATA, SLAVE, SLAVE_DATA = 0x20, 0x21, 0xA0, 0xA1
ELCR = 0x4D0
EOI, ROTATE_ON_EOI = 0x20, 0xA0
SPECIFIC_EOI, ROTATE_ON_SPECIFIC_EOI, SET_PRIORITY = 0x60, 0xE0, 0xC0
ROTATE_IN_AEOI, READ_IRR, READ_ISR, POLL = 0x80, 0x0A, 0x0B, 0x0C
SET_SPECIAL_MASK, RESET_SPECIAL_MASK = 0x68, 0x48
AEOI, SFNM = 0x02, 0x10
VECTORS = 0x30  # of the master; the slave's follow


class Pics:
    """A pair on a port bus, initialised as a PC does, everything unmasked; remembers INTR's changes."""

    def __init__(self, master_icw4: int = 0, slave_icw4: int = 0) -> None:
        self.changes: list[bool] = []
        self.pair = PicPair(self.changes.append)
        self.bus = PortBus()
        self.pair.attach(self.bus)
        self.pair.reset()
        self.initialise(MASTER, VECTORS, 1 << 2, master_icw4)
        self.initialise(SLAVE, VECTORS + 8, 2, slave_icw4)

    def initialise(self, port: int, vector: int, icw3: int, icw4: int = 0, mask: int = 0) -> None:
        for offset, value in ((0, 0x11), (1, vector), (1, icw3), (1, 1 | icw4), (1, mask)):
            self.out(port + offset, value)

    def out(self, port: int, value: int) -> None:
        self.bus.write(port, 1, value)

    def inb(self, port: int) -> int:
        return self.bus.read(port, 1)

    def pulse(self, *irqs: int) -> None:
        for irq in irqs:
            self.pair.set_irq(irq, True)
            self.pair.set_irq(irq, False)

    def take(self) -> int | None:
        """The interrupt a processor gets, None while INTR is low."""
        return self.pair.acknowledge() - VECTORS if self.pair.intr else None

    def irr(self, port: int = MASTER) -> int:
        self.out(port, READ_IRR)
        return self.inb(port)

    def isr(self, port: int = MASTER) -> int:
        self.out(port, READ_ISR)
        return self.inb(port)


@pytest.fixture
def pics() -> Pics:
    return Pics()


def test_every_input_gives_its_vector_and_needs_an_eoi() -> None:
    for irq in (0, 1, 3, 4, 5, 6, 7, *range(8, 16)):
        pics = Pics()
        pics.pulse(irq)

        assert pics.take() == irq
        assert not pics.pair.intr
        in_service = (1 << irq, 0) if irq < 8 else (1 << 2, 1 << irq - 8)
        assert (pics.isr(MASTER), pics.isr(SLAVE)) == in_service


def test_intr_is_reported_at_each_change_only(pics: Pics) -> None:
    pics.pair.set_irq(3, True)
    pics.pair.set_irq(4, True)
    pics.out(MASTER_DATA, 0xFF)
    pics.out(MASTER_DATA, 0xF7)
    pics.pair.acknowledge()

    assert pics.changes == [True, False, True, False]


def test_an_edge_stays_latched_when_the_line_falls(pics: Pics) -> None:
    pics.out(MASTER_DATA, 0xFF)
    pics.pulse(5)
    assert (pics.pair.intr, pics.irr()) == (False, 1 << 5)

    pics.out(MASTER_DATA, 0)

    assert pics.take() == 5
    assert pics.irr() == 0


def test_a_line_that_stays_high_makes_one_edge(pics: Pics) -> None:
    pics.pair.set_irq(5, True)
    pics.take()
    pics.out(MASTER, EOI)
    pics.pair.set_irq(5, True)

    assert pics.take() is None


def test_fixed_priority_falls_from_input_0_to_7_with_the_slave_at_2(pics: Pics) -> None:
    for irq in (7, 15, 3, 8, 1, 0):
        pics.pulse(irq)
    order = []
    while (taken := pics.take()) is not None:
        order.append(taken)
        if taken >= 8:
            pics.out(SLAVE, EOI)
        pics.out(MASTER, EOI)

    assert order == [0, 1, 8, 15, 3, 7]


def test_what_is_in_service_blocks_itself_and_lower_ones_only(pics: Pics) -> None:
    pics.pulse(4)
    pics.take()

    pics.pulse(4, 6)
    assert pics.take() is None
    pics.pulse(3)
    assert pics.take() == 3
    assert pics.isr() == 1 << 3 | 1 << 4

    pics.out(MASTER, EOI)  # of 3, which is the highest in service
    assert pics.isr() == 1 << 4
    pics.out(MASTER, EOI)
    assert pics.take() == 4


def test_a_specific_eoi_ends_the_named_level(pics: Pics) -> None:
    pics.pulse(4)
    pics.take()
    pics.pulse(1)
    pics.take()

    pics.out(MASTER, SPECIFIC_EOI | 4)

    assert pics.isr() == 1 << 1


@pytest.mark.parametrize("command", [EOI, ROTATE_ON_EOI, SPECIFIC_EOI | 3, 0x40])
def test_an_eoi_without_anything_in_service_is_harmless(pics: Pics, command: int) -> None:
    pics.out(MASTER, command)

    pics.pulse(6)
    assert pics.take() == 6


@pytest.mark.parametrize("command", [ROTATE_ON_EOI, ROTATE_ON_SPECIFIC_EOI | 4])
def test_rotation_gives_the_served_level_the_lowest_priority(pics: Pics, command: int) -> None:
    pics.pulse(4)
    pics.take()
    pics.out(MASTER, command)

    pics.pulse(0, 4, 5)
    assert pics.take() == 5  # the order is 5 6 7 0 1 2 3 4 now
    pics.out(MASTER, EOI)
    assert pics.take() == 0


def test_set_priority_command(pics: Pics) -> None:
    pics.out(MASTER, SET_PRIORITY | 5)  # 6 is the highest

    pics.pulse(0, 6)

    assert pics.take() == 6


def test_automatic_eoi_leaves_nothing_in_service() -> None:
    pics = Pics(master_icw4=AEOI)
    pics.pulse(4, 6)

    assert [pics.take(), pics.take(), pics.take()] == [4, 6, None]
    assert pics.isr() == 0


def test_rotation_in_automatic_eoi_mode() -> None:
    pics = Pics(master_icw4=AEOI)
    pics.out(MASTER, ROTATE_IN_AEOI)
    pics.pulse(1)
    pics.take()
    pics.pulse(1, 7)
    assert [pics.take(), pics.take()] == [7, 1]

    pics.out(MASTER, 0x00)  # rotation off; 1 has the lowest priority and keeps it
    pics.pulse(3)
    pics.take()
    pics.pulse(1, 3)
    assert pics.take() == 3


def test_special_mask_mode_lets_lower_levels_through(pics: Pics) -> None:
    pics.pulse(1)
    pics.take()
    pics.out(MASTER_DATA, 1 << 1)
    pics.out(MASTER, SET_SPECIAL_MASK)
    pics.pulse(6)
    assert pics.take() == 6

    pics.out(MASTER, EOI)  # a masked IS bit is out of its reach
    assert pics.isr() == 1 << 1
    pics.out(MASTER, EOI)
    assert pics.isr() == 1 << 1

    pics.out(MASTER, RESET_SPECIAL_MASK)
    pics.pulse(5)
    assert pics.take() is None


def test_special_fully_nested_mode_lets_the_slave_interrupt_itself() -> None:
    plain, nested = Pics(), Pics(master_icw4=SFNM)
    for pics in (plain, nested):
        pics.pulse(12)
        pics.take()
        pics.pulse(8)

    assert (plain.take(), nested.take()) == (None, 8)


def test_special_fully_nested_mode_keeps_lower_inputs_of_the_master_out() -> None:
    pics = Pics(master_icw4=SFNM)
    pics.pulse(12)
    pics.take()

    pics.pulse(3)

    assert pics.take() is None
    pics.pulse(1)
    assert pics.take() == 1


def test_requests_behind_each_other_at_the_slave_all_come(pics: Pics) -> None:
    pics.pulse(10, 9)
    assert pics.take() == 9

    pics.out(MASTER, EOI)  # master first: the slave's 10 is still blocked by 9
    assert pics.take() is None
    pics.out(SLAVE, EOI)
    assert pics.take() == 10


def test_a_request_that_the_slave_withdraws_is_gone(pics: Pics) -> None:
    pics.pulse(10)
    pics.out(SLAVE_DATA, 0xFF)

    assert pics.take() is None
    assert pics.irr(MASTER) == 0


def test_a_processor_that_acknowledges_nothing_gets_spurious_7(pics: Pics) -> None:
    assert pics.pair.acknowledge() == VECTORS + 7
    assert pics.isr() == 0


def test_level_triggered_inputs_request_as_long_as_they_are_high(pics: Pics) -> None:
    pics.out(ELCR + 1, 1 << 3)  # interrupt 11
    pics.pair.set_irq(11, True)
    assert pics.take() == 11
    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)
    assert pics.take() == 11

    pics.pair.set_irq(11, False)
    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)
    assert pics.take() is None


def test_a_level_that_falls_in_time_leaves_no_request(pics: Pics) -> None:
    pics.out(ELCR, 1 << 5)
    pics.pulse(5)

    assert (pics.pair.intr, pics.irr()) == (False, 0)


def test_an_input_made_edge_triggered_waits_for_a_new_edge(pics: Pics) -> None:
    pics.out(ELCR, 1 << 5)
    pics.pair.set_irq(5, True)
    pics.out(ELCR, 0)
    assert pics.take() is None

    pics.pair.set_irq(5, False)
    pics.pair.set_irq(5, True)
    assert pics.take() == 5


def test_the_elcr_keeps_what_a_pc_wires_as_edges(pics: Pics) -> None:
    pics.bus.write(ELCR, 2, 0xFFFF)

    assert pics.bus.read(ELCR, 2) == 0xDEF8  # not 0, 1, 2, 8 and 13


def test_poll_command_is_an_acknowledgement(pics: Pics) -> None:
    pics.out(MASTER_DATA, 0xFF & ~(1 << 3))
    pics.pulse(3)
    pics.out(MASTER, POLL)

    assert pics.inb(MASTER) == 0x83
    assert pics.isr() == 1 << 3
    assert pics.inb(MASTER_DATA) == 0xFF & ~(1 << 3)  # only the first read was the poll


def test_poll_without_a_request(pics: Pics) -> None:
    pics.out(MASTER, POLL)

    assert pics.inb(MASTER) & 0x80 == 0
    assert pics.isr() == 0


def test_polling_master_then_slave_leaves_the_next_request_visible(pics: Pics) -> None:
    pics.pulse(9, 8)
    pics.out(MASTER, POLL)
    assert pics.inb(MASTER) == 0x82
    pics.out(SLAVE, POLL)
    assert pics.inb(SLAVE) == 0x80

    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)

    assert pics.take() == 9


def test_registers_read_as_chosen_until_chosen_anew(pics: Pics) -> None:
    pics.pulse(4)
    pics.take()
    pics.pulse(6)

    assert pics.inb(MASTER) == 1 << 6  # IRR after ICW1
    pics.out(MASTER, READ_ISR)
    assert [pics.inb(MASTER), pics.inb(MASTER)] == [1 << 4, 1 << 4]
    pics.out(MASTER, READ_IRR)
    assert pics.inb(MASTER) == 1 << 6


def test_nothing_passes_before_initialisation_is_complete(pics: Pics) -> None:
    for offset, value in ((0, 0x11), (1, 0x50), (1, 4)):
        pics.out(MASTER + offset, value)
        pics.pulse(1)
        assert not pics.pair.intr

    pics.out(MASTER_DATA, 1)

    assert pics.pair.acknowledge() == 0x51


def test_icw1_forgets_edges_masks_and_what_was_in_service(pics: Pics) -> None:
    pics.pulse(1)
    pics.take()
    pics.pair.set_irq(4, True)
    pics.out(MASTER_DATA, 0x0F)

    pics.initialise(MASTER, VECTORS, 4)

    assert (pics.irr(), pics.isr(), pics.inb(MASTER_DATA)) == (0, 0, 0)
    pics.pair.set_irq(4, False)
    pics.pair.set_irq(4, True)  # a new low-to-high transition
    assert pics.take() == 4


@pytest.mark.parametrize(
    ("icw1", "words"), [(0x11, [0x40, 4, 1]), (0x10, [0x40, 4]), (0x13, [0x40, 1]), (0x12, [0x40])]
)
def test_icw1_says_which_words_follow(pics: Pics, icw1: int, words: list[int]) -> None:
    pics.out(MASTER, icw1)
    for word in words:
        pics.out(MASTER_DATA, word)

    pics.out(MASTER_DATA, 0x5A)  # OCW1 by now

    assert pics.inb(MASTER_DATA) == 0x5A


def test_power_on_is_mute_and_keeps_the_lines(pics: Pics) -> None:
    pics.out(ELCR, 1 << 5)
    pics.pair.set_irq(5, True)
    pics.pair.reset()
    assert (pics.pair.intr, pics.inb(ELCR)) == (False, 0)

    pics.initialise(MASTER, VECTORS, 4)
    pics.out(ELCR, 1 << 5)

    assert pics.take() == 5


def test_nobody_else_drives_the_cascade(pics: Pics) -> None:
    pics.pulse(2)

    assert (pics.pair.intr, pics.irr()) == (False, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("line"), st.integers(0, 15), st.booleans()),
        st.tuples(
            st.just("out"),
            st.sampled_from((MASTER, MASTER_DATA, SLAVE, SLAVE_DATA, ELCR, ELCR + 1)),
            st.integers(0, 255),
        ),
        st.tuples(st.just("in"), st.sampled_from((MASTER, SLAVE, ELCR)), st.sampled_from(SIZES)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_a_guest_does_changes_are_told_and_it_can_recover(steps: list[tuple[str, int, int]]) -> None:
    pics = Pics()
    for action, where, value in steps:
        if action == "line":
            pics.pair.set_irq(where, bool(value))
        elif action == "out":
            pics.out(where, value)
        elif action == "in":
            assert 0 <= pics.bus.read(where, value) < 1 << 8 * value
        elif pics.pair.intr:
            assert 0 <= pics.pair.acknowledge() <= 0xFF
        assert pics.pair.intr == (pics.changes[-1] if pics.changes else False)
    assert pics.changes == [index % 2 == 0 for index in range(len(pics.changes))]

    # An ordinary initialisation recovers from any state.
    pics.initialise(MASTER, VECTORS, 4)
    pics.initialise(SLAVE, VECTORS + 8, 2)
    pics.out(ELCR, 0)
    pics.out(ELCR + 1, 0)
    for irq in range(16):
        pics.pair.set_irq(irq, False)
    while pics.take() is not None:  # what was level-triggered for a moment
        pics.out(SLAVE, EOI)
        pics.out(MASTER, EOI)
    pics.initialise(MASTER, VECTORS, 4)
    pics.initialise(SLAVE, VECTORS + 8, 2)
    pics.pulse(14)
    assert pics.take() == 14
