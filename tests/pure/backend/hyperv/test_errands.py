# SPDX-License-Identifier: Apache-2.0
"""Work that one VP has another one's thread do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vmm.backend.hyperv import patience
from vmm.backend.hyperv.errands import Errands, _Errand
from vmm.backend.hyperv.tlbs import VpTlbs
from vmm.hvcalls.outside import TlbFlush

WATCHDOG_S = 15.0


class Vps:
    """VPs that count their kicks; `on_kick` is what a kick of VP n does."""

    def __init__(self, count: int = 2) -> None:
        self.kicks = [0] * count
        self.on_kick: dict[int, Callable[[], None]] = {}
        self.flushes = [0] * count
        processors: Any = [self._vp(number) for number in range(count)]
        self.tlbs = VpTlbs(processors)
        self.errands = Errands(processors, self.tlbs)

    def _vp(self, number: int) -> SimpleNamespace:
        def before_stop() -> None:
            self.flushes[number] += 1

        run = SimpleNamespace(u64=memoryview(bytearray(4096)).cast("Q"))
        return SimpleNamespace(
            kick=lambda: self.kick(number),
            before_stop=before_stop,
            all_vcpus=(),
            vcpu=SimpleNamespace(run=run),
        )

    def kick(self, number: int) -> None:
        self.kicks[number] += 1
        self.on_kick.get(number, lambda: None)()


class Work:
    """Counts how often it is done, and answers what it was made with."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.done = 0

    def __call__(self) -> int:
        self.done += 1
        return self.answer


@pytest.fixture
def vps(monkeypatch: pytest.MonkeyPatch) -> Vps:
    """None waits for another one."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    return Vps()


def on_its_own_thread(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_vp_does_its_own_work_itself(vps: Vps) -> None:
    assert vps.errands.ask(1, 1, lambda: 7) == 7
    assert vps.kicks == [0, 0]


def test_a_vp_that_comes_out_at_once_answers_at_once(vps: Vps) -> None:
    vps.on_kick[1] = lambda: vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, lambda: 7) == 7


def test_what_is_not_begun_while_its_caller_waits_is_not_done(vps: Vps) -> None:
    """The caller may be reset, or go on elsewhere: it need not make the call again, or may mean another one by it."""
    first, equal = Work(7), Work(8)

    assert vps.errands.ask(0, 1, first) is None
    vps.errands.after_kick(1)
    assert vps.errands.ask(0, 1, equal) is None
    assert (first.done, equal.done, vps.kicks) == (0, 0, [0, 2])
    vps.on_kick[1] = lambda: vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, equal) == 8
    assert (first.done, equal.done) == (0, 1)


@pytest.mark.timeout(60)
def test_what_is_begun_is_waited_for_to_its_end(vps: Vps) -> None:
    """Though the caller's patience is over: or its next call would have the work done twice."""
    begun, go_on, other = threading.Event(), threading.Event(), []

    def work() -> int:
        begun.set()
        assert go_on.wait(WATCHDOG_S)
        return 7

    def serve() -> None:
        other.append(on_its_own_thread(lambda: vps.errands.after_kick(1)))
        assert begun.wait(WATCHDOG_S)
        threading.Timer(0.05, go_on.set).start()  # much longer than the caller's patience

    vps.on_kick[1] = serve

    assert vps.errands.ask(0, 1, work) == 7
    other[0].join(WATCHDOG_S)


@pytest.mark.timeout(60)
def test_a_caller_becomes_patient_with_a_vp_that_comes_late() -> None:
    """It comes 20 ms after each kick, when nobody waited any more for a call of 1 ms."""
    vps = Vps()
    vps.on_kick[1] = lambda: threading.Timer(0.02, vps.errands.after_kick, (1,)).start()
    work, calls = Work(7), 1

    while vps.errands.ask(0, 1, work) is None:
        calls += 1
        time.sleep(0.1)  # it finds nobody

    assert work.done == 1
    assert calls <= 7  # 1, 2, 4 ... 64 ms
    vps.on_kick[1] = lambda: vps.errands.after_kick(1)
    for _ in range(8):
        assert vps.errands.ask(0, 1, work) == 7
    assert vps.errands._patience[0].seconds == patience.PATIENCE_S


def test_an_error_is_the_askers(vps: Vps) -> None:
    def fail() -> None:
        raise OSError("scripted")

    vps.on_kick[1] = lambda: vps.errands.after_kick(1)

    with pytest.raises(OSError, match="scripted"):
        vps.errands.ask(0, 1, fail)


@pytest.mark.timeout(60)
def test_an_error_before_the_work_leaves_nobody_waiting(vps: Vps) -> None:
    failed, others, work = [], [], Work(7)

    def fail(vp: int) -> None:
        raise OSError("scripted")

    def serve() -> None:
        try:
            vps.errands.after_kick(1)
        except OSError as error:  # it is this VP's, too
            failed.append(error)

    vps.errands.before_work = fail
    vps.on_kick[1] = lambda: others.append(on_its_own_thread(serve))

    with pytest.raises(OSError, match="scripted"):
        while vps.errands.ask(0, 1, work) is None:
            pass
    for other in others:
        other.join(WATCHDOG_S)
    assert len(failed) == 1
    assert work.done == 0


def test_a_caller_that_cannot_serve_others_leaves_nothing_behind(vps: Vps) -> None:
    own, asked = Work(7), Work(8)

    def fail(vp: int) -> None:
        raise OSError("scripted")

    vps.on_kick[1] = lambda: vps.errands._left[0].append(_Errand(asked))
    vps.errands.before_work = fail

    with pytest.raises(OSError, match="scripted"):
        vps.errands.ask(0, 1, own)
    vps.errands.before_work = lambda vp: None
    vps.errands.after_kick(1)

    assert (own.done, asked.done) == (0, 0)


def test_nobody_waits_for_the_flush_of_a_vp_that_waits(vps: Vps) -> None:
    """Else two VPs could wait for each other: it would not see to its errands while it waits for that flush."""
    flushed = []
    request = TlbFlush(vtl=0, vps=0b01, address_space=0, global_too=True, ranges=None)
    vps.on_kick[1] = lambda: flushed.append(vps.tlbs.flush(1, request))

    assert vps.errands.ask(0, 1, lambda: 7) is None

    assert flushed == [True]
    assert vps.flushes == [1, 0]  # before it goes on


@pytest.mark.timeout(20)
def test_two_vps_may_ask_each_other() -> None:
    """Neither comes out of its own wait by itself: each serves the other meanwhile."""
    vps = Vps()
    answers: dict[int, int] = {}
    finished = [threading.Event(), threading.Event()]

    def run(own: int, other: int) -> None:
        for _ in range(200):
            answer = vps.errands.ask(own, other, lambda: 10 + other)
            while answer is None:
                vps.errands.after_kick(own)
                answer = vps.errands.ask(own, other, lambda: 10 + other)
            answers[own] = answer
        finished[own].set()
        while not finished[other].wait(0.001):
            vps.errands.after_kick(own)

    threads = [threading.Thread(target=run, args=pair) for pair in ((0, 1), (1, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)

    assert answers == {0: 11, 1: 10}
