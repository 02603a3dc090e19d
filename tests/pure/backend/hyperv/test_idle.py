# SPDX-License-Identifier: Apache-2.0
"""Sleep by the idle MSR, over a KVM that keeps what it is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmapi.uapi import kvm as k
from tests.pure.backend.hyperv.test_local_apic import Rig, a_rig
from vmm.backend.hyperv.idle import FIRST_LOOK_NS, LONGEST_LOOK_NS, IdleSleep
from vmm.backend.hyperv.local_apic import IRR

IF = 1 << 9
VECTOR, LOWER = 0x51, 0x41


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig({}) as made:
        yield made


def asleep(rig: Rig, *, interrupts: bool) -> IdleSleep:
    rig.vcpu.run.regs.rflags = IF if interrupts else 0
    sleep = IdleSleep(rig.vp, rig.clock)
    sleep.sleep()
    return sleep


def halted(rig: Rig) -> bool:
    return rig.vcpu.get_mp_state() == k.KVM_MP_STATE_HALTED


def test_with_interrupts_kvm_does_it_all(rig: Rig) -> None:
    sleep = asleep(rig, interrupts=True)

    rig.clock.advance(10 * LONGEST_LOOK_NS)
    sleep.look()

    assert halted(rig) and not rig.kicked()


@pytest.mark.tlfs("MISC-003")
def test_an_interrupt_that_cannot_be_taken_ends_the_sleep(rig: Rig) -> None:
    sleep = asleep(rig, interrupts=False)
    assert halted(rig)

    rig.put(IRR, VECTOR)
    rig.clock.advance(FIRST_LOOK_NS)
    assert rig.kicked()
    sleep.look()

    assert not halted(rig)
    rig.clock.advance(10 * LONGEST_LOOK_NS)
    assert not rig.kicked()


def test_one_that_waits_already_means_no_sleep(rig: Rig) -> None:
    rig.put(IRR, VECTOR)

    asleep(rig, interrupts=False)

    assert not halted(rig)


def test_one_below_the_processor_priority_does_not_count(rig: Rig) -> None:
    lapic = rig.vcpu.get_lapic()
    lapic.regs[0xA0] = 0x50  # PPR
    rig.vcpu.set_lapic(lapic)
    rig.put(IRR, LOWER)
    sleep = asleep(rig, interrupts=False)

    sleep.look()
    assert halted(rig)
    rig.put(IRR, LOWER, 0x61)
    sleep.look()
    assert not halted(rig)


def test_it_is_looked_for_less_and_less_often(rig: Rig) -> None:
    sleep = asleep(rig, interrupts=False)
    looks = 0

    for _ in range(1000):  # a second
        rig.clock.advance(1_000_000)
        if rig.kicked():
            looks += 1
            sleep.look()

    assert halted(rig)
    assert 300 <= looks <= 550  # at most each 2 ms, once it has settled


def test_an_nmi_or_init_ends_it_without_us(rig: Rig) -> None:
    sleep = asleep(rig, interrupts=False)
    rig.vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)

    sleep.look()
    rig.vcpu.set_mp_state(k.KVM_MP_STATE_HALTED)  # a HLT of its own
    rig.put(IRR, VECTOR)
    sleep.look()

    assert halted(rig)


def test_reset_ends_it(rig: Rig) -> None:
    sleep = asleep(rig, interrupts=False)

    sleep.reset()
    rig.clock.advance(LONGEST_LOOK_NS)

    assert not rig.kicked()
