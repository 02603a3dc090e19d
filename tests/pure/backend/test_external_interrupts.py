# SPDX-License-Identifier: Apache-2.0
"""External interrupts over a scripted KVM: injected when the processor takes them, asked for when it does not."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with, io_out, shutdown
from kvmapi.uapi import kvm as k
from vmm.backend import kick
from vmm.backend.external_interrupts import ExternalInterrupts
from vmm.backend.outcome import Outcome
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus

WATCHDOG_S = 10.0
REQUEST_WINDOW, READY = 0, 12  # bytes of struct kvm_run
PORT = 0x500


class Source:
    """An interrupt controller with a queue of vectors; a write to its port raises the next one."""

    def __init__(self, *vectors: int) -> None:
        self.vectors = list(vectors)
        self.intr = False
        self.external: ExternalInterrupts | None = None

    def acknowledge(self) -> int:
        vector = self.vectors.pop(0)
        self.intr = False
        return vector

    def raise_intr(self) -> None:
        self.intr = True
        assert self.external is not None
        self.external.intr_changed(True)

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.raise_intr()


class Rig:
    def __init__(self, fake: FakeKvm, vp: VirtualProcessor, source: Source) -> None:
        self.fake, self.vp, self.source = fake, vp, source
        self.ended = threading.Event()
        self.requested: list[int] = []  # request_interrupt_window at each step that noted it

    def note(self, ready: bool, then: Step) -> Step:
        """A KVM_RUN that notes what was asked for, and leaves `ready_for_interrupt_injection` as given."""

        def step(view: memoryview) -> int:
            self.requested.append(view[REQUEST_WINDOW])
            view[READY] = ready
            return then(view)

        return step

    def run(self, *steps: Step) -> list[int]:
        """The vectors injected while the script runs to its end."""
        self.fake.script(0, [*steps, shutdown()])
        self.vp.start()
        self.vp.thaw()
        assert self.ended.wait(WATCHDOG_S), "the VP did not end the run"
        return self.injected()

    def injected(self) -> list[int]:
        return [struct.unpack("<I", call.argument)[0] for call in self.fake.called("KVM_INTERRUPT")]


@contextmanager
def a_rig() -> Iterator[Rig]:
    kick.install()
    fake, ports = FakeKvm(), PortBus()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:

        def end_run(outcome: Outcome) -> None:
            vp.freeze()
            rig.ended.set()

        vp = VirtualProcessor(0, vm.create_vcpu(0), ports, MmioBus(), end_run)
        source = Source(0x30, 0x31)
        source.external = ExternalInterrupts(vp, source)
        ports.add(PORT, 1, source, "source")
        rig = Rig(fake, vp, source)
        try:
            yield rig
        finally:
            vp.stop()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


WINDOW_OPEN = exit_with(k.KVM_EXIT_IRQ_WINDOW_OPEN)


def test_a_device_write_of_the_guest_asks_for_the_window_and_gets_its_interrupt(rig: Rig) -> None:
    injected = rig.run(
        rig.note(False, io_out(PORT, b"\x01")),
        rig.note(True, WINDOW_OPEN),
        rig.note(False, exit_with(k.KVM_EXIT_INTR)),
    )

    assert injected == [0x30]
    assert rig.requested == [0, 1, 0]


def test_a_window_that_opens_after_the_line_fell_injects_nothing(rig: Rig) -> None:
    def fall(view: memoryview) -> int:
        rig.source.intr = False
        return rig.note(True, WINDOW_OPEN)(view)

    injected = rig.run(io_out(PORT, b"\x01"), fall, rig.note(False, exit_with(k.KVM_EXIT_INTR)))

    assert injected == []
    assert rig.requested == [1, 0]


def test_a_halted_processor_is_kicked_and_gets_its_interrupt(rig: Rig) -> None:
    waiting = threading.Event()

    def halted(view: memoryview) -> int:
        waiting.set()
        while not view[1]:
            time.sleep(0.0005)
        view[READY] = 1  # HLT with interrupts on
        return 4  # EINTR

    def raise_it() -> None:
        assert waiting.wait(WATCHDOG_S)
        rig.source.raise_intr()

    other = threading.Thread(target=raise_it)
    other.start()
    injected = rig.run(halted)
    other.join()

    assert injected == [0x30]


def test_a_kicked_processor_that_takes_none_is_asked_to_say_when(rig: Rig) -> None:
    def busy(view: memoryview) -> int:
        threading.Thread(target=rig.source.raise_intr).start()
        while not view[1]:
            time.sleep(0.0005)
        view[READY] = 0  # interrupts off
        return 4

    injected = rig.run(busy, rig.note(True, WINDOW_OPEN))

    assert injected == [0x30]
    assert rig.requested == [1]


def test_an_interrupt_raised_before_the_start_is_not_forgotten(rig: Rig) -> None:
    rig.source.raise_intr()

    injected = rig.run(rig.note(True, WINDOW_OPEN))

    assert injected == [0x30]
    assert rig.requested == [1]


def test_one_vector_per_window(rig: Rig) -> None:
    def again(view: memoryview) -> int:
        rig.source.intr = True
        return exit_with(k.KVM_EXIT_INTR)(view)

    injected = rig.run(
        io_out(PORT, b"\x01"),
        rig.note(True, WINDOW_OPEN),
        again,
        rig.note(True, WINDOW_OPEN),
    )

    assert injected == [0x30, 0x31]


def test_after_a_reset_kvm_has_to_say_anew_that_it_takes_interrupts(rig: Rig) -> None:
    rig.vp.vcpu.run.u8[READY] = 1
    assert rig.source.external is not None
    rig.source.external.state_replaced()
    rig.source.raise_intr()

    assert rig.run(rig.note(False, exit_with(k.KVM_EXIT_INTR))) == []
    assert rig.requested == [1]
