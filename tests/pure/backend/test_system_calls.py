# SPDX-License-Identifier: Apache-2.0
"""What becomes of a page fault at the kernel's entry point, and of all others."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.emulation.guest import IDT, KERNEL_CS, STACK, USER_CS, USER_SS, Guest, a_guest
from vmm.backend import system_calls
from vmm.backend.emulation import registers as r
from vmm.backend.system_calls import LSTAR, SFMASK, STAR, SystemCalls
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.hypercall.outside import UnprotectedMemory

ENTRY, PROGRAM, PROGRAM_STACK = 0xFFFF_FFFF_8100_0040, 0x40_1002, 0x7FFF_F000
HANDLER = 0xFFFF_FFFF_81A0_1230
PAGE_FAULT, FRAME = 14, STACK - 48
MASK = r.RFLAGS_TF | r.RFLAGS_IF | r.RFLAGS_AC
FLAGS = 2 | r.RFLAGS_IF
BREAK = k.KVM_GUESTDBG_ENABLE | x86.KVM_GUESTDBG_USE_HW_BP
STEP = k.KVM_GUESTDBG_ENABLE | k.KVM_GUESTDBG_SINGLESTEP | x86.KVM_GUESTDBG_BLOCKIRQ


class Watched:
    """A guest in ring 0 whose page fault handler is at HANDLER, and its VP."""

    def __init__(self, guest: Guest, needed: bool) -> None:
        self.guest = guest
        self.vp = VirtualProcessor(0, guest.vcpu, PortBus(), MmioBus(), lambda outcome: None)
        self.calls = SystemCalls(self.vp, UnprotectedMemory(guest.memory), lambda: needed)
        guest.gate(PAGE_FAULT, offset=HANDLER)
        guest.vcpu.set_msrs([(STAR, 0x13 << 48 | 0x10 << 32), (SFMASK, MASK)])

    def write_lstar(self, value: int = ENTRY) -> bool:
        """The guest's WRMSR; False: #GP."""
        run = self.guest.vcpu.run
        struct.pack_into("<B7xIIQ", run.u8, 32, 0, k.KVM_MSR_EXIT_REASON_FILTER, LSTAR, value)
        self.vp.handlers[k.KVM_EXIT_X86_WRMSR]()
        return run.u8[32] == 0

    def fault(
        self, *, rip: int = ENTRY, cs: int = USER_CS, cr2: int = ENTRY, rflags: int = 2, r11: int = FLAGS
    ) -> None:
        """The page fault handler's first instruction, with such a frame: KVM_EXIT_DEBUG."""
        for index, value in enumerate((0x15, rip, cs, rflags, PROGRAM_STACK, USER_SS)):
            self.guest.memory.put(FRAME + 8 * index, value)
        self.guest.set_regs(rip=HANDLER, rsp=FRAME, rcx=PROGRAM, r11=r11)
        self.guest.set_sregs(cr2=cr2)
        self.vp.handlers[k.KVM_EXIT_DEBUG]()

    @property
    def debugging(self) -> list[tuple[int, int, int]]:
        """Each KVM_SET_GUEST_DEBUG: control, DR0, DR7."""
        calls = self.guest.fake.called("KVM_SET_GUEST_DEBUG")
        parts = [struct.unpack("<II8Q", call.argument) for call in calls]
        return [(part[0], part[2], part[9]) for part in parts]


@contextmanager
def watched(bits: int = 64, *, needed: bool = True) -> Iterator[Watched]:
    with a_guest(bits=bits) as guest:
        yield Watched(guest, needed)


def test_writing_lstar_puts_a_breakpoint_at_the_page_fault_handler() -> None:
    with watched() as host:
        assert host.write_lstar()

        assert host.guest.vcpu.get_msrs([LSTAR]) == [(LSTAR, ENTRY)]
        assert host.debugging == [(BREAK, HANDLER, 0x402)]


def test_a_kvm_that_makes_system_calls_itself_needs_no_breakpoint() -> None:
    with watched(needed=False) as host:
        assert host.write_lstar()

        assert host.guest.vcpu.get_msrs([LSTAR]) == [(LSTAR, ENTRY)]
        assert host.debugging == []


def test_an_address_that_kvm_refuses_is_a_general_protection_fault() -> None:
    with watched() as host:
        host.guest.fake.fail("KVM_SET_MSRS", errno.EINVAL)

        assert not host.write_lstar(1 << 63)
        assert host.debugging == []


@pytest.mark.parametrize("idt_limit", [0, 14 * 16 + 14])
def test_without_a_page_fault_handler_there_is_no_breakpoint(idt_limit: int) -> None:
    with watched() as host:
        sregs = host.guest.sregs
        sregs.idt.limit = idt_limit
        host.guest.vcpu.set_sregs(sregs)

        assert host.write_lstar()
        assert host.debugging == [(0, 0, 0)]


def test_an_idt_that_is_not_mapped_counts_as_none() -> None:
    with watched() as host:
        host.guest.change_page(IDT, clear=1)

        assert host.write_lstar()
        assert host.debugging == [(0, 0, 0)]


def test_outside_long_mode_there_is_no_breakpoint() -> None:
    with watched(bits=32) as host:
        assert host.write_lstar()
        assert host.debugging == [(0, 0, 0)]


def test_a_page_fault_at_the_entry_point_becomes_the_system_call() -> None:
    with watched() as host:
        host.write_lstar()

        host.fault()

        regs, sregs = host.guest.regs, host.guest.sregs
        assert (regs.rip, regs.rsp, regs.rflags) == (ENTRY, PROGRAM_STACK, 2)
        assert (regs.rcx, regs.r11) == (PROGRAM, FLAGS)  # as KVM has left them
        assert (sregs.cs.selector, sregs.cs.dpl, sregs.cs.l, sregs.cs.type) == (0x10, 0, 1, 0xB)
        assert (sregs.ss.selector, sregs.ss.dpl, sregs.ss.db, sregs.ss.type) == (0x18, 0, 1, 0x3)
        assert len(host.debugging) == 1  # the breakpoint stays


def test_the_resume_flag_of_the_fault_is_not_the_program_s() -> None:
    with watched() as host:
        host.write_lstar()

        host.fault(rflags=2 | r.RFLAGS_RF)

        assert host.guest.regs.rflags == 2


@pytest.mark.parametrize(
    "other",
    [
        {"rip": PROGRAM},
        {"cr2": 0x1000},
        {"cs": KERNEL_CS},
        {"rflags": FLAGS},  # a program that jumped to the entry point: SYSCALL clears IF
        {"r11": FLAGS | 3 << 12},  # not what SYSCALL would have left
    ],
)
def test_any_other_page_fault_is_the_guest_s(other: dict[str, int]) -> None:
    with watched() as host:
        host.write_lstar()

        host.fault(**other)

        assert (host.guest.regs.rip, host.guest.regs.rsp) == (HANDLER, FRAME)
        assert host.guest.sregs.cs.selector == KERNEL_CS
        assert host.debugging[1:] == [(STEP, 0, 0)]

        host.guest.set_regs(rip=HANDLER + 3)
        host.vp.handlers[k.KVM_EXIT_DEBUG]()
        assert host.debugging[2:] == [(BREAK, HANDLER, 0x402)]


def test_without_if_in_fmask_a_call_cannot_be_told_from_a_jump() -> None:
    with watched() as host:
        host.guest.vcpu.set_msrs([(SFMASK, MASK & ~r.RFLAGS_IF)])
        host.write_lstar()

        host.fault(rflags=FLAGS)

        assert host.guest.regs.rip == HANDLER
        assert host.debugging[1:] == [(STEP, 0, 0)]


def in_a_program(guest: Guest, **registers: int) -> None:
    sregs = guest.sregs
    sregs.cs.dpl = sregs.ss.dpl = 3
    sregs.cs.selector, sregs.ss.selector = USER_CS, USER_SS
    guest.vcpu.set_sregs(sregs)
    guest.set_regs(**registers)


def debug_exit(host: Watched, dr6: int) -> None:
    struct.pack_into("<II3Q", host.guest.vcpu.run.u8, 32, 1, 0, host.guest.regs.rip, dr6, 0)
    host.vp.handlers[k.KVM_EXIT_DEBUG]()


@pytest.mark.parametrize(("dr6", "causes"), [(r.DR6_BS, r.DR6_BS), (r.DR6_BS | 1, r.DR6_BS), (0, 0)])
def test_a_debug_exception_of_a_program_is_given_back(dr6: int, causes: int) -> None:
    """A single step, one that ends at the handler's address with a frame of the program's making, and INT1."""
    with watched() as host:
        host.write_lstar()
        for index, value in enumerate((0x15, ENTRY, USER_CS, 2, PROGRAM_STACK, USER_SS)):
            host.guest.memory.put(FRAME + 8 * index, value)
        in_a_program(host.guest, rip=HANDLER, rsp=FRAME, r11=FLAGS)
        host.guest.set_sregs(cr2=ENTRY)

        debug_exit(host, dr6)

        assert host.guest.exception == (1, None)
        assert host.guest.vcpu.get_debugregs().dr6 == causes
        assert (host.guest.regs.rip, host.guest.sregs.ss.dpl) == (HANDLER, 3)
        assert len(host.debugging) == 1


def test_a_program_that_jumps_to_the_breakpoint_gets_its_page_fault() -> None:
    with watched() as host:
        host.write_lstar()
        in_a_program(host.guest, rip=HANDLER, rsp=PROGRAM_STACK)

        debug_exit(host, 1)

        assert host.guest.exception == (14, 0x15)
        assert host.guest.sregs.cr2 == HANDLER
        assert host.guest.sregs.ss.dpl == 3


def test_a_gate_that_is_not_present_is_no_handler() -> None:
    with watched() as host:
        host.guest.gate(PAGE_FAULT, offset=HANDLER, present=0)

        assert host.write_lstar()
        assert host.debugging == [(0, 0, 0)]


def test_a_stack_that_cannot_be_read_is_the_guest_s_affair() -> None:
    with watched() as host:
        host.write_lstar()
        host.guest.change_page(FRAME, clear=1)

        host.guest.set_regs(rip=HANDLER, rsp=FRAME)
        host.vp.handlers[k.KVM_EXIT_DEBUG]()

        assert host.debugging[1:] == [(STEP, 0, 0)]


def test_a_reset_takes_the_breakpoint_away_once() -> None:
    with watched() as host:
        host.calls.reset()
        assert host.debugging == []
        host.write_lstar()

        host.calls.reset()
        host.calls.reset()

        assert host.debugging[1:] == [(0, 0, 0)]


def test_only_writes_of_lstar_leave_the_guest() -> None:
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        system_calls.watch(vm)

    (call,) = fake.called("KVM_X86_SET_MSR_FILTER")
    flags, count, base = struct.unpack_from("<III", call.argument, 8)
    assert (flags, count, base) == (x86.KVM_MSR_FILTER_WRITE, 1, LSTAR)
