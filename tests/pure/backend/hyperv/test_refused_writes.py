# SPDX-License-Identifier: Apache-2.0
"""A guest's write to its hypercall page is #GP; other accesses go where they went."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from vmm.backend import kick
from vmm.backend.hyperv.refused_writes import RefusedWrites
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.backend.vp import REFUSED_ACCESS, VirtualProcessor
from vmm.bus import MmioBus, PortBus

GPN = 0x123
GP = (1, 13, 1, 0)


class Pages:
    """Stands for the overlays: what they say may not be written."""

    def __init__(self) -> None:
        self.refused = frozenset({(0, GPN)})


class Rig:
    """A VP whose VTL0 has a hypercall page."""

    def __init__(self, kvm: Kvm) -> None:
        self.ended: list[Outcome] = []
        self.other: list[str] = []
        vcpu = kvm.create_vm().create_vcpu(0)
        self.vp = VirtualProcessor(0, vcpu, PortBus(), MmioBus(), self.ended.append)
        self.vp.handlers[k.KVM_EXIT_MMIO] = lambda: self.other.append("mmio")
        self.pages = Pages()
        RefusedWrites(self.vp, vcpu, self.vp.handlers, 0, self.pages).attach()

    def mmio(self, gpa: int, write: bool) -> None:
        self.vp.vcpu.run.u8[32:53] = struct.pack("<QQIB", gpa, 0, 1, write)
        self.vp.handlers[k.KVM_EXIT_MMIO]()

    def fault(self, reason: int, gpa: int = 0) -> None:
        self.vp.vcpu.run.u32[2] = reason
        self.vp.vcpu.run.u64[5] = gpa
        self.vp.handlers[REFUSED_ACCESS]()

    @property
    def exception(self) -> tuple[int, int, int, int]:
        found = self.vp.vcpu.get_vcpu_events().exception
        return found.injected, found.nr, found.has_error_code, found.error_code


@pytest.fixture
def rig() -> Iterator[Rig]:
    kick.install()
    with Kvm.open(seam=FakeKvm()) as kvm:
        yield Rig(kvm)


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
