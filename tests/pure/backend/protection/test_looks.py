# SPDX-License-Identifier: Apache-2.0
"""A VTL that may be stuck is looked at on its way into the guest, with the registers that it is going on with."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmapi import run as run_page
from kvmapi.run import KvmRun
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import CODE, FakeVcpu, page_tables, processor
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.view import ProtectedView
from vmm.backend.vp import AFTER_KICK
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.vsm.outside import MemoryAccess, Refused, RightsChange
from vmm.vsm.rights import NONE

DATA, OTHER = 0x100000, 0x110000
STORE_GDTR = b"\x0f\x01\x07"  # sgdt [rdi]


class Vcpu(FakeVcpu):
    """`enter` is the beginning of KVM_RUN, which takes changed registers."""

    def __init__(self, cpu: Any) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        self.run = KvmRun(mmap.mmap(-1, 3 * mmap.PAGESIZE), "a vCPU")
        self.mp_state = k.KVM_MP_STATE_RUNNABLE

    def write_rdi(self, value: int) -> None:
        """As another VP's HvCallSetVpRegisters does, and a VTL switch."""
        self.run.u8[run_page.SYNC_REGS : run_page.SYNC_REGS + len(bytes(self.regs))] = bytes(self.regs)
        self.run.regs.rdi = value
        self.run.u64[run_page.DIRTY_REGS // 8] |= x86.KVM_SYNC_X86_REGS

    def enter(self) -> None:
        if self.run.u64[run_page.DIRTY_REGS // 8]:
            self.regs = x86.kvm_regs.from_buffer_copy(self.run.regs)
            self.run.u64[run_page.DIRTY_REGS // 8] = 0

    def get_mp_state(self) -> int:
        return self.mp_state

    def get_cpuid2(self) -> list[x86.kvm_cpuid_entry2]:
        return []

    def get_vcpu_events(self) -> x86.kvm_vcpu_events:
        return x86.kvm_vcpu_events()

    def set_regs(self, regs: x86.kvm_regs) -> None:
        self.regs = x86.kvm_regs.from_buffer_copy(regs)


class Setting:
    """SGDT, and a page that it may not write to."""

    def __init__(self, ram: GuestRam) -> None:
        blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
        view = ProtectedView(RamView(ram, ram.map_for_kvm()), ram, blocks)
        view.apply([RightsChange(DATA >> 12, 1, NONE)])
        ram.write(CODE, STORE_GDTR)
        self.vcpu = Vcpu(processor(ram, rdi=DATA))
        self.told: list[int] = []
        vp: Any = SimpleNamespace(index=0, vcpu=self.vcpu)
        vcpu: Any = self.vcpu
        owner: Any = self
        nobody: Any = None
        self.faults = MappingFaults(
            vp, vcpu, 0, view, UnprotectedMemory(ram), owner, owner, nobody, hardware=False
        )
        self.handlers: dict[int, Callable[[], None]] = {k.KVM_EXIT_MMIO: lambda: None}
        self.faults.attach(self.handlers)

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        return Refused(1, gpa) if gpa >> 12 == DATA >> 12 else None

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        self.told.append(access.gpa)

    def go_on(self) -> bool:
        """Whether KVM_RUN comes back at once."""
        self.vcpu.run.u8[1] = 0
        self.handlers[AFTER_KICK]()
        self.vcpu.enter()
        return bool(self.vcpu.run.u8[1])


@pytest.fixture
def setting() -> Iterator[Setting]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield Setting(ram)


@pytest.mark.tlfs("VSM-080")
def test_it_is_told_of_once(setting: Setting) -> None:
    assert setting.faults.look()

    setting.go_on()
    setting.go_on()

    assert setting.told == [DATA]


@pytest.mark.tlfs("VSM-080")
def test_registers_that_are_on_their_way_to_kvm_are_waited_for(setting: Setting) -> None:
    """Another VP has sent it elsewhere: it is not told of an access that it will not make, and no register is lost."""
    assert setting.faults.look()
    setting.vcpu.write_rdi(OTHER)

    assert setting.go_on()  # to be asked again
    setting.go_on()

    assert setting.told == [] and setting.vcpu.regs.rdi == OTHER


@pytest.mark.tlfs("VSM-080")
def test_it_is_looked_at_with_registers_that_have_just_been_written(setting: Setting) -> None:
    setting.vcpu.regs.rdi = OTHER
    assert setting.faults.look()
    setting.vcpu.write_rdi(DATA)

    setting.go_on()
    setting.go_on()

    assert setting.told == [DATA]


@pytest.mark.tlfs("VSM-080")
def test_a_processor_that_waits_for_its_start_is_not_asked_again(setting: Setting) -> None:
    """Its KVM_RUN takes no registers before SIPI has come: it would come back again and again."""
    assert setting.faults.look()
    setting.vcpu.mp_state = k.KVM_MP_STATE_UNINITIALIZED
    setting.vcpu.write_rdi(OTHER)

    assert not setting.go_on()
    setting.go_on()

    assert setting.told == []
