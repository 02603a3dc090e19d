# SPDX-License-Identifier: Apache-2.0
"""KVM_X86_VSM_BLOCK_INIT: INIT and SIPI do nothing to a processor that hypercalls start."""

from __future__ import annotations

import errno

import pytest

from kvmapi import KvmError, Vm
from kvmapi.uapi.kvm import KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED
from kvmapi.uapi.vsm import KVM_CAP_X86_VSM, KVM_X86_VSM_BLOCK_INIT
from kvmapi.uapi.x86 import KVM_VCPUEVENT_VALID_SMM
from tests.kernel.hypercall_guest import DONE, EBX_VSM, HypercallGuest
from tests.kernel.test_inactive_vtl import INIT, SIPI, InactiveVtl

pytestmark = [
    pytest.mark.host,
    pytest.mark.vsm_feature(KVM_X86_VSM_BLOCK_INIT),
    pytest.mark.original_fails("it has no such switch"),
]

OUT = bytes([0xE6, DONE])  # out DONE, al


def block(guest: HypercallGuest, value: int = KVM_X86_VSM_BLOCK_INIT) -> None:
    guest.vcpu.enable_cap(KVM_CAP_X86_VSM, value)


def latched(guest: HypercallGuest) -> int:
    return int(guest.vcpu.get_vcpu_events().smi.latched_init)


def drop(guest: HypercallGuest) -> None:
    events = guest.vcpu.get_vcpu_events()
    events.smi.latched_init = 0
    events.flags |= KVM_VCPUEVENT_VALID_SMM
    guest.vcpu.set_vcpu_events(events)


def test_init_resets_a_processor_without_it(vm: Vm) -> None:
    """What the switch is for; an APIC's own first vCPU goes on at the reset vector, where nothing is."""
    with InactiveVtl(vm) as guest:
        guest.start(OUT)
        guest.send(INIT)
        guest.vcpu.get_mp_state()  # KVM acts on it then, at the latest

        assert guest.vcpu.get_regs().rip == 0xFFF0


def test_init_waits_and_the_guest_goes_on(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.start(OUT)
        block(guest)
        guest.send(INIT)
        guest.send(SIPI)

        assert guest.port(guest.exit()) == DONE
        assert guest.vcpu.get_mp_state() == KVM_MP_STATE_RUNNABLE
        assert latched(guest) == 1


def test_it_is_no_event_for_an_inactive_vtl(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        block(guest)
        guest.stop()
        guest.send(INIT)
        guest.send(SIPI)

        assert not guest.woken()


def test_what_was_dropped_does_not_come_later(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.start(OUT)
        block(guest)
        guest.send(INIT)
        guest.send(SIPI)
        drop(guest)
        block(guest, 0)

        assert guest.port(guest.exit()) == DONE


def test_what_waits_comes_when_it_is_no_longer_blocked(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.start(OUT)
        block(guest)
        guest.send(INIT)
        block(guest, 0)
        guest.vcpu.get_mp_state()

        assert guest.vcpu.get_regs().rip == 0xFFF0


def test_one_that_waits_for_its_first_init_goes_on_waiting(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.vcpu.set_mp_state(KVM_MP_STATE_UNINITIALIZED)
        block(guest)
        guest.send(INIT)
        guest.send(SIPI)

        assert guest.vcpu.get_mp_state() == KVM_MP_STATE_UNINITIALIZED


def test_a_start_that_has_begun_is_not_blocked(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.vcpu.set_mp_state(KVM_MP_STATE_INIT_RECEIVED)
        with pytest.raises(KvmError) as refusal:
            block(guest)

    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("value", [1, KVM_X86_VSM_BLOCK_INIT | 1, 1 << 63])
def test_other_features_are_no_switches(vm: Vm, value: int) -> None:
    with InactiveVtl(vm) as guest, pytest.raises(KvmError) as refusal:
        block(guest, value)

    assert refusal.value.errno == errno.EINVAL


def test_a_guest_without_vsm_has_no_such_switch(vm: Vm) -> None:
    with InactiveVtl(vm, without_ebx=EBX_VSM) as guest, pytest.raises(KvmError) as refusal:
        block(guest)

    assert refusal.value.errno == errno.EINVAL


def test_a_vm_without_an_apic_has_no_such_switch(vm: Vm) -> None:
    with HypercallGuest(vm) as guest, pytest.raises(KvmError) as refusal:
        block(guest)

    assert refusal.value.errno == errno.EINVAL
