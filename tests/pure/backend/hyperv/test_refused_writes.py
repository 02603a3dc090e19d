# SPDX-License-Identifier: Apache-2.0
"""A guest's write to its hypercall page is #GP; other accesses go where they went."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import KVM_MEMORY_EXIT_FLAG_EXEC, KVM_MEMORY_EXIT_FLAG_WRITE
from vmm.backend import kick
from vmm.backend.hyperv.refused_writes import RefusedWrites
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.backend.vp import REFUSED_ACCESS, VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.outside import GuestMemoryError

GPN = 0x123
GP = (1, 13, 1, 0)


class Pages:
    """Stands for the overlays: what they say may not be written."""

    def __init__(self) -> None:
        self.refused = frozenset({(0, GPN)})
        self.from_above: frozenset[tuple[int, int]] = frozenset()


class Rig:
    """A VP whose VTL0 has a hypercall page."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.ended: list[Outcome] = []
        self.other: list[str] = []
        self.fake = fake
        self.ram: Any = None
        vcpu = kvm.create_vm().create_vcpu(0)
        self.vp = VirtualProcessor(0, vcpu, PortBus(), MmioBus(), self.ended.append)
        self.vp.handlers[k.KVM_EXIT_MMIO] = lambda: self.other.append("mmio")
        self.pages = Pages()
        self.refusals = RefusedWrites(self.vp, vcpu, self.vp.handlers, 0, self.pages)
        self.refusals.attach()

    def mmio(self, gpa: int, write: bool) -> None:
        self.vp.vcpu.run.u8[32:53] = struct.pack("<QQIB", gpa, 0, 1, write)
        self.vp.handlers[k.KVM_EXIT_MMIO]()

    def fault(self, reason: int, gpa: int = 0, flags: int = 0) -> None:
        self.vp.vcpu.run.u32[2] = reason
        self.vp.vcpu.run.u64[4] = flags
        self.vp.vcpu.run.u64[5] = gpa
        self.vp.handlers[REFUSED_ACCESS]()

    @property
    def exception(self) -> tuple[int, int, int, int]:
        found = self.vp.vcpu.get_vcpu_events().exception
        return found.injected, found.nr, found.has_error_code, found.error_code


@pytest.fixture
def rig() -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        yield Rig(fake, kvm)


@pytest.mark.tlfs("HCP-007")
def test_an_emulated_write(rig: Rig) -> None:
    rig.mmio(GPN << 12 | 0x10, write=True)

    assert (rig.exception, rig.other) == (GP, [])


@pytest.mark.parametrize(("gpa", "write"), [((GPN + 1) << 12, True), (GPN << 12, False)])
def test_other_mmio(rig: Rig, gpa: int, write: bool) -> None:
    rig.mmio(gpa, write)

    assert (rig.exception[0], rig.other) == (0, ["mmio"])


@pytest.mark.tlfs("HCP-007")
@pytest.mark.parametrize(("reason", "gpa"), [(k.KVM_EXIT_MEMORY_FAULT, GPN << 12), (0, 0)])
def test_a_write_of_the_processor_s(rig: Rig, reason: int, gpa: int) -> None:
    rig.fault(reason, gpa)

    assert (rig.exception, rig.ended) == (GP, [])


def test_a_fault_elsewhere_ends_the_run(rig: Rig) -> None:
    rig.fault(k.KVM_EXIT_MEMORY_FAULT, (GPN + 1) << 12)

    assert rig.exception[0] == 0
    assert [outcome.kind for outcome in rig.ended] == [OutcomeKind.INTERNAL_ERROR]
    assert errno.errorcode[errno.EFAULT] in rig.ended[0].detail


def test_a_fault_while_no_page_is_shown_ends_the_run(rig: Rig) -> None:
    rig.pages.refused = frozenset()
    rig.fault(0)

    assert [outcome.kind for outcome in rig.ended] == [OutcomeKind.INTERNAL_ERROR]


CODE = 0x5000
LOCK_ADD, LOCK_CMPXCHG = (bytes.fromhex(code) for code in ("f0800701", "f00fb00f"))


class Ram:
    """16 pages at 0."""

    def __init__(self) -> None:
        self.data = bytearray(16 << 12)

    def read(self, gpa: int, size: int) -> bytes:
        if gpa + size > len(self.data):
            raise GuestMemoryError(f"{gpa:#x} is no RAM")
        return bytes(self.data[gpa : gpa + size])


@pytest.fixture
def emulated(rig: Rig) -> Rig:
    """On a KVM that emulates ring 0: what it cannot carry out it leaves with #UD pending."""
    ram: Any = Ram()
    rig.vp.handlers[k.KVM_EXIT_INTERNAL_ERROR] = lambda: rig.other.append("internal error")
    RefusedWrites(rig.vp, rig.vp.vcpu, rig.vp.handlers, 0, rig.pages, memory=ram).attach()
    rig.ram = ram
    return rig


def give_up(rig: Rig, code: bytes, gpa: int, suberror: int = k.KVM_INTERNAL_ERROR_EMULATION) -> None:
    """KVM stops at `code`, in 32-bit protected mode, with EDI at `gpa`."""
    rig.ram.data[CODE : CODE + len(code)] = code
    vcpu = rig.vp.vcpu
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    regs.rip, regs.rdi, regs.rflags = CODE, gpa, 2
    sregs.cr0, sregs.cs.db = 1, 1
    vcpu.set_regs(regs)
    vcpu.set_sregs(sregs)
    vcpu.run.u32[2], vcpu.run.u32[8] = k.KVM_EXIT_INTERNAL_ERROR, suberror
    events = vcpu.get_vcpu_events()
    events.exception.pending, events.exception.nr = 1, 6
    vcpu.set_vcpu_events(events)
    rig.vp.handlers[k.KVM_EXIT_INTERNAL_ERROR]()


@pytest.mark.tlfs("HCP-007")
@pytest.mark.parametrize("code", [LOCK_ADD, LOCK_CMPXCHG], ids=["lock add", "lock cmpxchg"])
@pytest.mark.parametrize("gpa", [GPN << 12 | 0x10, (GPN + 1) << 12, (GPN << 12) - 1])
def test_a_locked_write_that_kvm_s_emulator_gives_up(emulated: Rig, code: bytes, gpa: int) -> None:
    give_up(emulated, code, gpa)

    if gpa >> 12 == GPN:
        assert (emulated.exception, emulated.other) == (GP, [])
        assert emulated.vp.vcpu.get_vcpu_events().exception.pending == 0
        assert emulated.fake.called("KVM_SET_REGS")[1:]  # KVM takes back its #UD with that
        assert (emulated.vp.vcpu.get_regs().rip, emulated.vp.vcpu.run.regs.rip) == (CODE, CODE)
    else:
        assert (emulated.exception[0], emulated.other) == (0, ["internal error"])


@pytest.mark.parametrize("suberror", [k.KVM_INTERNAL_ERROR_DELIVERY_EV, k.KVM_INTERNAL_ERROR_SIMUL_EX])
def test_another_internal_error_is_none_of_these(emulated: Rig, suberror: int) -> None:
    give_up(emulated, LOCK_ADD, GPN << 12, suberror)

    assert (emulated.exception[0], emulated.other) == (0, ["internal error"])


def test_what_kvm_s_emulator_gives_up_while_no_page_is_shown(emulated: Rig) -> None:
    emulated.pages.refused = frozenset({(1, GPN)})

    give_up(emulated, LOCK_ADD, GPN << 12)

    assert (emulated.exception[0], emulated.other) == (0, ["internal error"])


def test_where_somebody_looks_before_internal_errors_are_theirs(rig: Rig) -> None:
    assert rig.vp.handlers[k.KVM_EXIT_INTERNAL_ERROR] == rig.vp._internal_error


ABOVE_GPN = 0x456


@pytest.fixture
def below(rig: Rig) -> Rig:
    """VTL0 sees a page of VTL1's, and VTL1 one of VTL2's."""
    rig.pages.from_above = frozenset({(0, ABOVE_GPN), (1, GPN + 1)})
    return rig


@pytest.mark.tlfs("VSM-068")
def test_an_emulated_write_to_a_higher_vtl_s_page(below: Rig) -> None:
    below.mmio(ABOVE_GPN << 12, write=True)
    assert (below.exception, below.other) == (GP, [])

    below.mmio(ABOVE_GPN << 12, write=False)
    below.mmio((GPN + 1) << 12, write=True)
    assert below.other == ["mmio", "mmio"]


@pytest.mark.tlfs("VSM-068", "VSM-080")
@pytest.mark.parametrize(
    ("flags", "may_write", "faults"),
    [
        (KVM_MEMORY_EXIT_FLAG_WRITE, True, True),
        (KVM_MEMORY_EXIT_FLAG_WRITE, False, False),
        (KVM_MEMORY_EXIT_FLAG_EXEC, True, False),
        (0, True, False),
    ],
)
def test_what_attributes_refuse_there_is_the_rights(
    below: Rig, flags: int, may_write: bool, faults: bool
) -> None:
    asked: list[int] = []

    def allowed(gpn: int) -> bool:
        asked.append(gpn)
        return may_write

    told: list[str] = []
    below.vp.handlers[REFUSED_ACCESS] = lambda: told.append("told")
    RefusedWrites(below.vp, below.vp.vcpu, below.vp.handlers, 0, below.pages, allowed).attach()

    below.fault(k.KVM_EXIT_MEMORY_FAULT, ABOVE_GPN << 12, flags)

    assert (below.exception == GP, told) == ((True, []) if faults else (False, ["told"]))
    assert asked in ([], [ABOVE_GPN])


@pytest.mark.parametrize(("reason", "gpa"), [(k.KVM_EXIT_MEMORY_FAULT, ABOVE_GPN << 12), (0, 0)])
def test_where_the_rights_have_been_looked_up_before(below: Rig, reason: int, gpa: int) -> None:
    below.pages.refused = frozenset()

    below.fault(reason, gpa)

    assert (below.exception, below.ended) == (GP, [])


@pytest.mark.tlfs("HCP-007", "VSM-068")
@pytest.mark.parametrize(("before", "expected"), [(13, 8), (14, 8), (6, 13), (3, 13)])
def test_a_stack_that_cannot_be_written(rig: Rig, before: int, expected: int) -> None:
    """The write was that of an exception's delivery: a processor makes a double fault of some pairs."""
    events = rig.vp.vcpu.get_vcpu_events()
    events.exception.injected, events.exception.nr = 1, before
    rig.vp.vcpu.set_vcpu_events(events)

    rig.fault(0)

    assert (rig.exception, rig.ended) == ((1, expected, 1, 0), [])


def test_nor_by_the_double_fault_s_delivery_ends_in_a_triple_fault(rig: Rig) -> None:
    events = rig.vp.vcpu.get_vcpu_events()
    events.exception.injected, events.exception.nr = 1, 8
    rig.vp.vcpu.set_vcpu_events(events)

    rig.fault(0)

    assert [outcome.kind for outcome in rig.ended] == [OutcomeKind.TRIPLE_FAULT]
