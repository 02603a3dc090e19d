# SPDX-License-Identifier: Apache-2.0
"""Writes of an instruction that cannot be made again, of which not all go to RAM."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmapi.run import KvmRun
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import FakeVcpu, page_tables, processor
from tests.pure.devices.fakes import FakeClock
from tests.pure.vsm.protected import Told
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.mapping_host import MappingProtection
from vmm.backend.protection.view import ProtectedView
from vmm.backend.vp import BEFORE_ENTRY
from vmm.hypercall.outside import AccessInterceptedError, UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.outside import Buffer
from vmm.vsm.outside import MemoryAccess, Refused, RightsChange
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ

DATA, DEVICE = 0x100000, 0xFEB0_0000
FIRST, SECOND = b"\x11" * 4, b"\x22" * 4
Part = tuple[int, bytes]


class Vcpu(FakeVcpu):
    """Of which KVM tells `parts` of a write by KVM_EXIT_MMIO, one at each `run_once`."""

    def __init__(self, cpu: Any, parts: list[Part]) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        self.run = KvmRun(mmap.mmap(-1, 3 * mmap.PAGESIZE), "a vCPU")
        self.vcpu_id, self._parts = 0, list(parts)
        self.next_part()

    def next_part(self) -> None:
        (gpa, data), run = self._parts.pop(0), self.run
        run.u32[2] = k.KVM_EXIT_MMIO
        run.u64[4], run.u8[40 : 40 + len(data)] = gpa, data
        run.u32[12], run.u8[52] = len(data), 1

    def run_once(self) -> int:
        if not self._parts:
            return errno.EINTR
        self.next_part()
        return 0

    def get_cpuid2(self) -> list[x86.kvm_cpuid_entry2]:
        return []

    def get_vcpu_events(self) -> x86.kvm_vcpu_events:
        return x86.kvm_vcpu_events()

    def set_regs(self, regs: x86.kvm_regs) -> None: ...


class Owner:
    """The VTL above, its rights and what it is told."""

    def __init__(self, ram: GuestRam) -> None:
        self._memory = UnprotectedMemory(ram)
        self.refuses = True
        self.told: list[int] = []

    def write(self, gpa: int, data: Buffer) -> None:
        if self.refusing(0, gpa, len(data), 0) is not None:
            raise AccessInterceptedError(gpa, True)
        self._memory.write(gpa, data)

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        return Refused(1, gpa) if self.refuses and gpa >> 12 == DATA >> 12 else None

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        self.told.append(access.gpa)


class Setting:
    """An instruction that nobody finds has left `parts` to be written."""

    def __init__(self, ram: GuestRam, parts: list[Part]) -> None:
        blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
        self.view = ProtectedView(RamView(ram, ram.map_for_kvm()), ram, blocks)
        self.view.apply([RightsChange(DATA >> 12, 1, READ | EXECUTE)])
        self.vcpu, self.owner = Vcpu(processor(ram), parts), Owner(ram)
        self.device: list[Part] = []
        vp: Any = SimpleNamespace(index=0, vcpu=self.vcpu)
        vcpu: Any = self.vcpu
        owner: Any = self.owner
        nobody: Any = None
        self.faults = MappingFaults(vp, vcpu, 0, self.view, owner, owner, owner, nobody, hardware=False)
        self.handlers: dict[int, Callable[[], None]] = {k.KVM_EXIT_MMIO: self._answer}
        self.faults.attach(self.handlers)

    def _answer(self) -> None:
        run = self.vcpu.run
        assert run.u8[52]
        self.device.append((int(run.u64[4]), bytes(run.u8[40 : 40 + run.u32[12]])))

    def go_on(self) -> None:
        self.handlers[BEFORE_ENTRY]()


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield ram


@pytest.mark.tlfs("VSM-080")
def test_what_goes_to_a_device_is_the_device_s(ram: GuestRam) -> None:
    """It is not written before the part that is refused, nor twice."""
    made = Setting(ram, [(DATA, FIRST), (DEVICE, SECOND)])
    made.handlers[k.KVM_EXIT_MMIO]()
    assert (made.owner.told, made.device, made.faults.inexact) == ([DATA], [], 1)

    made.go_on()
    assert (made.owner.told, made.device) == ([DATA, DATA], [])
    made.owner.refuses = False
    made.go_on()

    assert ram.read(DATA, 4) == FIRST
    assert made.device == [(DEVICE, SECOND)]
    assert BEFORE_ENTRY not in made.handlers


@pytest.mark.tlfs("VSM-080", "MISC-008")
def test_what_goes_to_an_overlay_does_not_reach_the_ram_below(ram: GuestRam) -> None:
    """Who refuses writes to the hypercall page is asked as at any exit."""
    covered = DATA + 0x1000
    made = Setting(ram, [(DATA, FIRST), (covered, SECOND)])
    overlay = os.memfd_create("overlay")
    try:
        os.ftruncate(overlay, 0x1000)
        made.view.put_over(made.view.offset_of(covered, 0x1000), overlay, 0, writable=False)
    finally:
        os.close(overlay)
    made.handlers[k.KVM_EXIT_MMIO]()
    made.owner.refuses = False

    made.go_on()

    assert (ram.read(DATA, 4), ram.read(covered, 4)) == (FIRST, bytes(4))
    assert made.device == [(covered, SECOND)]


@pytest.mark.tlfs("VSM-021", "VSM-080")
def test_a_reset_leaves_nothing_to_be_written(ram: GuestRam, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while VTL1 runs, which was told of the write. kvm_run still has the registers of then."""
    blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
    made = Setting(ram, [(DATA, FIRST)])
    vcpu: Any = made.vcpu
    vp: Any = SimpleNamespace(index=0, vcpu=vcpu)
    nothing: Any = None
    host = MappingProtection(ram, blocks, (), [vp], FakeClock(), hardware=False)
    host.adopt(0, nothing, RamView(ram, ram.map_for_kvm()), ())
    rights = MemoryProtections([(0, 4 * MIB)], Told())
    handlers: dict[int, Callable[[], None]] = {k.KVM_EXIT_MMIO: lambda: None}
    host.attach(vp, vcpu, 0, handlers, rights, nothing)
    faults = host._of_vtl0[0]
    for name in ("_memory", "_protections", "_intercepts"):
        monkeypatch.setattr(faults, name, made.owner)
    handlers[k.KVM_EXIT_MMIO]()
    assert made.owner.told == [DATA] and BEFORE_ENTRY in handlers

    host.drop_higher()
    made.owner.refuses = False

    assert BEFORE_ENTRY not in handlers and ram.read(DATA, 4) == bytes(4)
