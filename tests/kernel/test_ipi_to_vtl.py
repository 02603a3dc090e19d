# SPDX-License-Identifier: Apache-2.0
"""HvCallSendSyntheticClusterIpi and ...Ex: which of them are for another VTL, and so for userspace."""

from __future__ import annotations

import struct

import pytest

from kvmapi import Vm
from kvmapi.exit_types import HypervHcallExit
from kvmapi.uapi.vsm import KVM_X86_VSM_IPI
from tests.kernel.guest import DATA
from tests.kernel.hypercall_guest import EBX_VSM, FAST, HypercallGuest

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_IPI)]

SEND_IPI, SEND_IPI_EX = 0x0B, 0x15
ONE_BANK = 1 << 17  # variable header count of the Ex form: eight bytes
INVALID_INPUT = 3
VECTOR = 0x51
USE_TARGET = 1 << 4
FORMS = pytest.mark.parametrize("code", [SEND_IPI, SEND_IPI_EX], ids=["plain", "ex"])
SPEEDS = pytest.mark.parametrize("fast", [False, True], ids=["slow", "fast"])


@pytest.fixture
def vm_with_apic(vm: Vm) -> Vm:
    vm.create_irqchip()
    return vm


def send(guest: HypercallGuest, code: int, fast: bool, target: int) -> object:
    """An IPI to VP 0 whose bytes 4 to 7 are `target`: the exit for it, or its status."""
    word = VECTOR | target << 32
    control = code | (ONE_BANK if code == SEND_IPI_EX else 0)
    if fast:
        if code == SEND_IPI:
            exit_ = guest.call(control | FAST, rdx=word, r8=1)
        else:
            exit_ = guest.call(control | FAST, rdx=word, r8=0, xmm=[1 | 1 << 64])
    else:
        block = struct.pack("<2Q", word, 1) if code == SEND_IPI else struct.pack("<4Q", word, 0, 1, 1)
        guest.poke(DATA, block)
        exit_ = guest.call(control, rdx=DATA)
    return exit_ if isinstance(exit_, HypervHcallExit) else guest.status(exit_)


def arrived(guest: HypercallGuest) -> bool:
    irr = bytes(guest.vcpu.get_lapic().regs)[0x200 + (VECTOR // 32) * 16 :]
    return bool(irr[VECTOR % 32 // 8] >> VECTOR % 8 & 1)


def enable_apic(guest: HypercallGuest) -> None:
    lapic = guest.vcpu.get_lapic()
    lapic.regs[0xF0:0xF2] = [0xFF, 0x01]
    guest.vcpu.set_lapic(lapic)


@FORMS
@SPEEDS
def test_without_a_target_kvm_delivers_it_in_the_same_vtl(vm_with_apic: Vm, code: int, fast: bool) -> None:
    with HypercallGuest(vm_with_apic) as guest:
        enable_apic(guest)

        assert send(guest, code, fast, 0) == 0
        assert arrived(guest)


@FORMS
@SPEEDS
def test_with_a_target_userspace_gets_it(vm_with_apic: Vm, code: int, fast: bool) -> None:
    with HypercallGuest(vm_with_apic) as guest:
        enable_apic(guest)

        exit_ = send(guest, code, fast, USE_TARGET | 1)

        assert isinstance(exit_, HypervHcallExit) and exit_.code == code
        if fast:
            assert exit_.params[0] == VECTOR | (USE_TARGET | 1) << 32
            assert exit_.xmm[0] == (1 | 1 << 64 if code == SEND_IPI_EX else 0)
        assert not arrived(guest)


@pytest.mark.original_fails("trap 6")
@FORMS
@SPEEDS
@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("target", [1, USE_TARGET | 1, 1 << 7, 1 << 8])
def test_a_guest_without_vtls_has_what_an_unpatched_kernel_gives_it(
    vm_with_apic: Vm, code: int, fast: bool, enforce: bool, target: int
) -> None:
    """No exit: the slow plain form of the original series exited all the same."""
    with HypercallGuest(vm_with_apic, without_ebx=EBX_VSM, enforce=enforce) as guest:
        enable_apic(guest)
        is_checked = fast and code == SEND_IPI

        assert send(guest, code, fast, target) == (INVALID_INPUT if is_checked else 0)
        assert arrived(guest) is not is_checked


@pytest.mark.original_fails("it leaves these bits to userspace")
@FORMS
@SPEEDS
@pytest.mark.parametrize("target", [1 << 5, USE_TARGET | 1 << 7])
def test_bits_of_the_target_that_are_reserved(vm_with_apic: Vm, code: int, fast: bool, target: int) -> None:
    with HypercallGuest(vm_with_apic) as guest:
        enable_apic(guest)

        assert send(guest, code, fast, target) == INVALID_INPUT
        assert not arrived(guest)


@FORMS
@SPEEDS
@pytest.mark.parametrize("padding", [1 << 8, 1 << 31])
def test_what_follows_the_target_is_refused_where_it_always_was(
    vm_with_apic: Vm, code: int, fast: bool, padding: int
) -> None:
    with HypercallGuest(vm_with_apic) as guest:
        enable_apic(guest)

        if fast and code == SEND_IPI:
            assert send(guest, code, fast, padding) == INVALID_INPUT
            assert send(guest, code, fast, USE_TARGET | 1 | padding) == INVALID_INPUT
            assert not arrived(guest)
        else:
            assert send(guest, code, fast, padding) == 0
            assert arrived(guest)
            assert isinstance(send(guest, code, fast, USE_TARGET | 1 | padding), HypervHcallExit)
