# SPDX-License-Identifier: Apache-2.0
"""The VMM's interrupt controllers and what they ask of KVM, over a fake one."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm, KvmError
from kvmapi.fake import Call, FakeKvm
from kvmapi.uapi import kvm as k
from tests.pure.devices.fakes import FakeClock
from vmm.backend.outcome import Outcome
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.machine.split_irqchip import SplitIrqchip

IOAPIC, WINDOW = 0xFEC00000, 0xFEC00010
LEVEL, REMOTE_IRR = 1 << 15, 1 << 14
VECTOR = 0x61
REQUEST_WINDOW, READY, EOI_VECTOR = 0, 12, 32  # bytes of struct kvm_run


class DeliveringKvm(FakeKvm):
    """A KVM whose local APICs take every message."""

    def _do_signal_msi(self, entry: object, argument: object) -> int:
        return 1


class Rig:
    """A split irqchip with two processors, after a reset."""

    def __init__(self, fake: FakeKvm, kvm: Kvm, pit: bool) -> None:
        self.fake, self.clock = fake, FakeClock()
        self.ports, self.mmio = PortBus(), MmioBus()
        vm = kvm.create_vm()
        self.split = SplitIrqchip(vm, self.clock, self.ports, self.mmio, pit=pit)
        self.vps = [
            VirtualProcessor(index, vm.create_vcpu(index), self.ports, self.mmio, self.ended)
            for index in range(2)
        ]
        self.split.connect(self.vps)
        self.split.reset()
        fake.calls.clear()

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def route(self, pin: int, entry: int) -> None:
        self.mmio.write(IOAPIC, 4, 0x10 + 2 * pin)
        self.mmio.write(WINDOW, 4, entry)

    def entry(self, pin: int) -> int:
        self.mmio.write(IOAPIC, 4, 0x10 + 2 * pin)
        return self.mmio.read(WINDOW, 4)

    def messages(self) -> list[tuple[int, int]]:
        return [(msi[0], msi[2]) for msi in map(_msi, self.fake.called("KVM_SIGNAL_MSI"))]


def _msi(call: Call) -> tuple[int, int, int]:
    low, high, data = struct.unpack_from("<III", call.argument)
    return low, high, data


@contextmanager
def a_rig(*, pit: bool = True) -> Iterator[Rig]:
    fake = DeliveringKvm()
    with Kvm.open(seam=fake) as kvm:
        yield Rig(fake, kvm, pit)
    assert fake.leaks() == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


def test_a_line_becomes_a_message(rig: Rig) -> None:
    rig.route(9, VECTOR)

    rig.split.line(9).pulse()

    assert rig.messages() == [(0xFEE00000, 0x4000 | VECTOR)]


def test_interrupt_0_arrives_at_pin_2_and_line_2_nowhere() -> None:
    with a_rig(pit=False) as rig:  # which would hold line 0 high
        for pin in (0, 2):
            rig.route(pin, VECTOR + pin)
        rig.split.line(2).pulse()
        assert rig.messages() == []

        rig.split.line(0).pulse()

        assert rig.messages() == [(0xFEE00000, 0x4000 | VECTOR + 2)]


def test_lines_above_15_reach_the_ioapic_only(rig: Rig) -> None:
    rig.route(23, VECTOR)

    rig.split.line(23).pulse()

    assert len(rig.messages()) == 1
    assert rig.ports.read(0x20, 1) == rig.ports.read(0xA0, 1) == 0  # IRR


def test_a_destination_that_no_processor_has_is_no_failure(rig: Rig) -> None:
    rig.fake.fail("KVM_SIGNAL_MSI", errno.EPERM)
    rig.route(9, VECTOR | LEVEL)

    rig.split.line(9).set_level(True)

    assert not rig.entry(9) & REMOTE_IRR


def test_any_other_failure_is_one(rig: Rig) -> None:
    rig.fake.fail("KVM_SIGNAL_MSI", errno.EINVAL)
    rig.route(9, VECTOR)

    with pytest.raises(KvmError):
        rig.split.line(9).set_level(True)


def test_level_triggered_entries_are_in_kvms_routing_table(rig: Rig) -> None:
    rig.route(9, VECTOR | LEVEL)
    (call,) = rig.fake.called("KVM_SET_GSI_ROUTING")

    count, _ = struct.unpack_from("<II", call.argument)
    gsi, kind, _, _, low, high, data = struct.unpack_from("<7I", call.argument, 8)
    assert (count, gsi, kind) == (1, 9, k.KVM_IRQ_ROUTING_MSI)
    assert (low, high, data) == (0xFEE00000, 0, 0xC000 | VECTOR)


@pytest.mark.parametrize("processor", [0, 1])
def test_an_eoi_exit_of_any_processor_reaches_the_ioapic(rig: Rig, processor: int) -> None:
    rig.route(9, VECTOR | LEVEL)
    rig.split.line(9).set_level(True)
    rig.split.line(9).set_level(False)
    assert rig.entry(9) & REMOTE_IRR

    rig.vps[processor].vcpu.run.u8[EOI_VECTOR] = VECTOR
    rig.vps[processor].handlers[k.KVM_EXIT_IOAPIC_EOI]()

    assert not rig.entry(9) & REMOTE_IRR


def test_the_8259s_interrupt_the_first_processor(rig: Rig) -> None:
    rig.ports.write(0x21, 1, 0xEF)  # unmask 4
    rig.split.line(4).set_level(True)
    assert [vp.vcpu.run.u8[REQUEST_WINDOW] for vp in rig.vps] == [1, 0]

    rig.vps[0].vcpu.run.u8[READY] = 1
    rig.vps[0].handlers[k.KVM_EXIT_IRQ_WINDOW_OPEN]()

    (call,) = rig.fake.called("KVM_INTERRUPT")
    assert call.argument == struct.pack("<I", 0x08 + 4)  # the vectors that firmware leaves


def test_reset_leaves_the_chips_as_firmware_does(rig: Rig) -> None:
    rig.ports.write(0x21, 1, 0)
    rig.route(9, VECTOR)
    rig.split.line(3).set_level(True)
    rig.vps[0].vcpu.run.u8[READY] = 1

    rig.split.reset()

    assert [rig.ports.read(port, 1) for port in (0x21, 0xA1, 0x4D0, 0x4D1)] == [0xFA, 0xFF, 0, 0x0E]
    assert rig.ports.read(0x20, 1) == 0  # an interrupt that was requested before is forgotten
    assert rig.entry(9) == 1 << 16
    assert rig.vps[0].vcpu.run.u8[READY] == 0
    rig.ports.write(0x43, 1, 0xE2)  # status of the PIT's counter 0
    assert rig.ports.read(0x40, 1) & 0x3F == 0x34


def test_the_tick_interrupts_18_times_a_second(rig: Rig) -> None:
    rig.route(2, VECTOR)

    rig.clock.advance(10_000_000_000)

    assert len(rig.messages()) == 182


def test_without_pit_its_ports_are_empty() -> None:
    with a_rig(pit=False) as rig:
        assert [rig.ports.read(port, 1) for port in (0x40, 0x43, 0x61)] == [0xFF] * 3
        assert rig.ports.read(0x21, 1) == 0xFA
