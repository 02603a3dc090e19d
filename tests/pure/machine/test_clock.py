# SPDX-License-Identifier: Apache-2.0
"""Guest time and its timers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vmm.machine.clock import QUEUE_SWEEP_ENTRIES, GuestClock

MS = 1_000_000
SOON_S = 5.0  # a watchdog, not a measurement


@pytest.fixture
def clock() -> Iterator[GuestClock]:
    errors: list[BaseException] = []
    clock = GuestClock(errors.append)
    yield clock
    clock.close()
    assert errors == []


def test_time_stands_still_until_resumed_and_while_paused(clock: GuestClock) -> None:
    assert clock.now_ns() == 0
    clock.resume()
    time.sleep(0.002)
    clock.pause()
    stopped = clock.now_ns()
    time.sleep(0.005)

    assert stopped >= 2 * MS
    assert clock.now_ns() == stopped


def test_a_timer_fires_once_after_its_deadline(clock: GuestClock) -> None:
    fired = threading.Event()
    times: list[int] = []

    def callback() -> None:
        times.append(clock.now_ns())
        fired.set()

    clock.resume()
    clock.timer(callback).arm(5 * MS)

    assert fired.wait(SOON_S)
    time.sleep(0.02)
    assert len(times) == 1 and times[0] >= 5 * MS


def test_arming_anew_replaces_the_deadline_and_cancel_removes_it(clock: GuestClock) -> None:
    fired: list[str] = []
    last = threading.Event()
    moved = clock.timer(lambda: fired.append("moved"))
    cancelled = clock.timer(lambda: fired.append("cancelled"))
    moved.arm(1 * MS)
    moved.arm(2 * MS)
    cancelled.arm(1 * MS)
    cancelled.cancel()
    clock.timer(last.set).arm(10 * MS)

    clock.resume()

    assert last.wait(SOON_S)
    assert fired == ["moved"]


def test_a_paused_clock_fires_nothing(clock: GuestClock) -> None:
    fired = threading.Event()
    clock.timer(fired.set).arm(0)

    assert not fired.wait(0.02)
    clock.resume()
    assert fired.wait(SOON_S)


def test_pause_waits_for_a_callback_that_runs(clock: GuestClock) -> None:
    began, go_on = threading.Event(), threading.Event()
    steps: list[str] = []

    def callback() -> None:
        began.set()
        assert go_on.wait(SOON_S)
        steps.append("callback")

    def pause() -> None:
        clock.pause()
        steps.append("paused")

    clock.timer(callback).arm(0)
    clock.resume()
    assert began.wait(SOON_S)
    pausing = threading.Thread(target=pause)
    pausing.start()
    pausing.join(0.05)
    assert steps == []
    go_on.set()
    pausing.join(SOON_S)

    assert steps == ["callback", "paused"]


def test_a_callback_may_pause_the_clock(clock: GuestClock) -> None:
    paused = threading.Event()

    def callback() -> None:
        clock.pause()
        paused.set()

    clock.timer(callback).arm(0)
    clock.resume()

    assert paused.wait(SOON_S)


def test_a_timer_may_arm_itself_again(clock: GuestClock) -> None:
    done = threading.Event()
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == 5:
            done.set()
        else:
            timer.arm(clock.now_ns())

    timer = clock.timer(tick)
    timer.arm(0)
    clock.resume()

    assert done.wait(SOON_S)


def test_a_guest_that_keeps_arming_cannot_grow_the_queue(clock: GuestClock) -> None:
    timer = clock.timer(lambda: None)

    for _ in range(10_000):
        timer.arm(10**18)

    assert len(clock._queue) <= QUEUE_SWEEP_ENTRIES


def test_a_callback_that_raises_is_reported_and_others_go_on() -> None:
    errors: list[BaseException] = []
    fired = threading.Event()

    def broken() -> None:
        raise ValueError("a defect")

    clock = GuestClock(errors.append)
    clock.timer(broken).arm(0)
    clock.timer(fired.set).arm(1)
    clock.resume()

    assert fired.wait(SOON_S)
    clock.close()
    assert [str(error) for error in errors] == ["a defect"]


def test_readers_never_see_time_jump_while_it_is_paused_and_resumed(clock: GuestClock) -> None:
    stop = threading.Event()
    backwards: list[tuple[int, int]] = []

    def read() -> None:
        last = 0
        while not stop.is_set():
            now = clock.now_ns()
            if now < last:
                backwards.append((last, now))
            last = now

    reader = threading.Thread(target=read)
    reader.start()
    begin = time.monotonic_ns()
    for _ in range(2000):
        clock.resume()
        clock.pause()
    spent = time.monotonic_ns() - begin
    stop.set()
    reader.join()

    assert backwards == []
    assert clock.now_ns() <= spent
