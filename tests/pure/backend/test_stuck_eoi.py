# SPDX-License-Identifier: Apache-2.0
"""An EOI that is stuck in a halted processor is got out; a processor that is right to sleep stays asleep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from tests.pure.devices.fakes import FakeClock
from vmm.backend import kick
from vmm.backend.outcome import Outcome
from vmm.backend.stuck_eoi import FIRST_LOOK_NS, LONGEST_PERIOD_NS, StuckEoiWatch
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus

VECTOR = 0x9A
IRR, ISR = 0x200, 0x100
IMMEDIATE_EXIT = 1  # byte of struct kvm_run: a kick sets it


class Rig:
    """Two halted processors, none of which runs; `carry_out` does what their threads would do when kicked."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake, self.clock = fake, FakeClock()
        vm = kvm.create_vm()
        self.before: list[int] = []
        self.vps = []
        for apic_id in (0, 4):
            vp = VirtualProcessor(apic_id // 4, vm.create_vcpu(apic_id), PortBus(), MmioBus(), self.ended)
            vp.after_kick = partial(self.before.append, apic_id)
            vp.vcpu.set_mp_state(k.KVM_MP_STATE_HALTED)
            self.vps.append(vp)
        self.unfinished = [(4, VECTOR)]
        self.watch = StuckEoiWatch(self.vps, self.clock, lambda: self.unfinished)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def carry_out(self) -> list[int]:
        """APIC ids of the processors that were kicked; each has done what follows a kick."""
        kicked = [vp for vp in self.vps if vp.vcpu.run.u8[IMMEDIATE_EXIT]]
        for vp in kicked:
            vp.vcpu.run.u8[IMMEDIATE_EXIT] = 0
            vp.after_kick()
        return [vp.vcpu.vcpu_id for vp in kicked]

    def states(self) -> list[int]:
        return [vp.vcpu.get_mp_state() for vp in self.vps]


@contextmanager
def a_rig() -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        yield Rig(fake, kvm)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


HALTED, RUNNABLE = k.KVM_MP_STATE_HALTED, k.KVM_MP_STATE_RUNNABLE


def test_the_destination_is_woken_when_its_apic_knows_nothing_of_the_interrupt(rig: Rig) -> None:
    rig.watch.watch()
    rig.clock.advance(FIRST_LOOK_NS)

    assert rig.carry_out() == [4]
    assert rig.states() == [HALTED, RUNNABLE]
    assert rig.before == [4]  # what was to be done after a kick is still done


def test_an_interrupt_that_ends_in_time_disturbs_nobody(rig: Rig) -> None:
    rig.watch.watch()
    rig.clock.advance(FIRST_LOOK_NS - 1)
    rig.unfinished = []
    rig.clock.advance(LONGEST_PERIOD_NS)

    assert rig.carry_out() == []
    assert rig.clock.next_deadline_ns() is None


@pytest.mark.parametrize("register", [IRR, ISR])
def test_a_processor_that_holds_the_interrupt_sleeps_on(rig: Rig, register: int) -> None:
    lapic = rig.vps[1].vcpu.get_lapic()
    lapic.regs[register + 0x40 + 3] = 1 << 2  # vector 0x9a: bit 26 of the fifth word
    rig.vps[1].vcpu.set_lapic(lapic)
    rig.watch.watch()
    rig.clock.advance(FIRST_LOOK_NS)

    assert rig.carry_out() == [4]
    assert rig.states() == [HALTED, HALTED]


@pytest.mark.parametrize("state", [k.KVM_MP_STATE_RUNNABLE, k.KVM_MP_STATE_INIT_RECEIVED])
def test_a_processor_that_does_not_sleep_is_left_as_it_is(rig: Rig, state: int) -> None:
    rig.vps[1].vcpu.set_mp_state(state)
    rig.watch.watch()
    rig.clock.advance(FIRST_LOOK_NS)
    rig.carry_out()

    assert rig.states() == [HALTED, state]


def test_a_kick_for_another_reason_looks_at_nothing(rig: Rig) -> None:
    rig.vps[1].after_kick()

    assert rig.states() == [HALTED, HALTED]


def test_looks_become_rarer_and_end_with_the_interrupt(rig: Rig) -> None:
    rig.watch.watch()
    rig.clock.advance(10 * LONGEST_PERIOD_NS)
    # 2, 4, 8, 16, 32, 64 ms and then every 100 ms
    assert 10 <= rig.clock.arms <= 17

    rig.unfinished = []
    rig.clock.advance(LONGEST_PERIOD_NS)
    assert rig.clock.next_deadline_ns() is None
    rig.unfinished = [(4, VECTOR)]
    rig.watch.watch()
    assert rig.clock.next_deadline_ns() == rig.clock.now_ns() + FIRST_LOOK_NS


def test_a_destination_without_processor_is_passed_over(rig: Rig) -> None:
    rig.unfinished = [(77, VECTOR)]
    rig.watch.watch()
    rig.clock.advance(FIRST_LOOK_NS)

    assert rig.carry_out() == []
