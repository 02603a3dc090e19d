# SPDX-License-Identifier: Apache-2.0
"""Sentries: who has a vCPU, how it comes back, and when they are posted."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from kvmapi import Kvm, KvmError, Vcpu
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with
from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import KVM_MP_STATE_HV_INACTIVE_VTL
from tests.pure.backend.vsm.test_ipi_watch import Clock, Vp, Vtl
from vmm.backend import kick
from vmm.backend.vsm.kernel_wait import POST_AFTER_NS, WORTH, KernelWait

VTL1, VTL2 = 1, 2
EVENT = exit_with(k.KVM_EXIT_SYSTEM_EVENT, "I", k.KVM_SYSTEM_EVENT_WAKEUP)
LONG_S = 20
IMMEDIATE_EXIT = 1


@dataclass
class Rig:
    fake: FakeKvm
    vcpus: list[dict[int, Vcpu]]
    clock: Clock
    vps: list[Vp]
    wait: KernelWait = field(init=False)
    kicked: list[int] = field(default_factory=list)
    woken: threading.Event = field(default_factory=threading.Event)
    stays_out: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.vps)
        kicks = [lambda vp=vp: self.note(vp) for vp in range(count)]
        stay_out = [self.stay_out] * count
        self.wait = KernelWait(self.vps, kicks, stay_out, self.clock)

    def note(self, vp: int) -> None:
        self.kicked.append(vp)
        self.woken.set()

    def stay_out(self, vcpu: Vcpu, wanted: bool) -> None:
        self.stays_out.append(wanted)
        vcpu.run.u8[IMMEDIATE_EXIT] = wanted

    def mp_states(self) -> list[int]:
        return [int.from_bytes(call.argument[:4], "little") for call in self.fake.called("KVM_SET_MP_STATE")]


@contextmanager
def a_rig(*enabled: int, vina: bool = False) -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        vcpus = [
            {vtl: vm.create_vcpu(16 * vp + vtl) for vtl in range(1, mask.bit_length())}
            for vp, mask in enumerate(enabled)
        ]
        vps = [
            Vp(vp, mask, {vtl: Vtl(vina) for vtl in range(1, mask.bit_length())})
            for vp, mask in enumerate(enabled)
        ]
        rig = Rig(fake, vcpus, Clock(), vps)
        rig.clock.now = POST_AFTER_NS
        yield rig
        rig.wait.close()


def held(entered: threading.Event, leave: threading.Event, then: Step | int) -> Step:
    """A KVM_RUN that says when it has begun, and ends when it may."""

    def step(view: memoryview) -> int:
        entered.set()
        assert leave.wait(LONG_S)
        return then if isinstance(then, int) else then(view)

    return step


def test_an_event_kicks_the_vp_and_the_vcpu_is_back_as_it_was() -> None:
    with a_rig(0b11, 0b11) as rig:
        rig.vcpus[0][VTL1].set_mp_state(k.KVM_MP_STATE_HALTED)
        rig.fake.script(VTL1, [EVENT])

        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)

        assert rig.kicked == [0]
        assert rig.wait.recall(0) == 1 << VTL1
        assert rig.wait.recall(0) == 0  # told once
        assert rig.mp_states()[1:] == [KVM_MP_STATE_HV_INACTIVE_VTL, k.KVM_MP_STATE_HALTED]


def test_recall_waits_until_the_vcpu_is_back() -> None:
    entered, leave = threading.Event(), threading.Event()
    with a_rig(0b11, 0b11) as rig:
        rig.fake.script(VTL1, [held(entered, leave, errno.EINTR)])
        rig.wait.post(0, rig.vcpus[0])
        assert entered.wait(LONG_S)
        threading.Timer(0.05, leave.set).start()

        assert rig.wait.recall(0) == 0

        assert leave.is_set()
        assert rig.stays_out == [False, True, False]
        assert rig.vcpus[0][VTL1].get_mp_state() == k.KVM_MP_STATE_RUNNABLE
        assert rig.kicked == []


def test_what_is_left_of_an_old_kick_does_not_send_it_home() -> None:
    """It would be lost: the VP, which has seen the kick, does not look again."""
    with a_rig(0b11, 0b11) as rig:
        rig.vcpus[0][VTL1].run.u8[IMMEDIATE_EXIT] = 1
        marks: list[int] = []

        def step(view: memoryview) -> int:
            marks.append(view[IMMEDIATE_EXIT])
            return EVENT(view)

        rig.fake.script(VTL1, [step])
        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)

        assert marks == [0]


def test_an_event_that_comes_with_the_recall_is_told() -> None:
    entered, leave = threading.Event(), threading.Event()
    with a_rig(0b11, 0b11) as rig:
        rig.fake.script(VTL1, [held(entered, leave, EVENT)])
        rig.wait.post(0, rig.vcpus[0])
        assert entered.wait(LONG_S)
        leave.set()

        assert rig.wait.recall(0) == 1 << VTL1


def test_what_a_sentry_meets_is_raised_where_the_vcpu_is_wanted() -> None:
    with a_rig(0b11, 0b11) as rig:
        rig.fake.script(VTL1, [errno.EFAULT])
        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)

        with pytest.raises(KvmError, match="KVM_RUN"):
            rig.wait.recall(0)


def test_one_that_is_posted_can_be_ended() -> None:
    entered, leave = threading.Event(), threading.Event()
    with a_rig(0b11, 0b11) as rig:
        rig.fake.script(VTL1, [held(entered, leave, errno.EINTR)])
        rig.wait.post(0, rig.vcpus[0])
        assert entered.wait(LONG_S)
        threading.Timer(0.05, leave.set).start()

        rig.wait.close()

        assert rig.vcpus[0][VTL1].get_mp_state() == k.KVM_MP_STATE_RUNNABLE


def test_every_vtl_above_has_a_sentry() -> None:
    with a_rig(0b111, 0b111) as rig:
        rig.fake.script(VTL1, [errno.EINTR])
        rig.fake.script(VTL2, [EVENT])

        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)

        assert rig.wait.recall(0) == 1 << VTL2


def test_alone_nobody_can_send() -> None:
    with a_rig(0b11) as rig:
        rig.wait.runs(0, 0)
        rig.wait.post(0, rig.vcpus[0])

        assert rig.mp_states() == []
        assert rig.clock.deadline is None


def test_a_vp_looks_and_posts_when_it_has_run_the_lower_vtl_for_a_while_and_then_nothing_ticks() -> None:
    entered, leave = threading.Event(), threading.Event()
    with a_rig(0b11, 0b01) as rig:
        rig.fake.script(VTL1, [held(entered, leave, errno.EINTR)])
        rig.wait.runs(0, VTL1)
        rig.wait.runs(0, 0)
        assert rig.clock.deadline == 2 * POST_AFTER_NS
        rig.clock.fire()
        assert rig.kicked == []  # it came back just now, and has looked then
        rig.clock.fire()
        assert rig.kicked == [0]

        rig.wait.post(0, rig.vcpus[0])
        rig.clock.fire()
        assert (rig.kicked, rig.clock.armed) == ([0], None)

        leave.set()
        rig.wait.recall(0)
        assert rig.clock.armed is not None  # and again


def test_where_a_recall_takes_long_a_sentry_is_posted_later() -> None:
    recall_ns = 3 * POST_AFTER_NS
    with a_rig(0b11, 0b01) as rig:

        def slow(vcpu: Vcpu, wanted: bool) -> None:
            rig.clock.now += recall_ns if wanted else 0

        entered, leave = threading.Event(), threading.Event()
        rig.wait = KernelWait(rig.vps, [rig.woken.set] * 2, [slow] * 2, rig.clock)
        rig.fake.script(VTL1, [held(entered, leave, errno.EINTR), EVENT])
        rig.wait.post(0, rig.vcpus[0])
        assert entered.wait(LONG_S)
        leave.set()
        rig.wait.recall(0)
        rig.wait.runs(0, VTL1)
        rig.wait.runs(0, 0)

        rig.clock.now += WORTH * recall_ns - 1
        rig.wait.post(0, rig.vcpus[0])
        assert len(rig.mp_states()) == 2  # not posted
        rig.clock.now += 1
        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)


def test_after_a_false_alarm_the_vtl_is_looked_for_only_while_it_may_be_sent_to() -> None:
    with a_rig(0b11, 0b11) as rig:
        rig.fake.script(VTL1, [EVENT])
        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)
        rig.wait.recall(0)
        rig.wait.false_alarm(0, 1 << VTL1)

        rig.wait.post(0, rig.vcpus[0])
        assert len(rig.mp_states()) == 2  # it stays home

        rig.kicked.clear()
        rig.wait.runs(1, VTL1)
        rig.clock.fire()
        assert rig.kicked == [0]

        rig.wait.runs(0, VTL1)  # it has run: what the alarm was is gone
        rig.wait.runs(0, 0)
        rig.clock.now += POST_AFTER_NS
        rig.fake.script(VTL1, [EVENT])
        rig.woken.clear()
        rig.wait.post(0, rig.vcpus[0])
        assert rig.woken.wait(LONG_S)


def test_vina_ticks() -> None:
    with a_rig(0b11, vina=True) as rig:
        rig.wait.runs(0, VTL1)
        rig.clock.fire()
        rig.clock.fire()

        assert rig.kicked == [0, 0]
