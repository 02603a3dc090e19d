# SPDX-License-Identifier: Apache-2.0
"""Memory that KVM accesses for the guest: what the guest must not do itself, it cannot have KVM do.

The original series left all of these open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from kvmapi import Vm
from kvmapi.exit_types import MmioExit
from kvmapi.uapi.vsm import (
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)
from tests.kernel.guest import DATA, EXEC, PAGE, RAM_SIZE, READ, WRITE, Fault, Guest
from tests.kernel.hypercall_guest import DONE, GP_VECTOR, HypercallGuest

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_RWX_ATTRIBUTES)]

OPEN = pytest.mark.original_fails("trap 3")
DETAILS = pytest.mark.vsm_feature(KVM_X86_VSM_FAULT_INSN)

NW = KVM_MEMORY_ATTRIBUTE_NW
NX = KVM_MEMORY_ATTRIBUTE_NX
NONE = KVM_MEMORY_ATTRIBUTE_NR | NW | NX
NO_RAM = RAM_SIZE
FILL = b"\xcc" * PAGE
WRMSR = b"\x0f\x30" + bytes([0xE6, DONE])
INVALID_INPUT = 3

# MSR -> the value that has KVM write to a page.
PAGES = {
    "kvmclock": (0x4B564D01, lambda gpa: gpa | 1),
    "wall clock": (0x4B564D00, lambda gpa: gpa),
    "steal time": (0x4B564D03, lambda gpa: gpa | 1),
    "reference TSC page": (0x40000021, lambda gpa: gpa | 1),
    "VP assist page": (0x40000073, lambda gpa: gpa | 1),
    "hypercall page": (0x40000001, lambda gpa: gpa | 1),
}


# Those that KVM writes again, when the VM's clock is set or the vCPU is entered; the others it writes once.
WRITTEN_AGAIN = {name: PAGES[name] for name in ("kvmclock", "steal time", "reference TSC page")}


def write_msr(guest: HypercallGuest, msr: int, value: int) -> int:
    """Let the guest write an MSR and run on; the port that tells how it went."""
    guest.start(WRMSR, rcx=msr, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    return guest.port(guest.exit())


@pytest.mark.parametrize(("msr", "value"), PAGES.values(), ids=PAGES)
def test_without_restriction_kvm_writes_the_page(vm: Vm, msr: int, value: Callable[[int], int]) -> None:
    """So that the next test cannot succeed because nothing would be written anyway."""
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        guest.poke(DATA, FILL)

        assert write_msr(guest, msr, value(DATA)) == DONE
        write_msr(guest, 0x10, 0)  # what is written when the vCPU is entered again
        assert guest.peek(DATA, PAGE) != FILL


@OPEN
@pytest.mark.parametrize("mask", [NW, NONE], ids=["nw", "none"])
@pytest.mark.parametrize(("msr", "value"), PAGES.values(), ids=PAGES)
def test_a_page_that_must_not_be_written(vm: Vm, msr: int, value: Callable[[int], int], mask: int) -> None:
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        guest.poke(DATA, FILL)
        guest.restrict(DATA, mask)

        assert write_msr(guest, msr, value(DATA)) in (DONE, GP_VECTOR)
        write_msr(guest, 0x10, 0)
        assert guest.peek(DATA, PAGE) == FILL


def written_again(guest: HypercallGuest, msr: int, value: int, mask: int) -> bool:
    """Whether KVM writes a page that it uses and that is restricted from now on."""
    write_msr(guest, msr, value)
    guest.restrict(DATA, mask)
    guest.poke(DATA, FILL)
    for number in range(1, 4):
        guest.vm.set_clock(number * 10**12)
        write_msr(guest, 0x10, number << 40)  # what is written when the vCPU is entered again
    return guest.peek(DATA, PAGE) != FILL


@pytest.mark.parametrize(("msr", "value"), WRITTEN_AGAIN.values(), ids=WRITTEN_AGAIN)
def test_without_restriction_kvm_writes_a_page_in_use(vm: Vm, msr: int, value: Callable[[int], int]) -> None:
    """So that the next test cannot succeed because nothing would be written anyway."""
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        assert written_again(guest, msr, value(DATA), 0)


@OPEN
@pytest.mark.parametrize(("msr", "value"), WRITTEN_AGAIN.values(), ids=WRITTEN_AGAIN)
def test_a_page_that_is_restricted_while_in_use(vm: Vm, msr: int, value: Callable[[int], int]) -> None:
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        assert not written_again(guest, msr, value(DATA), NW)


@OPEN
def test_hypercall_input_that_must_not_be_read(vm: Vm) -> None:
    """HvCallSendSyntheticClusterIpi, slow: the guest would learn what it must not read."""
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        guest.poke(DATA, struct.pack("<2Q", 0x51, 1))
        assert guest.status(guest.call(0x0B, rdx=DATA)) == 0
        guest.restrict(DATA, NONE)

        assert guest.status(guest.call(0x0B, rdx=DATA)) == INVALID_INPUT


def fault_of(guest: Guest) -> Fault:
    fault = guest.go_on()
    assert fault is not None
    return fault


# movsb: [rsi] to [rdi], one of which is MMIO, so that KVM emulates it and accesses the other.
MOVSB = b"\xa4\xf4"


@DETAILS
def test_an_emulated_write(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.poke(DATA, FILL)
        guest.restrict(DATA, NW)
        guest.start(MOVSB, rsi=NO_RAM, rdi=DATA + 8)
        result, exit_ = guest.run()
        assert result == 0 and isinstance(exit_, MmioExit)
        guest.vcpu.run.struct.mmio.data[0] = 0x77

        fault = fault_of(guest)

        assert (fault.flags, fault.gpa, fault.access_gpa) == (WRITE, DATA, DATA + 8)
        assert (fault.insn_len, fault.insn_bytes[:1]) == (1, MOVSB[:1])
        assert guest.peek(DATA, PAGE) == FILL
        registers = guest.vcpu.get_regs()
        assert (registers.rsi, registers.rdi) == (NO_RAM, DATA + 8)


@DETAILS
def test_an_emulated_read(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NONE)
        guest.start(MOVSB, rsi=DATA + 8, rdi=NO_RAM)

        fault = fault_of(guest)

        assert (fault.flags, fault.gpa, fault.access_gpa) == (READ, DATA, DATA + 8)


@OPEN
def test_an_emulated_access_goes_on_when_it_is_allowed(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.poke(DATA + 8, b"\x42")
        guest.restrict(DATA, NONE)
        guest.start(MOVSB, rsi=DATA + 8, rdi=NO_RAM)
        fault_of(guest)
        guest.restrict(DATA, 0)

        result, exit_ = guest.run()

        assert result == 0 and isinstance(exit_, MmioExit)
        assert exit_.data == b"\x42"


@OPEN
def test_the_instruction_behind_an_emulated_one(vm: Vm) -> None:
    """KVM fetches as many bytes as it can get; those that must not be executed are none of the instruction's."""
    with Guest(vm) as guest:
        end = DATA + PAGE
        guest.poke(end - 1, MOVSB)
        guest.restrict(end, NX)
        guest.start(b"\xff\xe0", rax=end - 1, rsi=NO_RAM, rdi=DATA + 8)

        result, exit_ = guest.run()
        assert result == 0 and isinstance(exit_, MmioExit)
        fault = fault_of(guest)
        assert (fault.flags, fault.gpa) == (EXEC, end)


@OPEN
def test_translations_do_not_go_through_what_cannot_be_read(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.start(b"\xf4")
        assert guest.vcpu.translate(DATA).valid
        guest.restrict(0x3000, NONE)  # the page directory

        assert not guest.vcpu.translate(DATA).valid
