# SPDX-License-Identifier: Apache-2.0
"""KVM_MP_STATE_HV_INACTIVE_VTL: what wakes a vCPU that must not run, and what does not."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable

import pytest

from kvmapi import KvmError, Vm, decode
from kvmapi.exit_types import SystemEventExit
from kvmapi.uapi.kvm import KVM_SYSTEM_EVENT_WAKEUP
from kvmapi.uapi.vsm import KVM_MP_STATE_HV_INACTIVE_VTL, KVM_X86_VSM_INACTIVE_VTL
from tests.kernel.guest import KICK
from tests.kernel.hypercall_guest import EBX_VSM, HypercallGuest

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_INACTIVE_VTL)]

INACTIVE = KVM_MP_STATE_HV_INACTIVE_VTL
RUNNABLE = 0
VECTOR = 0x51
MSI_ADDRESS = 0xFEE00000
FIXED, SMI, NMI, INIT, SIPI = (VECTOR, 2 << 8, 4 << 8, 5 << 8, 6 << 8 | 0x10)
IF = 1 << 9
# Longer than any wake-up takes, short enough to be waited for.
QUIET_SECONDS = 0.5


class InactiveVtl(HypercallGuest):
    """A vCPU with an enabled local APIC in the state, in front of `jmp $`, with IF as asked for."""

    def __init__(self, vm: Vm, interrupts: bool = False, without_ebx: int = 0) -> None:
        vm.create_irqchip()
        super().__init__(vm, without_ebx=without_ebx)
        self.start(b"\xeb\xfe", rflags=2 | (IF if interrupts else 0))
        lapic = self.vcpu.get_lapic()
        lapic.regs[0xF0:0xF2] = [0xFF, 0x01]
        self.vcpu.set_lapic(lapic)

    def stop(self) -> None:
        self.vcpu.set_mp_state(INACTIVE)

    def send(self, message: int) -> None:
        self.vm.signal_msi(MSI_ADDRESS, message)

    def woken(self) -> bool:
        """Run until the wake-up; False when it takes longer than QUIET_SECONDS."""
        thread = threading.get_ident()

        def kick() -> None:
            self.vcpu.run.immediate_exit = True
            signal.pthread_kill(thread, KICK)

        timer = threading.Timer(QUIET_SECONDS, kick)
        timer.start()
        try:
            result = self.vcpu.run_once()
            if result == errno.EINTR:
                return False
            exit_ = self.exit_now()
            assert exit_.event == KVM_SYSTEM_EVENT_WAKEUP and exit_.data == ()
            return True
        finally:
            timer.cancel()
            timer.join()
            self.vcpu.run.immediate_exit = False

    def exit_now(self) -> SystemEventExit:
        exit_ = decode(self.vcpu.run)
        assert isinstance(exit_, SystemEventExit), exit_
        return exit_


def interrupt(guest: InactiveVtl) -> None:
    guest.send(FIXED)


def apic_timer(guest: InactiveVtl) -> None:
    lapic = guest.vcpu.get_lapic()
    registers = bytearray(bytes(lapic.regs))
    registers[0x3E0] = 0xB  # divide by 1
    registers[0x320:0x324] = VECTOR.to_bytes(4, "little")  # one shot, not masked
    registers[0x380:0x384] = (20_000_000).to_bytes(4, "little")  # 20 ms at KVM's 1 GHz
    lapic.regs[:] = registers
    guest.vcpu.set_lapic(lapic)


WAKERS: dict[str, Callable[[InactiveVtl], None]] = {
    "interrupt": interrupt,
    "nmi": lambda guest: guest.send(NMI),
    "nmi-ioctl": lambda guest: guest.vcpu.nmi(),
    "smi": lambda guest: guest.send(SMI),
    "init": lambda guest: guest.send(INIT),
    "apic-timer": apic_timer,
}
# The ioctl on a vCPU waits until the vCPU does not run.
WAKERS_FROM_OUTSIDE = {name: wake for name, wake in WAKERS.items() if name != "nmi-ioctl"}


@pytest.mark.parametrize("interrupts", [False, True], ids=["if0", "if1"])
@pytest.mark.parametrize("wake", WAKERS.values(), ids=WAKERS)
def test_an_event_that_is_there_already(
    vm: Vm, wake: Callable[[InactiveVtl], None], interrupts: bool
) -> None:
    with InactiveVtl(vm, interrupts) as guest:
        guest.stop()
        wake(guest)

        assert guest.woken()
        assert guest.vcpu.get_mp_state() == INACTIVE


@pytest.mark.parametrize("interrupts", [False, True], ids=["if0", "if1"])
@pytest.mark.parametrize("wake", WAKERS_FROM_OUTSIDE.values(), ids=WAKERS_FROM_OUTSIDE)
def test_an_event_that_comes_while_it_waits(
    vm: Vm, wake: Callable[[InactiveVtl], None], interrupts: bool
) -> None:
    with InactiveVtl(vm, interrupts) as guest:
        guest.stop()
        if wake is apic_timer:
            wake(guest)
        else:
            threading.Timer(QUIET_SECONDS / 5, wake, [guest]).start()

        assert guest.woken()


def test_without_an_event_it_waits_and_runs_nothing(vm: Vm) -> None:
    with InactiveVtl(vm, interrupts=True) as guest:
        guest.stop()
        before = time.thread_time()

        assert not guest.woken()

        assert time.thread_time() - before < QUIET_SECONDS / 2
        assert guest.vcpu.get_mp_state() == INACTIVE


def test_the_event_stays_and_wakes_again(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.stop()
        guest.send(FIXED)

        assert [guest.woken() for _ in range(3)] == [True] * 3


def test_the_event_is_delivered_once_it_runs(vm: Vm) -> None:
    with InactiveVtl(vm, interrupts=True) as guest:
        guest.stop()
        guest.send(FIXED)
        assert guest.woken()
        guest.vcpu.set_mp_state(RUNNABLE)

        assert guest.port(guest.exit()) == VECTOR


@pytest.mark.parametrize("tpr", [0x50, 0x60, 0xF0], ids=hex)
def test_an_interrupt_that_tpr_masks_does_not_wake(vm: Vm, tpr: int) -> None:
    with InactiveVtl(vm, interrupts=True) as guest:
        lapic = guest.vcpu.get_lapic()
        lapic.regs[0x80] = tpr
        guest.vcpu.set_lapic(lapic)
        sregs = guest.vcpu.get_sregs()
        sregs.cr8 = tpr >> 4
        guest.vcpu.set_sregs(sregs)
        guest.stop()
        guest.send(FIXED)

        assert not guest.woken()


def test_an_interrupt_shadow_does_not_hold_it_back(vm: Vm) -> None:
    """It is about the next instruction, and an inactive VTL has none: the shadow would never end."""
    with InactiveVtl(vm, interrupts=True) as guest:
        events = guest.vcpu.get_vcpu_events()
        events.flags, events.interrupt.shadow = 0x4, 1  # KVM_VCPUEVENT_VALID_SHADOW
        guest.vcpu.set_vcpu_events(events)
        guest.stop()
        guest.send(FIXED)

        assert guest.woken()


def test_init_and_sipi_do_not_make_it_run(vm: Vm) -> None:
    """The lower VTL of the processor may be running: only userspace can tell when to start this one."""
    with InactiveVtl(vm) as guest:
        guest.stop()
        guest.send(INIT)
        guest.send(SIPI)

        assert guest.woken()
        assert guest.vcpu.get_mp_state() == INACTIVE
        assert guest.woken()


def test_a_signal_leaves_the_state_alone(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.stop()
        guest.vcpu.run.immediate_exit = True

        assert guest.vcpu.run_once() == errno.EINTR
        assert guest.vcpu.get_mp_state() == INACTIVE


def test_a_guest_without_vsm_cannot_be_put_there(vm: Vm) -> None:
    with InactiveVtl(vm, without_ebx=EBX_VSM) as guest, pytest.raises(KvmError) as refusal:
        guest.stop()

    assert refusal.value.errno == errno.EINVAL


def test_a_vm_without_an_apic_cannot_be_put_there(vm: Vm) -> None:
    with HypercallGuest(vm) as guest, pytest.raises(KvmError) as refusal:
        guest.vcpu.set_mp_state(INACTIVE)

    assert refusal.value.errno == errno.EINVAL
