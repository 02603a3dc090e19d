# SPDX-License-Identifier: Apache-2.0
"""What a step makes sure of before it lets pages into a VTL's mapping."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import CODE, IDT, FakeVcpu, page_tables, processor
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.stepping import Stepper
from vmm.backend.protection.touches import of_instruction
from vmm.backend.protection.view import ProtectedView
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.vsm.outside import RightsChange
from vmm.vsm.rights import NONE, READ, WRITE

GPN = 0x100
SFMASK, DEBUGCTL, TF, BTF = 0xC000_0084, 0x1D9, 0x100, 2
DR6_FIXED, BS = 0xFFFF_0FF0, 1 << 14
LOAD, STORE = b"\x48\x8b\x07", b"\x48\x89\x07"


class Others:
    """Other VPs, which write into memory until they are kept out (`vmm.backend.protection.alone.Alone`)."""

    def __init__(self, ram: GuestRam, at: int, data: bytes) -> None:
        self._ram, self._at, self._data = ram, at, data

    def begin(self, processor: Any) -> bool:
        self._ram.write(self._at, self._data)
        return True

    def end(self, processor: Any) -> None: ...


class Vcpu:
    """Nothing but the place of a request to leave; `entered` is raised where a step looks at it further."""

    class EnteredError(Exception):
        """The step is going to be made."""

    def __init__(self) -> None:
        self.run = SimpleNamespace(u8=bytearray(8))

    def get_debugregs(self) -> None:
        raise self.EnteredError


class StepVcpu(FakeVcpu):
    """A processor that steps over a SYSCALL."""

    def __init__(self, cpu: Processor, msrs: dict[int, int]) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        page = bytearray(4096)
        self.run = SimpleNamespace(
            u8=page, u64=memoryview(page).cast("Q"), exit_reason=k.KVM_EXIT_DEBUG, regs=None, sregs=None
        )
        self.vcpu_id, self.msrs, self.in_the_step = 0, msrs, dict[int, int]()
        self.signals = 2

    def get_msrs(self, msrs: list[int]) -> list[tuple[int, int]]:
        return [(msr, self.msrs[msr]) for msr in msrs]

    def set_msrs(self, values: list[tuple[int, int]]) -> None:
        self.msrs.update(values)

    def get_debugregs(self) -> x86.kvm_debugregs:
        return x86.kvm_debugregs()

    def set_guest_debug(self, control: int) -> None: ...

    def set_regs(self, regs: x86.kvm_regs) -> None:
        self.regs = x86.kvm_regs.from_buffer_copy(regs)

    def run_once(self) -> int:
        assert not self.run.u8[1]
        self.run.u8[1] = 1
        if self.signals:
            self.signals -= 1
            return errno.EINTR
        self.in_the_step = dict(self.msrs)
        self.regs.rip, self.regs.r11, self.regs.rflags = 0x5000, self.regs.rflags | TF, 2
        return 0


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        yield ram


@pytest.mark.tlfs("VSM-078")
@pytest.mark.parametrize(
    ("at", "data", "entered"),
    [
        (CODE, LOAD, True),
        (CODE, STORE, False),  # another instruction
        (0x4000 + 8 * GPN, (0x101000 | 0x67).to_bytes(8, "little"), False),  # another page behind the address
    ],
)
def test_what_others_have_changed_since_it_was_looked_at_is_not_carried_out(
    ram: GuestRam, at: int, data: bytes, entered: bool
) -> None:
    view = ProtectedView(
        RamView(ram, ram.map_for_kvm()), ram, [(b.gpa, b.size, b.offset) for b in ram.blocks]
    )
    view.apply([RightsChange(GPN, 1, READ | WRITE)])
    ram.write(CODE, LOAD)
    cpu, vcpu = processor(ram, rdi=GPN << 12), Vcpu()
    touches = of_instruction(cpu, view)
    others: Any = Others(ram, at, data)
    any_vcpu: Any = vcpu
    nobody: Any = None
    stepper = Stepper(nobody, any_vcpu, view, UnprotectedMemory(ram), others, hardware=True)

    def step() -> None:
        stepper.step(cpu, touches, {GPN: READ}, frozenset(), lambda: True)

    if entered:
        with pytest.raises(Vcpu.EnteredError):
            step()
    else:
        step()
        assert vcpu.run.u8[1]  # it is tried again, by way of whoever wants the VP to leave


@pytest.mark.tlfs("VSM-078")
def test_a_guest_cannot_keep_a_step_from_ending(ram: GuestRam) -> None:
    """Nor does it find its trap flag where SYSCALL saves the flags. Signals do not leave a step half done."""
    view = ProtectedView(
        RamView(ram, ram.map_for_kvm()), ram, [(b.gpa, b.size, b.offset) for b in ram.blocks]
    )
    view.apply([RightsChange(GPN, 1, READ | WRITE)])
    ram.write(CODE, b"\x0f\x05")
    cpu = processor(ram)
    vcpu = StepVcpu(cpu, {SFMASK: 0x4700, DEBUGCTL: BTF})
    others: Any = Others(ram, CODE, b"\x0f\x05")
    any_vcpu: Any = vcpu
    nobody: Any = None
    stepper = Stepper(nobody, any_vcpu, view, UnprotectedMemory(ram), others, hardware=True)

    stepper.step(cpu, of_instruction(cpu, view), {GPN: READ}, frozenset(), lambda: True)

    assert stepper.steps == 1 and vcpu.run.u8[1]  # what the signals were about is looked at next
    assert vcpu.in_the_step == {SFMASK: 0x4600, DEBUGCTL: 0}
    assert vcpu.msrs == {SFMASK: 0x4700, DEBUGCTL: BTF}
    assert (vcpu.regs.rip, vcpu.regs.r11) == (0x5000, 2)


class BreakingVcpu(StepVcpu):
    """A processor whose step ends with `status` in the DR6 of the exit; the guest's DR6 has B3 of an earlier one."""

    def __init__(self, cpu: Processor, status: int, dr7: int) -> None:
        super().__init__(cpu, {SFMASK: 0, DEBUGCTL: 0})
        self.status, self.signals = status, 0
        self.debug = x86.kvm_debugregs(dr6=DR6_FIXED | 8, dr7=dr7)
        self.events = x86.kvm_vcpu_events()

    def get_debugregs(self) -> x86.kvm_debugregs:
        return x86.kvm_debugregs.from_buffer_copy(self.debug)

    def set_debugregs(self, debug: x86.kvm_debugregs) -> None:
        self.debug = x86.kvm_debugregs.from_buffer_copy(debug)

    def get_vcpu_events(self) -> x86.kvm_vcpu_events:
        return x86.kvm_vcpu_events.from_buffer_copy(self.events)

    def set_vcpu_events(self, events: x86.kvm_vcpu_events) -> None:
        self.events = x86.kvm_vcpu_events.from_buffer_copy(events)

    def run_once(self) -> int:
        if self.status & BS:
            self.regs.rip += len(LOAD)
        self.run.u64[(32 + 16) // 8] = DR6_FIXED | self.status
        return 0


@pytest.mark.tlfs("VSM-078")
@pytest.mark.parametrize(
    ("status", "dr7", "traced", "dr6"),
    [
        (BS, 0, False, None),
        (BS, 0, True, 8 | BS),
        (BS | 1, 0x01, False, 1),
        (BS | 1, 0x02, False, 1),  # enabled for all tasks
        (BS | 5, 0x10, False, 5),  # a processor tells of those that are not enabled as well
        (BS | 1, 0x10, False, None),  # but not of them alone
        (BS | 2, 0x04, True, 2 | BS),
        (1, 0x01, False, 1),  # before the instruction, which is not carried out
    ],
)
def test_a_breakpoint_of_the_guests_own_is_its(
    ram: GuestRam, status: int, dr7: int, traced: bool, dr6: int | None
) -> None:
    """dr6: what the guest's #DB has there; None: there is no #DB."""
    view = ProtectedView(
        RamView(ram, ram.map_for_kvm()), ram, [(b.gpa, b.size, b.offset) for b in ram.blocks]
    )
    view.apply([RightsChange(GPN, 1, READ | WRITE)])
    ram.write(CODE, LOAD)
    cpu = processor(ram, rdi=GPN << 12, rflags=2 | (TF if traced else 0))
    vcpu = BreakingVcpu(cpu, status, dr7)
    others: Any = Others(ram, CODE, LOAD)
    any_vcpu: Any = vcpu
    nobody: Any = None
    stepper = Stepper(nobody, any_vcpu, view, UnprotectedMemory(ram), others, hardware=True)

    stepper.step(cpu, of_instruction(cpu, view), {GPN: READ}, frozenset(), lambda: True)

    assert stepper.steps == (1 if status & BS else 0)
    assert vcpu.debug.dr6 == DR6_FIXED | (8 if dr6 is None else dr6)
    raised = vcpu.events.exception
    assert (raised.injected, raised.nr) == ((0, 0) if dr6 is None else (1, x86.DB_VECTOR))


class ShieldedVcpu(FakeVcpu):
    """A vCPU whose IDT a step may change."""

    def __init__(self, cpu: Processor) -> None:
        super().__init__(cpu.regs, cpu.sregs)
        self.run = SimpleNamespace(u8=bytearray(8), sregs=x86.kvm_sregs())
        self.limits: list[int] = []

    def get_debugregs(self) -> x86.kvm_debugregs:
        return x86.kvm_debugregs()

    def set_sregs(self, sregs: x86.kvm_sregs) -> None:
        self.sregs = x86.kvm_sregs.from_buffer_copy(sregs)
        self.limits.append(int(sregs.idt.limit))


@pytest.mark.tlfs("VSM-078")
def test_a_right_that_is_gone_leaves_the_guest_its_idt(ram: GuestRam) -> None:
    """Another VP has taken the page away since the exit. The IDT was out of reach already, for the step."""
    view = ProtectedView(
        RamView(ram, ram.map_for_kvm()), ram, [(b.gpa, b.size, b.offset) for b in ram.blocks]
    )
    ram.write(CODE, LOAD)
    cpu = processor(ram, rdi=GPN << 12)
    vcpu = ShieldedVcpu(cpu)
    touches = of_instruction(cpu, view)
    view.apply([RightsChange(GPN, 1, NONE)])
    others: Any = Others(ram, CODE, LOAD)
    any_vcpu: Any = vcpu
    nobody: Any = None
    stepper = Stepper(nobody, any_vcpu, view, UnprotectedMemory(ram), others, hardware=False)

    stepper.step(cpu, touches, {GPN: READ}, frozenset(), lambda: True)

    assert vcpu.limits == [0, 4095] and vcpu.sregs.idt.limit == 4095
    assert (vcpu.run.sregs.idt.base, vcpu.run.sregs.idt.limit) == (IDT, 4095)
    assert stepper.steps == 0 and not stepper.failed


@pytest.mark.tlfs("VSM-078")
def test_flags_pushed_to_a_device_are_the_device_s(ram: GuestRam) -> None:
    """There is no memory in which the step's trap flag could be taken back; the guest goes on."""
    device, top = 0xFEB0_0000, GPN << 12
    ram.write(0x4000 + 8 * (GPN - 1), (device | 0x67).to_bytes(8, "little"))
    view = ProtectedView(
        RamView(ram, ram.map_for_kvm()), ram, [(b.gpa, b.size, b.offset) for b in ram.blocks]
    )
    view.apply([RightsChange(GPN, 1, READ | WRITE)])
    ram.write(CODE, b"\x9c")
    cpu = processor(ram, rsp=top)
    vcpu = StepVcpu(cpu, {SFMASK: 0, DEBUGCTL: 0})
    others: Any = Others(ram, CODE, b"\x9c")
    any_vcpu: Any = vcpu
    nobody: Any = None
    stepper = Stepper(nobody, any_vcpu, view, UnprotectedMemory(ram), others, hardware=True)

    stepper.step(cpu, of_instruction(cpu, view), {GPN: READ}, frozenset(), lambda: True)

    assert stepper.steps == 1
