# SPDX-License-Identifier: Apache-2.0
"""The VP loop over a scripted KVM: exits reach the board, failures end the run, freezing works at any moment."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with, hlt, io_in, io_out, mmio_read, mmio_write, shutdown
from kvmapi.uapi import kvm as k
from vmm.backend import kick
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus, access

WATCHDOG_S = 10.0
SOON_S = 0.05
"""What must not happen has happened by then, if it does."""


class Recorder:
    """A region that remembers accesses and answers reads with a constant."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.seen: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, -1))
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


def until_kicked(view: memoryview) -> int:
    """The guest runs until it is kicked out: how a KVM_RUN looks whose guest never exits."""
    while not view[1]:
        time.sleep(0.0005)
    return exit_with(k.KVM_EXIT_INTR, result=errno.EINTR)(view)


class Rig:
    """One VP over a fake KVM."""

    def __init__(self, fake: FakeKvm, vp: VirtualProcessor, ports: PortBus, mmio: MmioBus) -> None:
        self.fake, self.vp, self.ports, self.mmio = fake, vp, ports, mmio
        self.outcomes: list[Outcome] = []
        self.ended = threading.Event()

    def run(self, *steps: Step | int) -> Outcome:
        """Run the script to the outcome that ends it."""
        self.fake.script(0, [*steps, until_kicked])
        self.vp.start()
        self.vp.thaw()
        assert self.ended.wait(WATCHDOG_S), "the VP did not end the run"
        self.vp.wait_frozen()
        return self.outcomes[0]


@contextmanager
def a_rig() -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    ports, mmio = PortBus(), MmioBus()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:

        def end_run(outcome: Outcome) -> None:
            rig.outcomes.append(outcome)
            vp.freeze()
            rig.ended.set()

        vp = VirtualProcessor(0, vm.create_vcpu(0), ports, mmio, end_run)
        rig = Rig(fake, vp, ports, mmio)
        try:
            yield rig
        finally:
            vp.stop()
    assert fake.leaks() == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


@pytest.mark.parametrize(("size", "value"), [(1, 0x81), (2, 0x8182), (4, 0x81828384)])
def test_port_writes_reach_the_device_with_their_size(rig: Rig, size: int, value: int) -> None:
    device = Recorder()
    rig.ports.add(0x500, 8, device, "device")

    rig.run(io_out(0x503, value.to_bytes(size, "little"), size), shutdown())

    assert device.seen == [(3, size, value)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_reads_give_the_guest_the_devices_answer_cut_to_size(rig: Rig, size: int) -> None:
    rig.ports.add(0x500, 8, Recorder(answer=0x1122334455), "device")
    answers: list[int] = []

    def look(view: memoryview) -> int:
        answers.append(int.from_bytes(view[4096:4104], "little"))
        return shutdown()(view)

    rig.run(io_in(0x500, size), look)

    assert answers == [0x1122334455 & ((1 << 8 * size) - 1)]


def test_the_same_write_again_takes_its_own_value(rig: Rig) -> None:
    device = Recorder()
    rig.ports.add(0x500, 8, device, "device")

    rig.run(*(io_out(0x500, bytes([value])) for value in (1, 2, 3, 3)), shutdown())

    assert device.seen == [(0, 1, value) for value in (1, 2, 3, 3)]


def test_writes_that_differ_in_one_thing_are_told_apart(rig: Rig) -> None:
    first, second = Recorder(), Recorder(answer=0x77)
    rig.ports.add(0x500, 1, first, "first")
    rig.ports.add(0x501, 1, second, "second")

    rig.run(
        io_out(0x500, b"\x01"),
        io_out(0x501, b"\x02"),  # the port
        io_out(0x501, b"\x03\x04", 2),  # the size
        io_out(0x501, b"\x05\x06"),  # the count
        io_in(0x501),  # the direction
        io_out(0x501, b"\x07"),
        exit_with(k.KVM_EXIT_INTR),  # the reason
        io_out(0x500, b"\x08"),
        shutdown(),
    )

    assert first.seen == [(0, 1, 1), (0, 1, 8)]
    assert second.seen == [(0, 1, 2), (0, 2, 0x0403), (0, 1, 5), (0, 1, 6), (0, 1, -1), (0, 1, 7)]


def test_another_exit_with_the_access_of_the_last_write_is_not_that_write(rig: Rig) -> None:
    device = Recorder()
    rig.ports.add(0x500, 1, device, "device")
    write = io_out(0x500, b"\x01")

    def irq_window(view: memoryview) -> int:
        kept = bytes(view[32:48])
        exit_with(k.KVM_EXIT_IRQ_WINDOW_OPEN)(view)
        view[32:48] = kept  # KVM leaves there what was there before
        return 0

    rig.run(write, irq_window, write, irq_window, shutdown())

    assert device.seen == [(0, 1, 1)] * 2


def test_a_port_that_is_removed_between_two_writes_takes_the_first_alone(rig: Rig) -> None:
    before, after = Recorder(), Recorder()
    rig.ports.add(0x500, 1, before, "before")
    write = io_out(0x500, b"\x01")

    def remove(view: memoryview) -> int:
        rig.ports.remove(0x500, 1)
        return write(view)

    def add(view: memoryview) -> int:
        rig.ports.add(0x500, 1, after, "after")
        return write(view)

    rig.run(write, write, remove, write, add, write, shutdown())

    assert (len(before.seen), len(after.seen)) == (2, 2)


def test_a_device_that_goes_away_by_a_write_to_itself_takes_no_other(rig: Rig) -> None:
    class Leaving(Recorder):
        def write(self, offset: int, size: int, value: int) -> None:
            super().write(offset, size, value)
            rig.ports.remove(0x500, 1)

    device = Leaving()
    rig.ports.add(0x500, 1, device, "device")

    rig.run(io_out(0x500, b"\x01"), io_out(0x500, b"\x01"), shutdown())

    assert len(device.seen) == 1


def test_an_access_to_a_reserved_port_may_have_a_handler_of_the_vps_own(rig: Rig) -> None:
    seen: list[int] = []
    rig.ports.reserve(0x500, 1, "reserved")
    rig.vp.handlers[access(True, 1, 0x500)] = lambda: seen.append(1)

    rig.run(
        io_out(0x500, b"\x01"),
        io_out(0x500, b"\x01", 1),
        io_out(0x500, b"\x01\x02", 2),
        io_in(0x500),
        shutdown(),
    )

    assert seen == [1, 1]


def test_string_io_is_taken_item_by_item(rig: Rig) -> None:
    device = Recorder(answer=0xAA)
    rig.ports.add(0x500, 8, device, "device")
    answers: list[bytes] = []

    def look(view: memoryview) -> int:
        answers.append(bytes(view[4096:4102]))
        return shutdown()(view)

    rig.run(io_out(0x500, b"\x01\x02\x03\x04", 2), io_in(0x500, 2, 3), look)

    assert device.seen[:2] == [(0, 2, 0x0201), (0, 2, 0x0403)]
    assert answers == [b"\xaa\x00" * 3]


def test_ports_and_addresses_nobody_decodes_are_harmless(rig: Rig) -> None:
    answers: list[int] = []

    def look(port: bool) -> Step:
        def step(view: memoryview) -> int:
            at = 4096 if port else 40
            answers.append(int.from_bytes(view[at : at + 4], "little"))
            return 0 if port else shutdown()(view)

        return step

    outcome = rig.run(
        io_out(0x999, b"\x00"),
        mmio_write(0xD0000000, b"\0\0\0\0"),
        mmio_read(0xD0000000, 4),
        look(port=False),
    )

    assert outcome.kind is OutcomeKind.TRIPLE_FAULT
    assert answers == [0xFFFFFFFF]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_reaches_the_device(rig: Rig, size: int) -> None:
    device = Recorder(answer=0x0102030405060708)
    rig.mmio.add(0xFE000000, 0x100, device, "device")
    answers: list[int] = []

    def look(view: memoryview) -> int:
        answers.append(int.from_bytes(view[40:48], "little"))
        return shutdown()(view)

    value = 0x8877665544332211 & ((1 << 8 * size) - 1)
    rig.run(mmio_write(0xFE000010, value.to_bytes(size, "little")), mmio_read(0xFE000020, size), look)

    assert device.seen == [(0x10, size, value), (0x20, size, -1)]
    assert answers[0] & ((1 << 8 * size) - 1) == 0x0102030405060708 & ((1 << 8 * size) - 1)


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (shutdown(), OutcomeKind.TRIPLE_FAULT, "triple fault"),
        (hlt(), OutcomeKind.INTERNAL_ERROR, "HLT"),
        (exit_with(k.KVM_EXIT_INTERNAL_ERROR, "II", 1, 0), OutcomeKind.EMULATION_FAILURE, "INTERNAL_ERROR"),
        (exit_with(k.KVM_EXIT_INTERNAL_ERROR, "II", 4, 0), OutcomeKind.INTERNAL_ERROR, "INTERNAL_ERROR"),
        (exit_with(k.KVM_EXIT_FAIL_ENTRY, "QI", 0x21, 0), OutcomeKind.ENTRY_FAILURE, "FAIL_ENTRY"),
        (exit_with(k.KVM_EXIT_DEBUG), OutcomeKind.INTERNAL_ERROR, "DEBUG"),
        (exit_with(63), OutcomeKind.INTERNAL_ERROR, "63"),
        (exit_with(1 << 31), OutcomeKind.INTERNAL_ERROR, "exit"),
        (errno.EFAULT, OutcomeKind.INTERNAL_ERROR, "EFAULT"),
        (errno.EINVAL, OutcomeKind.INTERNAL_ERROR, "EINVAL"),
    ],
)
def test_what_cannot_go_on_ends_the_run_with_status_2_and_registers(
    rig: Rig, step: Step | int, kind: OutcomeKind, words: str
) -> None:
    outcome = rig.run(step)

    assert (outcome.kind, outcome.status) == (kind, 2)
    assert words in outcome.detail and "\n" not in outcome.detail
    assert "rip=" in outcome.report


@pytest.mark.parametrize(("rip", "cr0", "reset"), [(0xFFF0, 0x60000010, True), (0x1000, 0x80000011, False)])
def test_a_triple_fault_that_kvm_has_reset_the_processor_for_is_told_as_one(
    rig: Rig, rip: int, cr0: int, reset: bool
) -> None:
    """kvm_amd does so, kvm_intel leaves the registers of the fault."""
    regs, sregs = rig.vp.vcpu.get_regs(), rig.vp.vcpu.get_sregs()
    regs.rip, sregs.cs.selector, sregs.cr0 = rip, 0xF000, cr0
    rig.vp.vcpu.set_regs(regs)
    rig.vp.vcpu.set_sregs(sregs)

    outcome = rig.run(shutdown())

    assert f"rip={rip:016x}" in outcome.report
    assert outcome.report.startswith("KVM reset this processor when it faulted") is reset


def test_a_device_that_raises_ends_the_run_as_our_defect(rig: Rig) -> None:
    class Broken(Recorder):
        def write(self, offset: int, size: int, value: int) -> None:
            raise KeyError("lost")

    rig.ports.add(0x500, 1, Broken(), "broken")

    outcome = rig.run(io_out(0x500, b"\x00"))

    assert outcome.kind is OutcomeKind.ERROR
    assert "KeyError" in outcome.detail and "defect" in outcome.report


def test_interruptions_and_waiting_for_sipi_are_no_failures(rig: Rig) -> None:
    outcome = rig.run(errno.EINTR, errno.EAGAIN, exit_with(k.KVM_EXIT_INTR), shutdown())

    assert outcome.kind is OutcomeKind.TRIPLE_FAULT


@pytest.mark.parametrize("way", ["freeze", "stop"])
@pytest.mark.timeout(60)
def test_a_kick_that_is_lost_is_made_again(way: str, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host's queue of signals is full; the mark in kvm_run is seen on the way into the guest only."""
    entered, kicks = threading.Event(), threading.Semaphore(0)

    def until_signalled(view: memoryview) -> int:
        entered.set()
        assert kicks.acquire(timeout=WATCHDOG_S)
        return exit_with(k.KVM_EXIT_INTR, result=errno.EINTR)(view)

    lost = [True, True]
    monkeypatch.setattr(kick, "kick", lambda thread: lost.pop() if lost else kicks.release())
    rig.fake.script(0, [until_signalled])
    rig.vp.start()
    rig.vp.thaw()
    assert entered.wait(WATCHDOG_S)

    if way == "freeze":
        rig.vp.freeze()
        rig.vp.wait_frozen()
    rig.vp.stop()

    assert (lost, rig.outcomes) == ([], [])


def test_a_frozen_vp_executes_nothing_until_it_is_thawed(rig: Rig) -> None:
    device = Recorder()
    rig.ports.add(0x500, 1, device, "device")
    entered = threading.Event()

    def inside(view: memoryview) -> int:
        entered.set()
        return until_kicked(view)

    rig.fake.script(0, [inside])
    rig.vp.start()
    rig.vp.wait_frozen()
    assert not entered.is_set()
    rig.vp.thaw()
    assert entered.wait(WATCHDOG_S)
    rig.vp.freeze()
    rig.vp.wait_frozen()
    rig.fake.script(0, [io_out(0x500, b"\x01"), shutdown(), until_kicked])
    rig.vp.kick()  # brings a VP out of the guest, and no frozen one into it

    assert not rig.ended.wait(SOON_S)
    assert device.seen == []
    rig.vp.thaw()
    assert rig.ended.wait(WATCHDOG_S)
    assert device.seen == [(0, 1, 1)]


def test_freeze_and_thaw_race_with_the_guest_without_ever_hanging(rig: Rig) -> None:
    steps: list[Callable[[memoryview], int]] = [until_kicked] * 20_000
    rig.fake.script(0, steps)
    rig.vp.start()

    for _ in range(300):
        rig.vp.thaw()
        rig.vp.freeze()
        rig.vp.wait_frozen()

    assert rig.outcomes == []


def test_a_vp_that_never_started_can_be_stopped() -> None:
    with a_rig() as rig:
        rig.vp.stop()
        rig.vp.stop()


def test_kicks_race_with_the_end_of_the_thread(rig: Rig) -> None:
    """A thread's id is a pointer: a signal to one that has ended would crash the process."""
    stop = threading.Event()
    rounds = [threading.Semaphore(0) for _ in range(2)]

    def kicker(done: threading.Semaphore) -> None:
        while not stop.is_set():
            for _ in range(100):
                rig.vp.kick()
            done.release()

    def have_kicked(times: int) -> None:
        for done in rounds:
            for _ in range(times):
                assert done.acquire(timeout=WATCHDOG_S), "a kick does not return"

    kickers = [threading.Thread(target=kicker, args=(done,), daemon=True) for done in rounds]
    rig.fake.script(0, [until_kicked] * 1_000_000)
    rig.vp.start()
    rig.vp.thaw()
    for thread in kickers:
        thread.start()
    have_kicked(5)
    rig.vp.stop()
    have_kicked(2)  # the first of them may have begun before
    stop.set()
    for thread in kickers:
        thread.join(WATCHDOG_S)

    assert not any(thread.is_alive() for thread in kickers)
    assert rig.outcomes == []
