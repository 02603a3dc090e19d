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
from kvmapi.uapi.kvm import KVM_CAP_HYPERV_SYNIC2, KVM_SYSTEM_EVENT_WAKEUP
from kvmapi.uapi.vsm import KVM_MP_STATE_HV_INACTIVE_VTL, KVM_X86_VSM_INACTIVE_VTL
from tests.kernel.guest import KICK
from tests.kernel.hypercall_guest import DONE, EBX_VSM, HypercallGuest

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_INACTIVE_VTL)]

INACTIVE = KVM_MP_STATE_HV_INACTIVE_VTL
RUNNABLE = 0
VECTOR = 0x51
MSI_ADDRESS = 0xFEE00000
FIXED, SMI, NMI, INIT, SIPI = (VECTOR, 2 << 8, 4 << 8, 5 << 8, 6 << 8 | 0x10)
IF = 1 << 9
TIME_REF_COUNT, SCONTROL, SINT0 = 0x40000020, 0x40000080, 0x40000090
STIMER0_CONFIG, STIMER0_COUNT = 0x400000B0, 0x400000B1
STIMER_ENABLED, STIMER_DIRECT = 1 << 0, 1 << 12
STIMER_DELAY = 1_000_000  # 100 ms in units of 100 ns
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


@pytest.mark.original_fails("trap 10, and INIT changes the state")
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


@pytest.mark.original_fails("trap 10, and INIT changes the state")
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


@pytest.mark.original_fails("trap 10")
@pytest.mark.parametrize("interrupts", [False, True], ids=["if0", "if1"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "message"])
def test_a_synthetic_timer(vm: Vm, direct: bool, interrupts: bool) -> None:
    """Its message or interrupt is KVM's to deliver once the VTL runs; that it expired has to be enough."""
    with InactiveVtl(vm, interrupts) as guest:
        guest.vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2)
        guest.vcpu.set_msrs([(SCONTROL, 1), (SINT0, VECTOR)])
        [(_, now)] = guest.vcpu.get_msrs([TIME_REF_COUNT])
        config = STIMER_ENABLED | (STIMER_DIRECT | VECTOR << 4 if direct else 0)
        guest.vcpu.set_msrs([(STIMER0_COUNT, now + STIMER_DELAY), (STIMER0_CONFIG, config)])
        # Only a vCPU that runs starts its timers; without interrupts, since a slow one may expire right there.
        guest.start(bytes([0xE6, DONE]) + b"\xeb\xfe")
        assert guest.port(guest.exit()) == DONE
        registers = guest.vcpu.get_regs()
        registers.rflags |= IF if interrupts else 0
        guest.vcpu.set_regs(registers)
        guest.stop()

        assert guest.woken()
        [(_, expired)] = guest.vcpu.get_msrs([TIME_REF_COUNT])
        assert expired >= now + STIMER_DELAY


@pytest.mark.original_fails("it polls before it waits")
def test_without_an_event_it_waits_and_runs_nothing(vm: Vm) -> None:
    with InactiveVtl(vm, interrupts=True) as guest:
        guest.stop()
        before = time.thread_time()

        assert not guest.woken()

        assert time.thread_time() - before < QUIET_SECONDS / 2
        assert guest.vcpu.get_mp_state() == INACTIVE


@pytest.mark.original_fails("trap 10")
def test_the_event_stays_and_wakes_again(vm: Vm) -> None:
    with InactiveVtl(vm) as guest:
        guest.stop()
        guest.send(FIXED)

        assert [guest.woken() for _ in range(3)] == [True] * 3


@pytest.mark.original_fails("trap 10")
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


@pytest.mark.original_fails("it honours the shadow")
def test_an_interrupt_shadow_does_not_hold_it_back(vm: Vm) -> None:
    """It is about the next instruction, and an inactive VTL has none: the shadow would never end."""
    with InactiveVtl(vm, interrupts=True) as guest:
        events = guest.vcpu.get_vcpu_events()
        events.flags, events.interrupt.shadow = 0x4, 1  # KVM_VCPUEVENT_VALID_SHADOW
        guest.vcpu.set_vcpu_events(events)
        guest.stop()
        guest.send(FIXED)

        assert guest.woken()


@pytest.mark.original_fails("INIT and SIPI start the vCPU")
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


@pytest.mark.original_fails("it asks for no local APIC")
def test_a_vm_without_an_apic_cannot_be_put_there(vm: Vm) -> None:
    with HypercallGuest(vm) as guest, pytest.raises(KvmError) as refusal:
        guest.vcpu.set_mp_state(INACTIVE)

    assert refusal.value.errno == errno.EINVAL
