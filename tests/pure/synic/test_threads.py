# SPDX-License-Identifier: Apache-2.0
"""VP threads, a poster and the timer thread at once: nothing lost, nothing stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hv.status import HvStatus
from vmm.synic.messages import PostedMessage
from vmm.synic.synic import Synic
from vmm.timers.reference import ReferenceTime
from vmm.timers.stimer import SyntheticTimers

SIMP_PAGE, SINT = 5, 2
MESSAGES_PER_POSTER = 100
JOIN_SECONDS = 30  # far beyond what it takes: only a deadlock needs that long
TIMER_TYPE = 0x80000010
MS = 10_000  # in 100 ns units


def run_all(bodies: list[Callable[[], None]]) -> None:
    """Run them at once; an exception or a thread that does not end fails the test."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_SECONDS)
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert errors == []


def test_posters_timers_and_guest_at_once() -> None:
    """Two posters and a periodic timer fill one slot, the guest empties it and reprograms the timer meanwhile."""
    rig = FakePartition()
    reference = ReferenceTime(rig.clock)
    reference.resume()
    synic = Synic(0, 0, rig.overlays, rig.services)
    timers = SyntheticTimers(synic, reference, rig.clock, rig.services)
    synic.write_simp(SIMP_PAGE * PAGE | 1)
    synic.write_sint(SINT, 0x40)
    received: list[list[int]] = [[], []]
    timer_messages = 0
    posting = {0, 1}

    def going_on() -> bool:
        """Until both have posted, and a timer message has found the slot empty: on a busy host that may come last."""
        return bool(posting) or not timer_messages

    def poster(sender: int) -> None:
        for number in range(MESSAGES_PER_POSTER):
            message = PostedMessage(1 + sender, number.to_bytes(4, "little"))
            while synic.post(SINT, message) == HvStatus.INSUFFICIENT_BUFFERS:
                synic.write_eom(0)
        posting.discard(sender)

    def guest() -> None:
        nonlocal timer_messages
        rounds = 0
        while going_on() or synic.waiting(SINT) or rig.message(SIMP_PAGE, SINT).MessageType:
            rounds += 1
            message = rig.message(SIMP_PAGE, SINT)
            if message.MessageType == TIMER_TYPE:
                timer_messages += 1
            elif message.MessageType:
                received[message.MessageType - 1].append(int.from_bytes(message.Payload[:4], "little"))
            if rounds % 50 == 0:
                timers.write_count(0, MS if going_on() else 0)
            if message.MessageType:
                rig.empty_slot(SIMP_PAGE, SINT)
                synic.write_eom(0)

    def timer_thread() -> None:
        while going_on():
            rig.clock.advance(MS * 100)

    timers.write_config(0, SINT << 16 | 2 | 8)
    timers.write_count(0, MS)
    run_all([lambda: poster(0), lambda: poster(1), guest, timer_thread])

    assert received == [list(range(MESSAGES_PER_POSTER))] * 2
    assert timer_messages > 0


def test_pages_are_moved_while_messages_arrive() -> None:
    """Two SynICs place their pages on the same two GPAs while messages come: RAM is whole in the end."""
    rig = FakePartition()
    before = bytes(rig.memory.ram)
    synics = [Synic(vp, 0, rig.overlays, rig.services) for vp in range(2)]

    def move(synic: Synic) -> None:
        for number in range(200):
            synic.write_simp((SIMP_PAGE + number % 2) * PAGE | 1)
            synic.post(SINT, PostedMessage(1, b"x"))
        synic.write_simp(0)

    run_all([lambda: move(synics[0]), lambda: move(synics[1])])

    assert bytes(rig.memory.ram) == before
