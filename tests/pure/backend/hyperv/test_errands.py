# SPDX-License-Identifier: Apache-2.0
"""Work that one VP has another one's thread do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vmm.backend.hyperv import errands as module
from vmm.backend.hyperv.errands import Errands


class StubVcpu:
    """A vCPU with general registers."""

    def __init__(self, regs: SimpleNamespace) -> None:
        self.run = SimpleNamespace(regs=regs)


class Vps:
    """VPs that count their kicks; `on_kick` is what a kick of VP n does."""

    def __init__(self, count: int = 2) -> None:
        self.kicks = [0] * count
        self.on_kick: dict[int, Callable[[], None]] = {}
        self.regs = [SimpleNamespace(rsp=0x1000) for _ in range(count)]
        self.processors: Any = [self._vp(number) for number in range(count)]
        self.errands = Errands(self.processors)

    def _vp(self, number: int) -> SimpleNamespace:
        vcpu = StubVcpu(self.regs[number])
        return SimpleNamespace(vcpu=vcpu, kick=lambda: self.kick(number))

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
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    return Vps()


def test_a_vp_does_its_own_work_itself(vps: Vps) -> None:
    assert vps.errands.ask(1, 1, "own", lambda: 7) == 7
    assert vps.kicks == [0, 0]


def test_a_vp_that_comes_out_at_once_answers_at_once(vps: Vps) -> None:
    vps.on_kick[1] = lambda: vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, "a", lambda: 7) == 7


def test_a_repeated_call_finds_the_answer_and_the_work_is_done_once(vps: Vps) -> None:
    first, repeated = Work(7), Work(8)

    assert vps.errands.ask(0, 1, "a", first) is None
    assert vps.errands.ask(0, 1, "a", repeated) is None
    vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, "a", repeated) == 7
    assert (first.done, repeated.done, vps.kicks) == (1, 0, [0, 1])
    assert vps.errands.ask(0, 1, "a", repeated) is None  # a new one


@pytest.mark.parametrize("change", ["request", "target"])
def test_another_call_does_not_get_the_answer(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    vps = Vps(3)
    first, second = Work(1), Work(2)
    assert vps.errands.ask(0, 1, "a", first) is None

    target, request = (2 if change == "target" else 1), ("b" if change == "request" else "a")
    assert vps.errands.ask(0, target, request, second) is None
    vps.errands.after_kick(1)
    vps.errands.after_kick(2)

    assert vps.errands.ask(0, target, request, second) == 2
    assert (first.done, second.done) == (0, 1)  # what nobody waits for any more is not done


@pytest.mark.parametrize("by", ["an interrupt handler", "a higher VTL"])
def test_a_call_that_is_interrupted_by_an_equal_one_is_done_once(by: str, vps: Vps) -> None:
    interrupted, interrupting, repeated = Work(1), Work(2), Work(3)
    processor: Any = vps.errands._processors[0]
    own = processor.vcpu
    assert vps.errands.ask(0, 1, "a", interrupted) is None
    vps.errands.after_kick(1)

    if by == "a higher VTL":  # which may have its stack at the same virtual address
        processor.vcpu = StubVcpu(vps.regs[0])
    else:
        vps.regs[0].rsp -= 64
    assert vps.errands.ask(0, 1, "a", interrupting) is None
    vps.errands.after_kick(1)
    assert vps.errands.ask(0, 1, "a", interrupting) == 2
    processor.vcpu, vps.regs[0].rsp = own, 0x1000

    assert vps.errands.ask(0, 1, "a", repeated) == 1
    assert (interrupted.done, interrupting.done, repeated.done) == (1, 1, 0)


def test_calls_that_are_never_repeated_are_given_up(vps: Vps) -> None:
    works = [Work(number) for number in range(module.KEPT + 1)]
    for work in works:
        assert vps.errands.ask(0, 1, "a", work) is None
        vps.regs[0].rsp -= 64

    vps.errands.after_kick(1)

    assert [work.done for work in works] == [0] + [1] * module.KEPT


def test_an_error_is_the_askers(vps: Vps) -> None:
    def fail() -> None:
        raise OSError("scripted")

    vps.on_kick[1] = lambda: vps.errands.after_kick(1)

    with pytest.raises(OSError, match="scripted"):
        vps.errands.ask(0, 1, "a", fail)


def test_reset_forgets(vps: Vps) -> None:
    assert vps.errands.ask(0, 1, "a", lambda: pytest.fail("was forgotten")) is None

    vps.errands.reset()
    vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, "a", lambda: 1) is None


@pytest.mark.timeout(20)
def test_two_vps_may_ask_each_other() -> None:
    """Neither comes out of its own wait by itself: each serves the other meanwhile."""
    vps = Vps()
    answers: dict[int, int] = {}
    finished = [threading.Event(), threading.Event()]

    def run(own: int, other: int) -> None:
        for _ in range(200):
            answer = vps.errands.ask(own, other, "a", lambda: 10 + other)
            while answer is None:
                vps.errands.after_kick(own)
                answer = vps.errands.ask(own, other, "a", lambda: 10 + other)
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


def test_what_a_vcpu_with_a_new_state_asked_for_is_forgotten(vps: Vps) -> None:
    """Whether it was done or not: the same call, made later, is another one."""
    done, left, again = Work(7), Work(8), Work(9)
    assert vps.errands.ask(0, 1, "a", done) is None
    vps.errands.after_kick(1)
    vps.regs[0].rsp -= 64
    assert vps.errands.ask(0, 1, "b", left) is None

    vps.errands.forget([vps.processors[0].vcpu])
    vps.errands.after_kick(1)

    assert (done.done, left.done) == (1, 0)
    assert vps.errands.ask(0, 1, "b", again) is None
    vps.errands.after_kick(1)
    assert vps.errands.ask(0, 1, "b", again) == 9


def test_other_vcpus_keep_what_they_asked_for(vps: Vps) -> None:
    work = Work(7)
    assert vps.errands.ask(0, 1, "a", work) is None

    vps.errands.forget([vps.processors[1].vcpu])
    vps.errands.after_kick(1)

    assert vps.errands.ask(0, 1, "a", Work(8)) == 7
