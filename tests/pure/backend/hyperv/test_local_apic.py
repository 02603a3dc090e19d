# SPDX-License-Identifier: Apache-2.0
"""EOI, ICR, TPR and interrupts without EOI, over a scripted KVM."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from tests.pure.devices.fakes import FakeClock
from vmm.backend import kick
from vmm.backend.hyperv.auto_eoi import FIRST_LOOK_NS, LONGEST_WAIT_NS, AutoEoi
from vmm.backend.hyperv.local_apic import IRR, ISR, KvmLocalApic, has, in_service, msi_address
from vmm.backend.outcome import Outcome
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus

VECTOR, HIGHER = 0x51, 0x93
EXTD = 1 << 10
IMMEDIATE_EXIT = 1  # byte of struct kvm_run: a kick sets it


class Rig:
    """Processors with APIC ids 0, 1 and 2; the local APIC under test is that of the second."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake = fake
        self.vm = kvm.create_vm()
        self.vcpu = self.vm.create_vcpu(1)
        self.apic = KvmLocalApic(self.vm, self.vcpu, [0, 1, 2])
        self.clock = FakeClock()
        self.vp = VirtualProcessor(0, self.vcpu, PortBus(), MmioBus(), self.ended)
        self.auto_eoi = AutoEoi(self.vp, self.apic, self.clock)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def put(self, register: int, *vectors: int) -> None:
        """Set exactly these bits of ISR or IRR."""
        lapic = self.vcpu.get_lapic()
        lapic.regs[register : register + 0x80] = bytes(0x80)
        for vector in vectors:
            lapic.regs[register + vector // 32 * 16 + vector % 32 // 8] |= 1 << vector % 8
        self.vcpu.set_lapic(lapic)

    def served(self) -> int | None:
        return in_service(self.vcpu.get_lapic())

    def interrupts(self) -> list[tuple[int, int]]:
        """(address, data) of each KVM_SIGNAL_MSI."""
        calls = [struct.unpack_from("<III", call.argument) for call in self.fake.called("KVM_SIGNAL_MSI")]
        return [(low | high << 32, data) for low, high, data in calls]

    def kicked(self) -> bool:
        """Whether the VP was kicked since the last look."""
        was = self.vcpu.run.u8[IMMEDIATE_EXIT] != 0
        self.vcpu.run.u8[IMMEDIATE_EXIT] = 0
        return was


@contextmanager
def a_rig(caps: dict[int, int]) -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    fake.caps = caps
    with Kvm.open(seam=fake) as kvm:
        yield Rig(fake, kvm)
    assert fake.leaks() == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig({}) as made:
        yield made


def test_eoi_ends_the_highest_vector_in_service(rig: Rig) -> None:
    rig.put(ISR, VECTOR, HIGHER)

    assert [rig.apic.end_of_interrupt() for _ in range(3)] == [HIGHER, VECTOR, None]
    assert rig.served() is None


def test_eoi_in_x2apic_mode_is_the_processors_own_and_loses_no_interrupt(rig: Rig) -> None:
    rig.put(ISR, VECTOR)
    rig.vcpu.run.sregs.apic_base = EXTD
    before = len(rig.fake.called("KVM_SET_LAPIC"))

    assert rig.apic.end_of_interrupt() == VECTOR
    assert struct.unpack_from("<IIII", rig.fake.called("KVM_SET_MSRS")[-1].argument)[2] == 0x80B
    assert len(rig.fake.called("KVM_SET_LAPIC")) == before


def test_eoi_on_a_kvm_with_hyperv_emulation_is_its_msr() -> None:
    with a_rig({k.KVM_CAP_HYPERV: 1}) as rig:
        rig.put(ISR, VECTOR)

        assert rig.apic.end_of_interrupt() == VECTOR
        assert struct.unpack_from("<IIII", rig.fake.called("KVM_SET_MSRS")[-1].argument)[2] == 0x4000_0070


@pytest.mark.tlfs("APIC-002")
@pytest.mark.parametrize(
    ("icr", "extended", "expected"),
    [
        (2 << 56 | VECTOR, 0, [(0xFEE02000, VECTOR)]),
        (2 << 32 | VECTOR, EXTD, [(0xFEE02000, VECTOR)]),
        (0x102 << 32 | VECTOR, EXTD, [(0xFEE02000 | 1 << 40, VECTOR)]),
        (1 << 56 | 1 << 11 | VECTOR, 0, [(0xFEE01004, VECTOR)]),
        (1 << 18 | VECTOR, 0, [(0xFEE01000, VECTOR)]),
        (2 << 18 | VECTOR, 0, [(0xFEE00000, VECTOR), (0xFEE02000, VECTOR), (0xFEE01000, VECTOR)]),
        (3 << 18 | 0x400, 0, [(0xFEE00000, 0x400), (0xFEE02000, 0x400)]),
        (2 << 56 | 0xC500, 0, [(0xFEE02000, 0xC500)]),
        (2 << 56 | 0x8500, 0, []),
    ],
    ids=["xapic", "x2apic", "id above 255", "logical", "self", "all", "NMI to others", "INIT", "de-assert"],
)
def test_icr_writes_become_messages(
    rig: Rig, icr: int, extended: int, expected: list[tuple[int, int]]
) -> None:
    rig.vcpu.run.sregs.apic_base = extended

    assert rig.apic.write_icr(icr)

    assert rig.interrupts() == expected
    assert rig.apic.read_icr() == icr


@pytest.mark.tlfs("APIC-002")
def test_tpr_is_cr8_and_keeps_its_low_bits(rig: Rig) -> None:
    rig.apic.write_tpr(0x73)

    assert rig.vcpu.run.sregs.cr8 == 7
    assert rig.vcpu.run.u64[296 // 8] == 2  # kvm_dirty_regs: KVM_SYNC_X86_SREGS
    assert rig.apic.read_tpr() == 0x73
    rig.vcpu.run.sregs.cr8 = 5  # the guest wrote CR8
    assert rig.apic.read_tpr() == 0x50


@pytest.mark.parametrize(
    ("apic_id", "address"), [(0, 0xFEE00000), (3, 0xFEE03000), (0x1234, 0x1200_FEE34000)]
)
def test_message_addresses(apic_id: int, address: int) -> None:
    assert msi_address(apic_id) == address


# ---- interrupts without EOI ----------------------------------------------------------------------------


@pytest.mark.tlfs("SYN-024")
def test_an_interrupt_without_eoi_is_ended_in_the_guests_place(rig: Rig) -> None:
    rig.put(ISR, VECTOR)
    rig.auto_eoi.requested(VECTOR)
    assert not rig.kicked()

    rig.clock.advance(FIRST_LOOK_NS)
    assert rig.kicked()
    rig.auto_eoi.look()

    assert rig.served() is None
    rig.clock.advance(10 * LONGEST_WAIT_NS)
    assert not rig.kicked()


def test_one_that_was_interrupted_waits_for_the_higher_one(rig: Rig) -> None:
    rig.put(ISR, VECTOR, HIGHER)
    rig.auto_eoi.requested(VECTOR)

    rig.auto_eoi.look()
    assert has(rig.vcpu.get_lapic(), ISR, VECTOR)
    assert rig.served() == HIGHER
    rig.put(ISR, VECTOR)
    rig.clock.advance(2 * FIRST_LOOK_NS)
    assert rig.kicked()
    rig.auto_eoi.look()

    assert rig.served() is None


def test_one_that_is_not_taken_yet_is_looked_for_less_and_less_often(rig: Rig) -> None:
    rig.put(IRR, VECTOR)
    rig.auto_eoi.requested(VECTOR)
    looks = 0

    for _ in range(1000):  # a second
        rig.clock.advance(1_000_000)
        if rig.kicked():
            looks += 1
            rig.auto_eoi.look()

    assert 20 <= looks <= 40


def test_a_look_without_a_request_asks_kvm_nothing(rig: Rig) -> None:
    rig.auto_eoi.look()

    assert rig.fake.called("KVM_GET_LAPIC") == []


def test_reset_forgets_what_was_requested(rig: Rig) -> None:
    rig.auto_eoi.requested(VECTOR)

    rig.auto_eoi.reset()

    rig.clock.advance(LONGEST_WAIT_NS)
    assert not rig.kicked()
