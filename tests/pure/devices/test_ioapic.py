# SPDX-License-Identifier: Apache-2.0
"""The I/O APIC (82093AA and ICH data sheets)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.machine.devices.ioapic import IOAPIC_PINS, IoApic, Message

SELECT, WINDOW, EOI = 0x00, 0x10, 0x40
LEVEL, MASKED, LOGICAL, REMOTE_IRR, ACTIVE_LOW = 1 << 15, 1 << 16, 1 << 11, 1 << 14, 1 << 13
DESTINATION = 56
VECTOR = 0x61
PIN = 13


class Chip:
    """An I/O APIC whose messages and routes are remembered; `taken` says whether local APICs accept them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.routes: list[dict[int, Message]] = []
        self.taken = True
        self.ioapic = IoApic(self._deliver, self.routes.append)

    def _deliver(self, address: int, data: int) -> bool:
        self.messages.append((address, data))
        return self.taken

    def get(self, index: int) -> int:
        self.ioapic.write(SELECT, 4, index)
        return self.ioapic.read(WINDOW, 4)

    def put(self, index: int, value: int) -> None:
        self.ioapic.write(SELECT, 4, index)
        self.ioapic.write(WINDOW, 4, value)

    def route(self, entry: int, pin: int = PIN) -> None:
        """Write an entry as guests do: the half with the mask last."""
        self.put(0x11 + 2 * pin, entry >> 32)
        self.put(0x10 + 2 * pin, entry & 0xFFFFFFFF)

    def entry(self, pin: int = PIN) -> int:
        return self.get(0x11 + 2 * pin) << 32 | self.get(0x10 + 2 * pin)

    def pulse(self, pin: int = PIN) -> None:
        self.ioapic.set_pin(pin, True)
        self.ioapic.set_pin(pin, False)


@pytest.fixture
def chip() -> Chip:
    return Chip()


def test_registers_after_power_on(chip: Chip) -> None:
    assert chip.get(0) == 0
    assert chip.get(1) == 0x00170020  # 24 entries, version 0x20: it has an EOI register
    assert {chip.entry(pin) for pin in range(IOAPIC_PINS)} == {MASKED}


def test_id_and_arbitration_id(chip: Chip) -> None:
    chip.put(0, 0xFFFFFFFF)
    chip.put(1, 0)
    chip.put(2, 0)

    assert [chip.get(0), chip.get(2), chip.get(1)] == [0x0F000000, 0x0F000000, 0x00170020]


def test_read_only_and_reserved_bits_of_an_entry(chip: Chip) -> None:
    chip.route((1 << 64) - 1)

    assert chip.entry() == 0xFF << DESTINATION | 0x1AFFF


@pytest.mark.parametrize("index", [3, 0x0F, 0x40, 0xFF])
def test_an_index_without_register(chip: Chip, index: int) -> None:
    chip.put(index, 0)

    assert chip.get(index) == 0xFFFFFFFF


def test_narrow_reads_are_cut_and_other_offsets_reserved(chip: Chip) -> None:
    chip.ioapic.write(SELECT, 1, 1)

    assert chip.ioapic.read(SELECT, 4) == 1
    assert [chip.ioapic.read(WINDOW, size) for size in (1, 2, 8)] == [0x20, 0x20, 0x00170020]
    assert chip.ioapic.read(0x20, 4) == 0


def test_a_rising_edge_sends_one_message(chip: Chip) -> None:
    chip.route(VECTOR | 3 << DESTINATION)

    chip.ioapic.set_pin(PIN, True)
    chip.ioapic.set_pin(PIN, True)
    chip.ioapic.set_pin(PIN, False)

    assert chip.messages == [(0xFEE03000, 0x4000 | VECTOR)]
    assert not chip.entry() & REMOTE_IRR


def test_logical_lowest_priority_message(chip: Chip) -> None:
    chip.route(VECTOR | 1 << 8 | LOGICAL | 0xFF << DESTINATION)

    chip.pulse()

    assert chip.messages == [(0xFEEFF004, 0x4100 | VECTOR)]


def test_an_edge_at_a_masked_pin_is_lost(chip: Chip) -> None:
    chip.route(VECTOR | MASKED)
    chip.ioapic.set_pin(PIN, True)
    chip.route(VECTOR)

    assert chip.messages == []


def test_polarity_is_the_devices_business(chip: Chip) -> None:
    chip.route(VECTOR | ACTIVE_LOW)

    chip.pulse()

    assert len(chip.messages) == 1


@pytest.mark.parametrize("mode", [2, 4, 5])
def test_smi_nmi_and_init_are_edges_even_if_called_levels(chip: Chip, mode: int) -> None:
    chip.route(mode << 8 | LEVEL)

    chip.ioapic.set_pin(PIN, True)
    chip.ioapic.set_pin(PIN, True)
    chip.route(mode << 8 | LEVEL)

    assert chip.messages == [(0xFEE00000, 0x4000 | mode << 8)]
    assert not chip.entry() & REMOTE_IRR


@pytest.mark.parametrize("mode", [3, 6, 7])
def test_extint_and_reserved_modes_deliver_nothing(chip: Chip, mode: int) -> None:
    for trigger in (0, LEVEL):
        chip.route(VECTOR | mode << 8 | trigger)
        chip.pulse()

    assert chip.messages == []
    assert chip.routes == []


def test_a_level_interrupts_once_per_eoi_while_it_is_high(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL)
    chip.ioapic.set_pin(PIN, True)
    chip.ioapic.set_pin(PIN, False)
    chip.ioapic.set_pin(PIN, True)
    assert chip.messages == [(0xFEE00000, 0xC000 | VECTOR)]
    assert chip.entry() & REMOTE_IRR

    chip.ioapic.end_of_interrupt(VECTOR)
    assert len(chip.messages) == 2

    chip.ioapic.set_pin(PIN, False)
    chip.ioapic.end_of_interrupt(VECTOR)
    assert len(chip.messages) == 2
    assert not chip.entry() & REMOTE_IRR


def test_the_eoi_register_does_the_same(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL)
    chip.ioapic.set_pin(PIN, True)

    chip.ioapic.write(EOI, 4, VECTOR + 1)
    assert len(chip.messages) == 1
    chip.ioapic.write(EOI, 4, VECTOR)
    assert len(chip.messages) == 2


def test_an_eoi_reaches_all_pins_that_share_the_vector(chip: Chip) -> None:
    for pin in (5, 6):
        chip.route(VECTOR | LEVEL, pin)
        chip.ioapic.set_pin(pin, True)
        chip.ioapic.set_pin(pin, False)

    chip.ioapic.end_of_interrupt(VECTOR)

    assert not (chip.entry(5) | chip.entry(6)) & REMOTE_IRR


def test_a_high_level_comes_when_unmasked_and_waits_while_masked(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL | MASKED)
    chip.ioapic.set_pin(PIN, True)
    assert chip.messages == []
    chip.route(VECTOR | LEVEL)
    assert len(chip.messages) == 1

    chip.route(VECTOR | LEVEL | MASKED)
    chip.ioapic.end_of_interrupt(VECTOR)  # masked between interrupt and EOI
    assert len(chip.messages) == 1
    assert not chip.entry() & REMOTE_IRR


def test_a_message_that_nobody_takes_leaves_remote_irr_clear(chip: Chip) -> None:
    chip.taken = False
    chip.route(VECTOR | LEVEL | 9 << DESTINATION)
    chip.ioapic.set_pin(PIN, True)
    assert not chip.entry() & REMOTE_IRR

    chip.taken = True
    chip.route(VECTOR | LEVEL)  # to a processor that is there

    assert chip.entry() & REMOTE_IRR


def test_remote_irr_cannot_be_written_but_goes_with_edge_mode(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL)
    chip.ioapic.set_pin(PIN, True)
    chip.ioapic.set_pin(PIN, False)
    chip.route(VECTOR | LEVEL)
    assert chip.entry() & REMOTE_IRR

    chip.route(VECTOR | MASKED)  # how Linux clears it without an EOI register
    chip.route(VECTOR | LEVEL)

    assert not chip.entry() & REMOTE_IRR


def test_unfinished_interrupts_are_those_without_eoi(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL | 1 << DESTINATION, 5)
    chip.route(VECTOR + 1, 6)
    chip.pulse(5)
    chip.pulse(6)
    assert chip.ioapic.unfinished() == [(0xFEE01000, 0xC000 | VECTOR)]

    chip.ioapic.end_of_interrupt(VECTOR)

    assert chip.ioapic.unfinished() == []


def test_routes_name_the_level_triggered_entries_masked_or_not(chip: Chip) -> None:
    chip.route(VECTOR, 4)
    assert chip.routes == []

    chip.route(VECTOR | LEVEL | MASKED | 2 << DESTINATION, 9)
    chip.route(VECTOR | LEVEL | 2 << DESTINATION, 9)  # nothing changes for EOIs
    chip.route(0x71 | LEVEL, 10)
    chip.route(0x71, 10)

    nine = {9: (0xFEE02000, 0xC000 | VECTOR)}
    assert chip.routes[-3:] == [nine, nine | {10: (0xFEE00000, 0xC071)}, nine]


def test_reset_masks_all_and_keeps_the_pins_levels(chip: Chip) -> None:
    chip.route(VECTOR | LEVEL)
    chip.ioapic.set_pin(PIN, True)
    chip.put(0, 0x05000000)

    chip.ioapic.reset()

    assert (chip.get(0), chip.entry(), chip.routes[-1]) == (0, MASKED, {})
    chip.route(VECTOR | LEVEL)
    assert len(chip.messages) == 2


def test_an_eoi_is_nothing_to_an_edge_triggered_pin(chip: Chip) -> None:
    chip.route(0x31)
    chip.ioapic.set_pin(PIN, True)
    sent = len(chip.messages)

    chip.ioapic.end_of_interrupt(0x31)

    assert (sent, len(chip.messages)) == (1, 1)


def test_the_eoi_register_looks_at_the_vector_only(chip: Chip) -> None:
    chip.route(0x31 | 1 << 15)
    chip.ioapic.set_pin(PIN, True)

    chip.ioapic.write(0x40, 4, 0xABCDEF31)

    assert len(chip.messages) == 2  # the pin is still high


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pin"), st.integers(0, IOAPIC_PINS - 1), st.integers(0, 1)),
        st.tuples(st.just("index"), st.integers(0, 0xFF), st.integers(0, (1 << 32) - 1)),
        st.tuples(st.just("entry"), st.integers(0, 3), st.integers(0, 0x1FFFF)),
        st.tuples(st.just("raw"), st.integers(0, 0xFFF), st.integers(0, (1 << 64) - 1)),
        st.tuples(st.just("eoi"), st.just(0), st.integers(0, 0xFF)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from((1, 2, 4, 8)))
def test_whatever_a_guest_does_remote_irr_means_a_message_was_sent(
    steps: list[tuple[str, int, int]], size: int
) -> None:
    chip = Chip()
    for action, where, value in steps:
        before = [chip.entry(pin) & REMOTE_IRR for pin in range(IOAPIC_PINS)]
        sent = len(chip.messages)
        if action == "pin":
            chip.ioapic.set_pin(where, bool(value))
        elif action == "index":
            chip.put(where, value)
        elif action == "entry":
            chip.put(0x10 + 2 * where, value)
        elif action == "raw":
            chip.ioapic.write(where, size, value & ((1 << 8 * size) - 1))
            assert 0 <= chip.ioapic.read(where, size) < 1 << 8 * size
        else:
            chip.ioapic.end_of_interrupt(value)
        after = [chip.entry(pin) & REMOTE_IRR for pin in range(IOAPIC_PINS)]
        newly_set = sum(now > earlier for now, earlier in zip(after, before, strict=True))
        assert newly_set <= len(chip.messages) - sent
