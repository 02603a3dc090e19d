# SPDX-License-Identifier: Apache-2.0
"""Guests of a few instructions: each way out of KVM_RUN that any KVM can be made to take."""

from __future__ import annotations

import os
import select
import time
from struct import pack

import pytest

from kvmapi import Kvm, MsrRange, Vm
from kvmapi import exit_types as exits
from kvmapi.uapi.kvm import (
    KVM_CAP_COALESCED_PIO,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_SYNC_REGS,
    KVM_CAP_X86_USER_SPACE_MSR,
    KVM_DIRTY_GFN_F_DIRTY,
    KVM_DIRTY_GFN_F_RESET,
    KVM_GUESTDBG_ENABLE,
    KVM_GUESTDBG_SINGLESTEP,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_MSR_EXIT_REASON_FILTER,
)
from kvmapi.uapi.x86 import (
    KVM_IRQCHIP_PIC_MASTER,
    KVM_SYNC_X86_EVENTS,
    KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS,
)
from tests.host.kvmapi.guest import CODE, Guest

pytestmark = pytest.mark.host

# Where no RAM is: 1 MiB - 64 KiB, reachable with segment 0xF000.
NO_RAM = 0xF0000
DS_NO_RAM = "b800f0 8ed8"  # mov ax, 0xf000; mov ds, ax
HLT = "f4"


def test_port_output(vm: Vm) -> None:
    with Guest(vm, "b02a e680" + HLT) as guest:  # mov al, 42; out 0x80, al
        assert str(guest.run()) == "IO: out port 0x80, 1 byte: 2a"
        assert isinstance(guest.run(), exits.HltExit)


def test_port_input_is_answered_through_the_mapping(vm: Vm) -> None:
    with Guest(vm, "baf80366 ed 66ef" + HLT) as guest:  # mov dx, 0x3f8; in eax, dx; out dx, eax
        first = guest.run()
        guest.vcpu.run.io_data()[:] = b"\x78\x56\x34\x12"
        second = guest.run()

    assert str(first) == "IO: in port 0x3f8, 4 bytes"
    assert str(second) == "IO: out port 0x3f8, 4 bytes: 78563412"


def test_string_output(vm: Vm) -> None:
    # mov si, 0x1000; mov cx, 3; mov dx, 0xe9; rep outsb: the first three bytes of the code itself
    with Guest(vm, "be0010 b90300 bae900 f36e" + HLT) as guest:
        data = b""
        while isinstance(exit_ := guest.run(), exits.IoExit):
            assert exit_.port == 0xE9
            data += exit_.data

    assert data == bytes.fromhex("be0010")


def test_mmio_write_and_read(vm: Vm) -> None:
    # mov byte [0x10], 0x5a; mov ax, [0x20]; out 0x80, ax
    with Guest(vm, DS_NO_RAM + "c60610005a a12000 e780" + HLT) as guest:
        write = guest.run()
        read = guest.run()
        guest.vcpu.run.struct.mmio.data[:2] = (0x34, 0x12)
        out = guest.run()

    assert str(write) == f"MMIO: write 1 byte at gpa {NO_RAM + 0x10:#x}: 5a"
    assert str(read) == f"MMIO: read 2 bytes at gpa {NO_RAM + 0x20:#x}"
    assert str(out) == "IO: out port 0x80, 2 bytes: 3412"


def test_write_to_a_read_only_slot_is_mmio_and_changes_nothing(vm: Vm) -> None:
    # mov byte [0x2000], 0x5a; the page holds 0
    with Guest(vm, "c60600205a" + HLT, flags=KVM_MEM_READONLY) as guest:
        exit_ = guest.run()

        assert str(exit_) == "MMIO: write 1 byte at gpa 0x2000: 5a"
        assert guest.ram[0x2000] == 0


def test_triple_fault(vm: Vm) -> None:
    # ud2 in protected mode with an empty IDT. (In real mode KVM's emulator does not look at the limit.)
    with Guest(vm, "0f0b") as guest:
        sregs = guest.vcpu.get_sregs()
        sregs.cr0 |= 1
        sregs.idt.limit = 0
        for segment, kind in ((sregs.cs, 0xB), (sregs.ds, 3), (sregs.es, 3), (sregs.ss, 3)):
            segment.selector, segment.limit = 8, 0xFFFFFFFF
            segment.type, segment.s, segment.present, segment.db, segment.g = kind, 1, 1, 1, 1
        guest.vcpu.set_sregs(sregs)

        assert str(guest.run()) == "SHUTDOWN: the guest triple-faulted"


def test_running_where_there_is_no_memory_is_an_internal_error(vm: Vm) -> None:
    with Guest(vm, "ea000000f0") as guest:  # jmp 0xf000:0
        exit_ = guest.run()

    assert isinstance(exit_, exits.InternalErrorExit)
    assert str(exit_).startswith("INTERNAL_ERROR: EMULATION")


def test_single_step(vm: Vm) -> None:
    with Guest(vm, "90 90" + HLT) as guest:  # nop; nop
        guest.vcpu.set_guest_debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)
        exit_ = guest.run()

    assert isinstance(exit_, exits.DebugExit)
    assert (exit_.exception, exit_.pc) == (1, CODE + 1)


def test_interrupt_window_and_injection_without_irqchip(vm: Vm) -> None:
    # sti; jmp $; the handler of vector 0x40 at 0x2000: out 0x80, al; hlt
    with Guest(vm, "fb ebfe") as guest:
        guest.ram[0x40 * 4 : 0x40 * 4 + 4] = pack("<HH", 0x2000, 0)
        guest.ram[0x2000:0x2003] = bytes.fromhex("e680f4")
        guest.vcpu.run.struct.request_interrupt_window = 1

        first = guest.run()
        guest.vcpu.run.struct.request_interrupt_window = 0
        guest.vcpu.interrupt(0x40)
        second = guest.run()

    assert isinstance(first, exits.IrqWindowOpenExit)
    assert str(second).startswith("IO: out port 0x80")


def test_filtered_msr_accesses_exit(vm: Vm) -> None:
    vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER)
    vm.set_msr_filter([MsrRange(0x40000000, 16, filtered=frozenset({0x40000001}))])
    # mov ecx, 0x40000001; rdmsr; out 0x80, eax; inc eax; wrmsr; hlt
    with Guest(vm, "66b901000040 0f32 66e780 6640 0f30" + HLT) as guest:
        read = guest.run()
        guest.vcpu.run.struct.msr.data = 0x11223344
        out = guest.run()
        write = guest.run()
        end = guest.run()

    assert str(read) == "X86_RDMSR: MSR 0x40000001, filtered"
    assert str(out) == "IO: out port 0x80, 4 bytes: 44332211"
    assert str(write) == "X86_WRMSR: MSR 0x40000001 = 0x11223345, filtered"
    assert isinstance(end, exits.HltExit)


def test_msr_access_refused_by_the_vmm_is_a_general_protection_fault(vm: Vm) -> None:
    vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER)
    vm.set_msr_filter([MsrRange(0x40000000, 16)])
    with Guest(vm, "66b901000040 0f32" + HLT) as guest:
        guest.ram[13 * 4 : 13 * 4 + 4] = pack("<HH", 0x2000, 0)  # vector 13: out 0x81, al; hlt
        guest.ram[0x2000:0x2003] = bytes.fromhex("e681f4")
        guest.run()
        guest.vcpu.run.struct.msr.error = 1

        assert str(guest.run()).startswith("IO: out port 0x81")


def test_registers_travel_in_kvm_run(kvm: Kvm, vm: Vm) -> None:
    everything = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS
    assert kvm.check_extension(KVM_CAP_SYNC_REGS) & everything == everything
    # mov cx, 0x1234; out 0x80, al; mov ax, bx; out 0x80, ax; hlt
    with Guest(vm, "b93412 e680 89d8 e780" + HLT) as guest:
        run = guest.vcpu.run
        run.sync(everything)
        guest.run()
        seen = (run.regs.rcx & 0xFFFF, run.sregs.cr0 & 1, run.events.exception.injected)
        run.regs.rbx = 0xBEEF
        run.sync(everything, KVM_SYNC_X86_REGS)
        second = guest.run()
        dirty_after = run.u64[296 // 8]

    assert seen == (0x1234, 0, 0)
    assert str(second) == "IO: out port 0x80, 2 bytes: efbe"
    assert dirty_after == 0  # KVM takes dirty registers once


def test_ioeventfd_takes_a_port_write_without_an_exit(vm: Vm) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    vm.ioeventfd(event, 0x510, 2, datamatch=7, pio=True)
    # mov dx, 0x510; mov ax, 7; out dx, ax; mov ax, 8; out dx, ax
    with Guest(vm, "ba1005 b80700 ef b80800 ef" + HLT) as guest:
        exit_ = guest.run()

        assert os.eventfd_read(event) == 1
        assert str(exit_) == "IO: out port 0x510, 2 bytes: 0800"  # another value does exit
        vm.ioeventfd(event, 0x510, 2, datamatch=7, pio=True, deassign=True)
        guest.start(CODE)
        assert str(guest.run()) == "IO: out port 0x510, 2 bytes: 0700"
    os.close(event)


def test_ioeventfd_takes_an_mmio_write(vm: Vm) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    vm.ioeventfd(event, NO_RAM + 0x10, 1)
    with Guest(vm, DS_NO_RAM + "c60610005a" + HLT) as guest:
        exit_ = guest.run()

    assert isinstance(exit_, exits.HltExit)
    assert os.eventfd_read(event) == 1
    os.close(event)


def test_coalesced_mmio_writes_wait_in_the_ring(vm: Vm) -> None:
    vm.register_coalesced_mmio(NO_RAM, 0x100)
    # mov byte [0x10], 0x5a; mov byte [0x11], 0x5b; hlt
    with Guest(vm, DS_NO_RAM + "c60610005a c60611005b" + HLT) as guest:
        exit_ = guest.run()
        writes = guest.vcpu.run.coalesced()
        vm.unregister_coalesced_mmio(NO_RAM, 0x100)
        guest.start(CODE)
        again = guest.run()

    assert isinstance(exit_, exits.HltExit)
    assert writes == [(NO_RAM + 0x10, b"\x5a", False), (NO_RAM + 0x11, b"\x5b", False)]
    assert isinstance(again, exits.MmioExit)


def test_coalesced_port_writes_wait_in_the_ring(kvm: Kvm, vm: Vm) -> None:
    assert kvm.check_extension(KVM_CAP_COALESCED_PIO) == 1
    vm.register_coalesced_pio(0x80, 1)
    with Guest(vm, "b02a e680" + HLT) as guest:
        exit_ = guest.run()
        writes = guest.vcpu.run.coalesced()

    assert isinstance(exit_, exits.HltExit)
    assert writes == [(0x80, b"\x2a", True)]


def test_irqfd_raises_its_line(vm: Vm) -> None:
    vm.create_irqchip()
    event = os.eventfd(0, os.EFD_CLOEXEC)
    vm.irqfd(event, 4)

    os.eventfd_write(event, 1)

    deadline = time.monotonic() + 5
    while not vm.get_irqchip(KVM_IRQCHIP_PIC_MASTER).chip.pic.irr & 1 << 4:
        assert time.monotonic() < deadline, "the interrupt did not arrive at the PIC"
        time.sleep(0.001)
    vm.irqfd(event, 4, deassign=True)
    os.close(event)


def test_interrupt_line_reaches_the_chips(vm: Vm) -> None:
    vm.create_irqchip()

    vm.irq_line(5, 1)

    assert vm.get_irqchip(KVM_IRQCHIP_PIC_MASTER).chip.pic.irr == 1 << 5


def test_dirty_log_has_the_pages_that_the_guest_wrote(vm: Vm) -> None:
    # mov byte [0x3000], 1; mov byte [0x5000], 1
    with Guest(vm, "c606003001 c606005001" + HLT, flags=KVM_MEM_LOG_DIRTY_PAGES) as guest:
        vm.get_dirty_log(0, 16)
        guest.run()
        bitmap = int.from_bytes(vm.get_dirty_log(0, 16), "little")
        again = int.from_bytes(vm.get_dirty_log(0, 16), "little")

    assert bitmap & (1 << 3 | 1 << 5 | 1 << 7) == 1 << 3 | 1 << 5
    assert again == 0


def test_dirty_ring_has_the_pages_that_the_guest_wrote(kvm: Kvm, vm: Vm) -> None:
    size = 4096 * 16
    assert kvm.check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) >= size
    vm.enable_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, size)
    with Guest(vm, "c606003001 c606005001" + HLT, flags=KVM_MEM_LOG_DIRTY_PAGES) as guest:
        ring = guest.vcpu.dirty_ring()
        guest.run()
        pages = []
        for entry in ring:
            if not entry.flags & KVM_DIRTY_GFN_F_DIRTY:
                break
            pages.append((entry.slot, entry.offset))
            entry.flags = KVM_DIRTY_GFN_F_RESET
        taken_back = vm.reset_dirty_rings()
        del ring, entry

    assert {(0, 3), (0, 5)} <= set(pages)
    assert taken_back == len(pages)


def test_irqfd_takes_the_count_of_its_eventfd(vm: Vm) -> None:
    vm.create_irqchip()
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    vm.irqfd(event, 3)

    os.eventfd_write(event, 1)

    assert select.select([event], [], [], 0)[0] == []
    os.close(event)
