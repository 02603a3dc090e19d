# SPDX-License-Identifier: Apache-2.0
"""Writes of an instruction that cannot be made again, of which not all go to RAM."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmapi import run as run_page
from kvmapi.run import KvmRun
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import CODE, FakeVcpu, page_tables, processor
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

DATA, DEVICE, PAGE = 0x100000, 0xFEB0_0000, 0x1000
REGS = slice(run_page.SYNC_REGS, run_page.SYNC_REGS + ctypes.sizeof(x86.kvm_regs))
SREGS = slice(REGS.stop, REGS.stop + ctypes.sizeof(x86.kvm_sregs))
DIRTY_U64 = run_page.DIRTY_REGS // 8
FIRST, SECOND = b"\x11" * 4, b"\x22" * 4
Part = tuple[int, bytes]


class Vcpu(FakeVcpu):
    """Of which KVM tells `parts` of a write by KVM_EXIT_MMIO, one at each `run_once`."""

    def __init__(self, cpu: Any, parts: list[Part]) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        self.run = KvmRun(mmap.mmap(-1, 3 * mmap.PAGESIZE), "a vCPU")
        self.vcpu_id, self._parts, self.events = 0, list(parts), x86.kvm_vcpu_events()
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
        return self.events

    def set_regs(self, regs: x86.kvm_regs) -> None:
        self.regs = x86.kvm_regs.from_buffer_copy(regs)

    def set_sregs(self, sregs: x86.kvm_sregs) -> None:
        self.sregs = x86.kvm_sregs.from_buffer_copy(sregs)


class Owner:
    """The VTL above, its rights and what it is told."""

    def __init__(self, ram: GuestRam) -> None:
        self._memory = UnprotectedMemory(ram)
        self.refuses = True
        self.told: list[int] = []
        self.accesses: list[MemoryAccess] = []

    def write(self, gpa: int, data: Buffer) -> None:
        if self.refusing(0, gpa, len(data), 0) is not None:
            raise AccessInterceptedError(gpa, True)
        self._memory.write(gpa, data)

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        return Refused(1, gpa) if self.refuses and gpa >> 12 == DATA >> 12 else None

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        self.told.append(access.gpa)
        self.accesses.append(access)


class Setting:
    """An instruction has left `parts` to be written: one that nobody finds, but for `registers` behind it."""

    def __init__(self, ram: GuestRam, parts: list[Part], **registers: int) -> None:
        blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
        self.view = ProtectedView(RamView(ram, ram.map_for_kvm()), ram, blocks)
        self.view.apply([RightsChange(DATA >> 12, 1, READ | EXECUTE)])
        self.vcpu, self.owner = Vcpu(processor(ram, **registers), parts), Owner(ram)
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


ADD = bytes.fromhex("480107")
BEFORE, BEHIND = CODE, CODE + len(ADD)


def addition(ram: GuestRam) -> Setting:
    """add %rax, (%rdi): 8 bytes, of which the second half, in a page that may be written, is written."""
    ram.write(CODE, ADD)
    registers = {"rip": BEHIND, "rdi": DATA + PAGE - 4, "rax": 5, "rflags": 6}
    made = Setting(ram, [(DATA + PAGE - 4, b"\5\0\0\0")], **registers)
    made.vcpu.run.u8[REGS] = bytes(made.vcpu.regs)
    made.handlers[k.KVM_EXIT_MMIO]()
    return made


@pytest.mark.tlfs("VSM-080")
def test_what_was_read_and_half_written_is_not_done_twice(ram: GuestRam) -> None:
    """Its owner sees the instruction and the registers before it, and the VTL goes on behind it."""
    made = addition(ram)
    assert (made.owner.told, made.faults.inexact) == ([DATA + PAGE - 4], 0)
    (access,) = made.owner.accesses
    assert (access.gva, access.instruction) == (DATA + PAGE - 4, ADD)
    assert (made.vcpu.regs.rip, made.vcpu.run.regs.rip) == (BEFORE, BEFORE)

    made.go_on()
    assert len(made.owner.told) == 2 and made.vcpu.run.regs.rip == BEFORE
    made.owner.refuses = False
    made.vcpu.run.regs.rbx = 0x77  # the owner's
    made.go_on()

    assert ram.read(DATA + PAGE - 4, 8) == b"\5" + bytes(7)
    assert (made.vcpu.regs.rip, made.vcpu.regs.rbx) == (BEHIND, 0x77)
    assert BEFORE_ENTRY not in made.handlers


@pytest.mark.tlfs("VSM-060", "VSM-080")
def test_cr2_that_the_higher_vtl_has_left_is_not_lost(ram: GuestRam) -> None:
    """A VTL switch leaves it in kvm_run, for KVM to take."""
    made = addition(ram)
    made.owner.refuses = False
    made.vcpu.run.u8[SREGS] = bytes(made.vcpu.sregs)
    made.vcpu.run.sregs.cr2 = 0x1234
    made.vcpu.run.u64[DIRTY_U64] = x86.KVM_SYNC_X86_REGS | x86.KVM_SYNC_X86_SREGS

    made.go_on()

    assert made.vcpu.run.regs.rip == BEHIND
    assert (made.vcpu.run.sregs.cr2, made.vcpu.sregs.cr2) == (0x1234, 0x1234)


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("how", ["skipped", "an exception instead"])
def test_what_a_higher_vtl_ends_is_not_written(ram: GuestRam, how: str) -> None:
    made = addition(ram)
    made.owner.refuses = False
    if how == "skipped":
        made.vcpu.run.regs.rip = BEHIND
    else:
        made.vcpu.events.exception.pending = 1

    made.go_on()

    assert ram.read(DATA + PAGE - 4, 4) == bytes(4)
    assert made.vcpu.run.regs.rip == (BEHIND if how == "skipped" else BEFORE)
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
    monkeypatch.setattr(faults, "_intercepts", made.owner)
    for name in ("_memory", "_protections"):
        monkeypatch.setattr(faults._writes, name, made.owner)
    handlers[k.KVM_EXIT_MMIO]()
    assert made.owner.told == [DATA] and BEFORE_ENTRY in handlers

    host.drop_higher()
    made.owner.refuses = False

    assert BEFORE_ENTRY not in handlers and ram.read(DATA, 4) == bytes(4)
