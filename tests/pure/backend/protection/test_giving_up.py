# SPDX-License-Identifier: Apache-2.0
"""Exits for which rights are no reason, again and again: when that is the end, of what, and what the user is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmapi import KvmError
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import CODE, FakeVcpu, page_tables, processor
from tests.pure.vsm.protected import Told
from vmm.backend.protection import mapping_faults
from vmm.backend.protection.attributes import ATTRIBUTES, Attributes
from vmm.backend.protection.faults import REPEATS, TOLD_AGAIN, AttributeFaults
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.view import ProtectedView
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.vsm.outside import RightsChange
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import NONE, READ

PAGE, GPN = 4096, 0x20


class Processor:
    """Keeps what the run ended with."""

    index = 1

    def __init__(self) -> None:
        self.ended: list[str] = []

    def run_failed(self, error: int, why: str = "") -> None:
        assert error == errno.EFAULT
        self.ended.append(why)


# ---- memory attributes -----------------------------------------------------------------------------------


class Run:
    """KVM_EXIT_MEMORY_FAULT of a read of GPN, with registers."""

    def __init__(self) -> None:
        self.bytes = bytearray(4096)
        self.u8, self.u32 = memoryview(self.bytes), memoryview(self.bytes).cast("I")
        self.u32[2] = k.KVM_EXIT_MEMORY_FAULT
        self.bytes[40:48] = (GPN * PAGE).to_bytes(8, "little")

    def step(self, rcx: int) -> None:
        at = run_page.SYNC_REGS + x86.kvm_regs.rcx.offset
        self.bytes[at : at + 8] = rcx.to_bytes(8, "little")


class Refusing:
    """A kernel that denies the page until it is told otherwise with success."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.has_memory = True

    def __call__(self, vtl: int, gpn: int) -> None:
        self.told.append(gpn)
        if not self.has_memory:
            raise KvmError(errno.ENOMEM, "KVM_SET_MEMORY_ATTRIBUTES")


class Attributed:
    def __init__(self) -> None:
        self.run, self.processor, self.kernel = Run(), Processor(), Refusing()
        rights = MemoryProtections([(0, 64 * PAGE)], Told())
        vcpu: Any = SimpleNamespace(run=self.run)
        anything: Any = self.processor
        nobody: Any = None
        self.faults = AttributeFaults(
            anything, vcpu, 0, rights, nobody, (), self.kernel, tells_instruction=False
        )


def test_the_kernel_is_told_again_before_the_run_ends() -> None:
    made = Attributed()
    made.kernel.has_memory = False

    for _ in range(REPEATS):
        made.faults.fault()
    assert (made.kernel.told, made.processor.ended) == ([GPN], [])
    made.faults.fault()

    assert made.processor.ended == [
        "KVM keeps VTL0 from reading 0x20000, where its rights are rwx: "
        "it had no memory to take the page's attributes back"
    ]


def test_a_loop_that_goes_on_is_no_end() -> None:
    """Another processor changes rights all the time: each turn of a loop may meet a change under way."""
    made = Attributed()

    for turn in range(3 * REPEATS):
        made.run.step(turn // (TOLD_AGAIN - 1))
        made.faults.fault()

    assert (made.kernel.told, made.processor.ended) == ([], [])


def test_a_page_that_was_denied_as_a_whole_is_given_back() -> None:
    told: list[tuple[int, int]] = []
    vm: Any = SimpleNamespace(set_memory_attributes=lambda gpa, size, what: told.append((gpa, what)))
    attributes = Attributes(())
    attributes.adopt(0, vm, [RightsChange(GPN, 1, READ)])
    told.clear()

    attributes.tell_again(0, GPN)
    attributes.tell_again(1, GPN)  # a VTL without a VM

    assert told == [(GPN * PAGE, ATTRIBUTES[READ])]


# ---- mappings --------------------------------------------------------------------------------------------


class Vcpu(FakeVcpu):
    """At an instruction for which KVM_RUN has failed with EFAULT."""

    def __init__(self, cpu: Any) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        self.events = x86.kvm_vcpu_events()
        self.run = SimpleNamespace(u8=bytearray(4096), exit_reason=0)

    def get_cpuid2(self) -> list[x86.kvm_cpuid_entry2]:
        return []

    def get_vcpu_events(self) -> x86.kvm_vcpu_events:
        return x86.kvm_vcpu_events.from_buffer_copy(self.events)

    def set_vcpu_events(self, events: x86.kvm_vcpu_events) -> None:
        self.events = x86.kvm_vcpu_events.from_buffer_copy(events)


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield ram


class Mapped:
    """An instruction at CODE, and a page far from it that the VTL may not use."""

    def __init__(self, ram: GuestRam, code: bytes, ring: int) -> None:
        blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
        view = ProtectedView(RamView(ram, ram.map_for_kvm()), ram, blocks)
        view.apply([RightsChange(0x300, 1, NONE)])
        ram.write(CODE, code + bytes(15))
        self.processor, self.vcpu = Processor(), Vcpu(processor(ram, ring=ring, rdi=0x100000))
        anything: Any = self.processor
        vcpu: Any = self.vcpu
        nobody: Any = None
        self.faults = MappingFaults(
            anything, vcpu, 0, view, UnprotectedMemory(ram), nobody, nobody, nobody, hardware=True
        )
        self.faults.attach({k.KVM_EXIT_MMIO: lambda: None})

    def stop(self, times: int) -> None:
        for _ in range(times):
            self.faults.fault()

    def exception(self) -> int | None:
        """What the guest is to get."""
        return self.vcpu.events.exception.nr if self.vcpu.events.exception.injected else None


LOAD, UNKNOWN = b"\x8b\x07", bytes.fromhex("c4e27b4b0407")  # TILELOADD is beyond capstone


@pytest.mark.parametrize(("code", "ring"), [(LOAD, 3), (UNKNOWN, 3), (UNKNOWN, 0)])
def test_an_instruction_without_a_reason_is_none(ram: GuestRam, code: bytes, ring: int) -> None:
    """One process must not end the machine; an instruction that nobody knows is not there."""
    made = Mapped(ram, code, ring)

    made.stop(mapping_faults.REPEATS)
    assert made.exception() is None
    made.stop(1)

    assert (made.exception(), made.processor.ended) == (6, [])


def test_the_kernel_of_a_guest_ends_the_run_with_its_instruction(ram: GuestRam) -> None:
    made = Mapped(ram, LOAD, 0)

    made.stop(mapping_faults.REPEATS + 1)

    assert made.exception() is None
    assert made.processor.ended == [
        "VTL0 stops at 0x10000, mov eax, dword ptr [rdi] (8b07): "
        "no page that it accesses is a reason in the rights that VTLs have given"
    ]


def test_registers_that_change_are_no_repetition(ram: GuestRam) -> None:
    made = Mapped(ram, LOAD, 0)

    for turn in range(3 * mapping_faults.REPEATS):
        made.vcpu.regs.rcx = turn // 10
        made.stop(1)

    assert (made.exception(), made.processor.ended) == (None, [])
