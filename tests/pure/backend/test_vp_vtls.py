# SPDX-License-Identifier: Apache-2.0
"""A VP with two vCPUs: its thread runs one of them at a time, and what others ask of it reaches whichever runs."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kvmapi import Kvm, Vcpu
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with, io_out
from kvmapi.uapi import kvm as k
from vmm.backend import kick
from vmm.backend.outcome import Outcome
from vmm.backend.vp import Handler, VirtualProcessor
from vmm.bus import MmioBus, PortBus, access

WATCHDOG_S = 10.0
SWITCH_PORT = 0x10
LOWER, UPPER = 0, 7  # vCPU ids, by which the fake KVM finds its script


class Switch:
    """The handler of exits at which the guest changes its VTL; remembers who was running."""

    def __init__(self) -> None:
        self.other: dict[Vcpu, Vcpu] = {}
        self.seen: list[int] = []
        self.vp: VirtualProcessor
        self.enough = threading.Event()

    def handlers(self) -> dict[int, Handler]:
        places = access(True, 1, SWITCH_PORT), k.KVM_EXIT_HLT, -errno.EFAULT
        return self.vp.common_handlers() | dict.fromkeys(places, self.switch)

    def switch(self) -> None:
        vcpu = self.vp.vcpu
        self.seen.append(vcpu.vcpu_id)
        self.vp.run_vtl(self.other[vcpu], self.handlers(), None)


class Recorder:
    """A region that remembers what was written."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.values.append(value)


class Rig:
    def __init__(self, fake: FakeKvm, vp: VirtualProcessor, ports: PortBus, switch: Switch) -> None:
        self.fake, self.vp, self.ports, self.switch = fake, vp, ports, switch
        self.in_guest = {LOWER: threading.Event(), UPPER: threading.Event()}

    def until_kicked(self, vcpu_id: int) -> Step:
        def step(view: memoryview) -> int:
            self.in_guest[vcpu_id].set()
            while not view[1]:
                time.sleep(0.0005)
            return exit_with(k.KVM_EXIT_INTR, result=errno.EINTR)(view)

        return step

    def write(self) -> Step:
        return io_out(SWITCH_PORT, b"\0", 1)


@contextmanager
def a_rig() -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    ports = PortBus()
    outcomes: list[Outcome] = []
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as lower_vm, kvm.create_vm() as upper_vm:
        lower, upper = lower_vm.create_vcpu(LOWER), upper_vm.create_vcpu(UPPER)
        vp = VirtualProcessor(0, lower, ports, MmioBus(), outcomes.append)
        vp.add_vcpu(upper)
        switch = Switch()
        switch.vp, switch.other = vp, {lower: upper, upper: lower}
        ports.reserve(SWITCH_PORT, 1, "switch")
        vp.handlers = switch.handlers()
        try:
            yield Rig(fake, vp, ports, switch)
        finally:
            vp.stop()
    assert outcomes == []
    assert fake.leaks() == []


def test_the_thread_runs_what_was_chosen_last() -> None:
    with a_rig() as rig:
        rig.fake.script(LOWER, [rig.write(), rig.write(), rig.until_kicked(LOWER)])
        rig.fake.script(UPPER, [rig.write(), rig.write()])
        rig.vp.start()
        rig.vp.thaw()
        assert rig.in_guest[LOWER].wait(WATCHDOG_S)

        assert rig.switch.seen == [LOWER, UPPER, LOWER, UPPER]


def test_what_a_port_s_last_write_was_is_not_kept_across_a_switch() -> None:
    with a_rig() as rig:
        lower, upper = Recorder(), Recorder()
        rig.ports.add(0x500, 1, lower, "device")
        write = io_out(0x500, b"\x55")

        def move(view: memoryview) -> int:
            rig.ports.remove(0x500, 1)
            rig.ports.add(0x500, 1, upper, "device")
            return rig.write()(view)

        rig.fake.script(LOWER, [write, write, move, write, rig.until_kicked(LOWER)])
        rig.fake.script(UPPER, [write, write, rig.write()])
        rig.vp.start()
        rig.vp.thaw()
        assert rig.in_guest[LOWER].wait(WATCHDOG_S)

        assert (lower.values, upper.values) == ([0x55] * 2, [0x55] * 3)


def test_a_handler_of_any_exit_may_choose_another_vtl() -> None:
    with a_rig() as rig:
        rig.fake.script(LOWER, [exit_with(k.KVM_EXIT_HLT), errno.EFAULT, rig.until_kicked(LOWER)])
        rig.fake.script(UPPER, [rig.write(), rig.write()])
        rig.vp.start()
        rig.vp.thaw()
        assert rig.in_guest[LOWER].wait(WATCHDOG_S)

        assert rig.switch.seen == [LOWER, UPPER, LOWER, UPPER]


def test_what_is_done_after_a_kick_may_choose_another_vtl() -> None:
    with a_rig() as rig:
        lower = rig.vp.vcpu

        def after_kick() -> None:
            if rig.in_guest[LOWER].is_set() and rig.vp.vcpu is lower:
                rig.switch.switch()

        rig.vp.after_kick = after_kick
        rig.fake.script(LOWER, [rig.until_kicked(LOWER)])
        rig.fake.script(UPPER, [rig.until_kicked(UPPER)])
        rig.vp.start()
        rig.vp.thaw()
        assert rig.in_guest[LOWER].wait(WATCHDOG_S)

        rig.vp.kick()

        assert rig.in_guest[UPPER].wait(WATCHDOG_S)


def test_a_freeze_reaches_the_vcpu_that_runs_now() -> None:
    with a_rig() as rig:
        rig.fake.script(LOWER, [rig.write()])
        rig.fake.script(UPPER, [rig.until_kicked(UPPER), rig.until_kicked(UPPER)])
        rig.vp.start()
        rig.vp.thaw()
        assert rig.in_guest[UPPER].wait(WATCHDOG_S)

        rig.vp.freeze()
        frozen = threading.Thread(target=rig.vp.wait_frozen)
        frozen.start()
        frozen.join(WATCHDOG_S)

        assert not frozen.is_alive()


def test_a_vcpu_added_while_a_kick_is_under_way_sees_it() -> None:
    with a_rig() as rig, Kvm.open(seam=rig.fake) as kvm, kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(9)
        rig.vp.kick()  # the thread has not run yet, so nobody has answered

        rig.vp.add_vcpu(vcpu)

        assert vcpu.run.immediate_exit
        rig.vp.remove_vcpu(vcpu)


def test_a_removed_vcpu_is_no_longer_touched() -> None:
    with a_rig() as rig, Kvm.open(seam=rig.fake) as kvm, kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(9)
        rig.vp.add_vcpu(vcpu)
        rig.vp.remove_vcpu(vcpu)

        rig.vp.kick()

        assert not vcpu.run.immediate_exit


def test_a_held_vp_enters_no_guest_until_it_is_kicked() -> None:
    with a_rig() as rig:
        asked = threading.Semaphore(0)
        answers = [True, True, False]

        def after_kick() -> None:
            rig.vp.held = answers.pop(0)
            asked.release()

        rig.vp.after_kick = after_kick
        rig.fake.script(LOWER, [rig.until_kicked(LOWER)])
        rig.vp.start()
        rig.vp.thaw()
        assert asked.acquire(timeout=WATCHDOG_S)
        rig.vp.kick()
        assert asked.acquire(timeout=WATCHDOG_S)
        assert not rig.in_guest[LOWER].wait(0.05)

        rig.vp.kick()

        assert rig.in_guest[LOWER].wait(WATCHDOG_S)


def test_a_held_vp_can_be_frozen_and_stopped() -> None:
    with a_rig() as rig:
        held = threading.Event()

        def after_kick() -> None:
            rig.vp.held = True
            held.set()

        rig.vp.after_kick = after_kick
        rig.vp.start()
        rig.vp.thaw()
        assert held.wait(WATCHDOG_S)

        rig.vp.freeze()
        waiting = threading.Thread(target=rig.vp.wait_frozen)
        waiting.start()
        waiting.join(WATCHDOG_S)

        assert not waiting.is_alive()


def test_an_exit_of_a_step_goes_where_the_vtl_s_ports_lead() -> None:
    """Past nobody who watches ports, nor past the hypercall's."""
    with a_rig() as rig:
        told: list[str] = []
        rig.vp.handlers |= {
            k.KVM_EXIT_IO: lambda: told.append("watched"),
            access(True, 1, SWITCH_PORT): lambda: told.append("switch"),
        }
        for port in (0x500, SWITCH_PORT):
            io_out(port, b"\0", 1)(rig.vp.vcpu.run.u8)
            rig.vp.handle_exit(k.KVM_EXIT_IO)

        assert told == ["watched", "switch"]
