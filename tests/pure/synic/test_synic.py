# SPDX-License-Identifier: Apache-2.0
"""One SynIC: registers, message slots and queues."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.synic.partition import PAGE, FakePartition
from tests.pure.synic.rig import (
    AUTO_EOI,
    ENABLE,
    MASKED,
    POLLING,
    SIEFP_PAGE,
    SIMP_PAGE,
    SINT,
    TYPE,
    VECTOR,
    VP,
    VTL,
    OwnBuffer,
    Rig,
)
from vmm.hv.constants import HV_SYNIC_SINT_COUNT
from vmm.hv.status import HvStatus
from vmm.synic.messages import PostedMessage
from vmm.synic.synic import SINT_QUEUE_MESSAGES, Synic


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Registers


def fresh() -> Synic:
    return Synic(VP, VTL, FakePartition().overlays, FakePartition().services)


@pytest.mark.tlfs("SYN-001", "SYN-002", "SYN-003", "SYN-004", "SYN-005", "SYN-006")
def test_reset_values() -> None:
    synic = fresh()

    assert synic.read_scontrol() == 1  # as OpenVMM and KVM; the TLFS has 0 (DIS-24)
    assert synic.read_sversion() == 1
    assert (synic.read_siefp(), synic.read_simp(), synic.read_sirbp(), synic.read_eom()) == (0, 0, 0, 0)
    assert [synic.read_sint(sint) for sint in range(16)] == [0x10000] * 16


@pytest.mark.tlfs("SYN-003")
def test_reserved_bits_of_page_registers_are_kept(rig: Rig) -> None:
    value = 9 * PAGE | 0xABE | ENABLE

    assert rig.synic.write_simp(value)
    assert rig.synic.write_siefp(value)

    assert (rig.synic.read_simp(), rig.synic.read_siefp()) == (value, value)


@pytest.mark.tlfs("SYN-003")
def test_message_page_is_an_overlay(rig: Rig) -> None:
    seen = rig.memory.read(SIMP_PAGE * PAGE, PAGE)
    rig.synic.write_simp(0)

    assert seen == bytes(PAGE)
    assert rig.memory.read(SIMP_PAGE * PAGE, PAGE) == b"\xcc" * PAGE  # what FakeMemory fills RAM with


@pytest.mark.tlfs("SYN-004")
@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (15, False),
        (16, True),
        (255, True),
        (0, False),
        (15 | MASKED, True),
        (0 | POLLING, True),
        (15 | AUTO_EOI, False),
        (0xFFFF_FFFF_FFE0_FF00 | 16, True),  # reserved bits are kept
    ],
)
def test_sint_vectors_below_16_fault_where_they_would_interrupt(value: int, accepted: bool) -> None:
    synic = fresh()

    assert synic.write_sint(4, value) is accepted
    assert synic.read_sint(4) == (value if accepted else 0x10000)


@pytest.mark.tlfs("SYN-006")
def test_sirbp_keeps_its_value() -> None:
    synic = fresh()

    assert synic.write_sirbp(0x123456789)
    assert synic.read_sirbp() == 0x123456789


# Messages


@pytest.mark.tlfs("SYN-020", "SYN-021")
def test_a_message_lands_in_its_slot_and_interrupts(rig: Rig) -> None:
    assert rig.post(b"hello") == HvStatus.SUCCESS

    message = rig.message(SIMP_PAGE, SINT)
    assert message.MessageType == TYPE
    assert message.PayloadSize == 5
    assert message.MessageFlags == 0
    assert message.Sender == 7
    assert message.Payload == b"hello".ljust(240, b"\0")
    assert rig.services.taken() == [(VP, VTL, VECTOR, False)]


@pytest.mark.tlfs("SYN-020")
@pytest.mark.parametrize("sint", range(HV_SYNIC_SINT_COUNT))
def test_each_source_has_its_slot(sint: int) -> None:
    rig = Rig()

    rig.post(b"x", sint)

    used = [n for n in range(HV_SYNIC_SINT_COUNT) if rig.message(SIMP_PAGE, n).MessageType]
    assert used == [sint]


@pytest.mark.tlfs("SYN-022")
def test_a_full_slot_keeps_its_message_and_is_marked(rig: Rig) -> None:
    rig.post(b"first")
    rig.services.taken()

    status = rig.post(b"second")

    message = rig.message(SIMP_PAGE, SINT)
    assert status == HvStatus.SUCCESS
    assert message.Payload.startswith(b"first")
    assert message.MessageFlags.MessagePending
    assert rig.services.taken() == []


@pytest.mark.tlfs("SYN-005", "SYN-022")
def test_eom_delivers_the_next_message(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.services.taken()

    rig.empty_slot(SIMP_PAGE, SINT)
    assert rig.synic.write_eom(0)

    message = rig.message(SIMP_PAGE, SINT)
    assert message.Payload.startswith(b"second")
    assert not message.MessageFlags.MessagePending
    assert rig.services.taken() == [(VP, VTL, VECTOR, False)]


@pytest.mark.tlfs("SYN-022")
def test_end_of_interrupt_of_the_sources_vector_delivers_too(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.empty_slot(SIMP_PAGE, SINT)

    rig.synic.end_of_interrupt(VECTOR + 1)
    before = rig.message(SIMP_PAGE, SINT).MessageType
    rig.synic.end_of_interrupt(VECTOR)

    assert before == 0
    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"second")


@pytest.mark.tlfs("SYN-022")
def test_another_message_delivers_one_that_waited(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.empty_slot(SIMP_PAGE, SINT)  # and no EOM

    rig.post(b"third")

    message = rig.message(SIMP_PAGE, SINT)
    assert message.Payload.startswith(b"second")
    assert message.MessageFlags.MessagePending


@pytest.mark.tlfs("SYN-022")
def test_a_slot_emptied_while_it_is_marked_is_filled_at_once() -> None:
    """The guest clears the type after the VMM looked and reads the flag before the VMM set it: no EOM comes."""
    rig = Rig()
    rig.post(b"first")
    rig.race = lambda: rig.empty_slot(SIMP_PAGE, SINT)

    rig.post(b"second")

    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"second")
    assert not rig.message(SIMP_PAGE, SINT).MessageFlags.MessagePending


@pytest.mark.tlfs("SYN-023")
def test_messages_come_in_order(rig: Rig) -> None:
    for number in range(5):
        rig.post(bytes([number]))

    taken = [rig.take() for _ in range(6)]

    assert taken == [b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", None]


@pytest.mark.tlfs("SYN-023", "SYN-027")
def test_the_queue_is_bounded(rig: Rig) -> None:
    for number in range(1 + SINT_QUEUE_MESSAGES):  # one in the slot
        assert rig.post(bytes([number])) == HvStatus.SUCCESS

    assert rig.post(b"too many") == HvStatus.INSUFFICIENT_BUFFERS
    assert rig.post(b"elsewhere", SINT + 1) == HvStatus.SUCCESS
    assert rig.synic.waiting(SINT) == SINT_QUEUE_MESSAGES


@pytest.mark.tlfs("SYN-021")
def test_masked_source_stores_without_interrupt(rig: Rig) -> None:
    rig.synic.write_sint(SINT, VECTOR | MASKED)

    assert rig.post(b"quiet") == HvStatus.SUCCESS

    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"quiet")
    assert rig.services.taken() == []


@pytest.mark.tlfs("SYN-025")
def test_polling_source_stores_without_interrupt(rig: Rig) -> None:
    rig.synic.write_sint(SINT, VECTOR | POLLING)

    rig.post(b"quiet")

    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"quiet")
    assert rig.services.taken() == []


def test_auto_eoi_goes_with_the_interrupt(rig: Rig) -> None:
    rig.synic.write_sint(SINT, VECTOR | AUTO_EOI)

    rig.post()

    assert rig.services.taken() == [(VP, VTL, VECTOR, True)]


@pytest.mark.tlfs("SYN-001", "SYN-027")
def test_posting_to_a_disabled_synic_or_page_is_refused(rig: Rig) -> None:
    rig.synic.write_scontrol(0)
    without_synic = rig.post()
    rig.synic.write_scontrol(ENABLE)
    rig.synic.write_simp(SIMP_PAGE * PAGE)

    assert (without_synic, rig.post()) == (HvStatus.INVALID_SYNIC_STATE, HvStatus.INVALID_SYNIC_STATE)


@pytest.mark.tlfs("SYN-001")
def test_what_waits_arrives_when_the_synic_is_enabled_again(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.synic.write_scontrol(0)
    rig.empty_slot(SIMP_PAGE, SINT)
    rig.synic.write_eom(0)
    before = rig.message(SIMP_PAGE, SINT).MessageType

    rig.synic.write_scontrol(ENABLE)

    assert before == 0
    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"second")


@pytest.mark.tlfs("SYN-001", "SYN-003")
def test_reset_clears_pages_queues_and_registers(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.synic.signal_event(SINT, 5)
    rig.synic.write_sirbp(1)
    rig.synic.write_scontrol(0)

    rig.synic.reset()
    registers = (rig.synic.read_scontrol(), rig.synic.read_simp(), rig.synic.read_siefp())
    rig.synic.write_simp(SIMP_PAGE * PAGE | ENABLE)
    rig.synic.write_siefp(SIEFP_PAGE * PAGE | ENABLE)
    rig.synic.write_eom(0)

    assert registers == (1, 0, 0)
    assert (rig.synic.read_sirbp(), rig.synic.read_sint(SINT)) == (0, 0x10000)
    assert rig.message(SIMP_PAGE, SINT).MessageType == 0
    assert rig.flags(SIEFP_PAGE, SINT) == set()
    rig.post(b"third")
    assert [rig.take(), rig.take()] == [b"third", None]


def test_a_message_with_its_own_buffer_waits_for_a_disabled_page(rig: Rig) -> None:
    rig.synic.write_simp(0)
    message = OwnBuffer(b"late")

    status = rig.synic.post(SINT, message)
    before = message.deliveries
    rig.synic.write_simp(SIMP_PAGE * PAGE | ENABLE)

    assert (status, before, message.deliveries) == (HvStatus.SUCCESS, 0, 1)
    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"late")


def test_a_message_with_its_own_buffer_does_not_count_against_the_bound(rig: Rig) -> None:
    for _ in range(1 + SINT_QUEUE_MESSAGES):
        rig.post()

    assert rig.synic.post(SINT, OwnBuffer(b"")) == HvStatus.SUCCESS


def test_a_withdrawn_message_never_arrives(rig: Rig) -> None:
    rig.post(b"first")
    message = OwnBuffer(b"withdrawn")
    rig.synic.post(SINT, message)

    rig.synic.withdraw(SINT, message)
    rig.synic.withdraw(SINT, message)

    assert [rig.take(), rig.take()] == [b"first", None]
    assert message.deliveries == 0


def test_no_lock_is_held_when_others_are_told(rig: Rig) -> None:
    """A sender and an interrupt sink that use the SynIC again: a lock held would never be released."""

    class Chatty(OwnBuffer):
        def delivered(self) -> None:
            super().delivered()
            rig.synic.post(SINT + 1, PostedMessage(TYPE, b"from delivered"))

    rig.synic.post(SINT, Chatty(b""))

    assert rig.message(SIMP_PAGE, SINT + 1).Payload.startswith(b"from delivered")


@pytest.mark.parametrize(("message_type", "size"), [(0, 0), (1, 241)])
def test_impossible_messages_are_a_mistake_of_ours(message_type: int, size: int) -> None:
    with pytest.raises(ValueError, match="must not be 0"):
        PostedMessage(message_type, bytes(size))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(0, 2)),
        st.tuples(st.just("empty without EOM"), st.integers(0, 2)),
        st.tuples(st.just("eom"), st.just(0)),
        st.tuples(st.just("toggle"), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.tlfs("SYN-022", "SYN-023")
@given(ACTIONS)
def test_no_message_is_lost_repeated_or_overtaken(actions: list[tuple[str, int]]) -> None:
    """Whatever posters and the guest do: each source's accepted messages arrive once, in order."""
    rig = Rig()
    accepted: list[list[bytes]] = [[], [], []]
    arrived: list[list[bytes]] = [[], [], []]
    on = True
    number = 0
    for action, sint in actions:
        if action == "post":
            number += 1
            payload = number.to_bytes(2, "little")
            status = rig.post(payload, sint)
            assert (status == HvStatus.INVALID_SYNIC_STATE) is not on
            if status == HvStatus.SUCCESS:
                accepted[sint].append(payload)
        elif action == "take":
            if (taken := rig.take(sint)) is not None:
                arrived[sint].append(taken)
        elif action == "empty without EOM":
            message = rig.message(SIMP_PAGE, sint)
            if message.MessageType:
                arrived[sint].append(message.Payload[:2])
                rig.empty_slot(SIMP_PAGE, sint)
        elif action == "eom":
            rig.synic.write_eom(0)
        else:
            on = not on
            rig.synic.write_scontrol(int(on))

    rig.synic.write_scontrol(ENABLE)
    for sint in range(3):
        for _ in range(2 + SINT_QUEUE_MESSAGES):
            rig.synic.write_eom(0)
            if (taken := rig.take(sint)) is not None:
                arrived[sint].append(taken)
    assert arrived == accepted
