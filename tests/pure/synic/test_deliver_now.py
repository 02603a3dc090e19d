# SPDX-License-Identifier: Apache-2.0
"""Messages that are worth something at once only: those of intercepts."""

from __future__ import annotations

import pytest

from tests.pure.synic.partition import PAGE, SLOT
from tests.pure.synic.rig import MASKED, SIMP_PAGE, SINT, VECTOR, VP, VTL, OwnBuffer, Rig
from vmm.hv.status import HvStatus

TYPE_GPA = SIMP_PAGE * PAGE + SINT * SLOT  # of the message type in the source's slot


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.tlfs("VSM-100", "VSM-102")
def test_it_is_in_an_empty_slot_and_interrupts(rig: Rig) -> None:
    message = OwnBuffer(b"now")

    assert rig.synic.deliver_now(SINT, message)

    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"now")
    assert not rig.message(SIMP_PAGE, SINT).MessageFlags.MessagePending
    assert rig.services.taken() == [(VP, VTL, VECTOR, False)]
    assert message.deliveries == 1


@pytest.mark.tlfs("VSM-102")
def test_a_masked_source_stores_it_without_interrupt(rig: Rig) -> None:
    rig.synic.write_sint(SINT, VECTOR | MASKED)

    assert rig.synic.deliver_now(SINT, OwnBuffer(b"now"))

    assert rig.message(SIMP_PAGE, SINT).Payload.startswith(b"now")
    assert rig.services.taken() == []


@pytest.mark.tlfs("VSM-103")
def test_it_is_forgotten_where_its_slot_is_in_use(rig: Rig) -> None:
    rig.post(b"first")
    rig.services.taken()

    assert not rig.synic.deliver_now(SINT, OwnBuffer(b"now"))

    # Nobody is to write EOM for a message that does not wait.
    assert not rig.message(SIMP_PAGE, SINT).MessageFlags.MessagePending
    assert [rig.take(), rig.take()] == [b"first", None]
    assert rig.services.taken() == []


def test_it_overtakes_no_message_that_waits(rig: Rig) -> None:
    rig.post(b"first")
    rig.post(b"second")
    rig.empty_slot(SIMP_PAGE, SINT)  # and no EOM

    assert not rig.synic.deliver_now(SINT, OwnBuffer(b"now"))

    rig.synic.write_eom(0)
    assert [rig.take(), rig.take()] == [b"second", None]


def test_it_is_forgotten_where_no_message_page_is_enabled(rig: Rig) -> None:
    message = OwnBuffer(b"now")
    rig.synic.write_simp(SIMP_PAGE * PAGE)
    without_page = rig.synic.deliver_now(SINT, message)
    rig.synic.write_simp(SIMP_PAGE * PAGE | 1)
    rig.synic.write_scontrol(0)
    without_synic = rig.synic.deliver_now(SINT, message)
    rig.synic.write_scontrol(1)

    assert (without_page, without_synic, message.deliveries) == (False, False, 0)
    assert rig.take() is None


def test_a_slot_that_the_guest_fills_meanwhile_is_looked_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another processor of the guest writes to the type just behind each of the VMM's looks at it."""
    read = rig.memory.read

    def racing(gpa: int, size: int) -> bytes:
        seen = read(gpa, size)
        if (gpa, size) == (TYPE_GPA, 4):
            rig.memory.write(TYPE_GPA, b"\x77\0\0\0")
        return seen

    monkeypatch.setattr(rig.memory, "read", racing)
    told = rig.synic.deliver_now(SINT, OwnBuffer(b"now"))
    monkeypatch.undo()

    assert told
    assert rig.take() == b"now"
    assert rig.synic.waiting(SINT) == 0
    assert rig.post(b"later") == HvStatus.SUCCESS
    assert rig.take() == b"later"
