# SPDX-License-Identifier: Apache-2.0
"""What a VTL switch carries over, and which ioctls that takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm, Vcpu
from kvmapi import run as run_page
from kvmapi.fake import FakeKvm
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import RegisterValueError
from vmm.backend.vsm.shared_state import SharedState
from vmm.backend.vsm.vp_registers import HARDWARE
from vmm.hv.registers import HvRegisterName
from vmm.vsm.scope import switched_registers

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))
OWN = ("rsp", "rip", "rflags")
DIRTY = run_page.DIRTY_REGS // 8
CR4_OSXSAVE = 1 << 18


@contextmanager
def two_vcpus() -> Iterator[tuple[FakeKvm, Vcpu, Vcpu]]:
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as lower, kvm.create_vm() as upper:
        source, target = lower.create_vcpu(0), upper.create_vcpu(1)
        for number, name in enumerate((*GENERAL, *OWN)):
            setattr(source.run.regs, name, 0x1000 + number)
            setattr(target.run.regs, name, 0x2000 + number)
        yield fake, source, target


def calls(fake: FakeKvm, *names: str) -> list[int]:
    return [len(fake.called(name)) for name in names]


def test_general_registers_move_but_for_the_stack_pointer_rip_and_flags() -> None:
    with two_vcpus() as (_, source, target):
        SharedState(dr6_shared=False, has_xcr0=False).carry(source, target)

        regs = target.run.regs
        assert [getattr(regs, name) for name in GENERAL] == [0x1000 + n for n in range(len(GENERAL))]
        assert [getattr(regs, name) for name in OWN] == [0x2000 + len(GENERAL) + n for n in range(len(OWN))]
        assert target.run.u64[DIRTY] == x86.KVM_SYNC_X86_REGS


def test_cr2_moves_and_is_written_only_where_it_differs() -> None:
    with two_vcpus() as (_, source, target):
        source.run.sregs.cr2, target.run.sregs.cr3 = 0xDEAD000, 0x7000
        shared = SharedState(dr6_shared=False, has_xcr0=False)

        shared.carry(source, target)
        assert (target.run.sregs.cr2, target.run.sregs.cr3) == (0xDEAD000, 0x7000)
        assert target.run.u64[DIRTY] == x86.KVM_SYNC_X86_REGS | x86.KVM_SYNC_X86_SREGS

        target.run.u64[DIRTY] = 0
        shared.carry(source, target)
        assert target.run.u64[DIRTY] == x86.KVM_SYNC_X86_REGS


def test_vector_state_moves_and_is_not_written_again_while_it_is_the_same() -> None:
    with two_vcpus() as (fake, source, target):
        area = x86.kvm_xsave()
        area.region[40] = 0x12345678  # in XMM0
        source.set_xsave(area)
        shared = SharedState(dr6_shared=False, has_xcr0=False)
        before = calls(fake, "KVM_SET_XSAVE")

        shared.carry(source, target)
        assert target.get_xsave().region[40] == 0x12345678
        shared.carry(target, source)
        shared.carry(source, target)
        assert calls(fake, "KVM_SET_XSAVE") == [before[0] + 1]

        area.region[40] = 0x9ABCDEF0
        target.set_xsave(area)  # as the guest would change it
        shared.carry(target, source)
        assert source.get_xsave().region[40] == 0x9ABCDEF0


@pytest.mark.parametrize("dr6_shared", [False, True])
def test_debug_addresses_move_control_does_not_and_dr6_as_it_is_offered(dr6_shared: bool) -> None:
    with two_vcpus() as (_, source, target):
        first, second = x86.kvm_debugregs(), x86.kvm_debugregs()
        first.db[:] = [1, 2, 3, 4]
        first.dr6, first.dr7 = 0xFFFF0FF1, 0x401
        second.dr6, second.dr7 = 0xFFFF0FF0, 0x400
        source.set_debugregs(first)
        target.set_debugregs(second)

        SharedState(dr6_shared=dr6_shared, has_xcr0=False).carry(source, target)

        got = target.get_debugregs()
        assert list(got.db) == [1, 2, 3, 4]
        assert (got.dr6, got.dr7) == (first.dr6 if dr6_shared else second.dr6, 0x400)


def with_xcr0(value: int) -> x86.kvm_xcrs:
    xcrs = x86.kvm_xcrs()
    xcrs.nr_xcrs = 1
    xcrs.xcrs[0].value = value
    return xcrs


@pytest.mark.tlfs("VSM-061", "IMP-005")
def test_xcr0_moves_and_is_read_only_where_the_guest_can_have_written_it() -> None:
    with two_vcpus() as (fake, source, target):
        source.set_xcrs(with_xcr0(7))
        shared = SharedState(dr6_shared=False, has_xcr0=True)

        shared.carry(source, target)
        assert target.get_xcrs().xcrs[0].value == 7

        reads = calls(fake, "KVM_GET_XCRS")
        shared.carry(target, source)
        assert calls(fake, "KVM_GET_XCRS") == reads  # CR4.OSXSAVE is clear

        target.set_xcrs(with_xcr0(3))
        target.run.sregs.cr4 = CR4_OSXSAVE
        shared.carry(target, source)
        assert source.get_xcrs().xcrs[0].value == 3


@pytest.mark.tlfs("VSM-044", "VSM-060", "VSM-061", "VSM-062", "VSM-065", "VSM-066", "IMP-001")
@pytest.mark.parametrize("dr6_shared", [False, True])
def test_every_register_is_carried_over_or_left_as_the_table_of_scopes_says(dr6_shared: bool) -> None:
    """One by one: `vmm.vsm.scope` has what VTLs share, this module how it is carried. MTRRs go another way."""
    mtrrs = {int(name) for name in HvRegisterName if "Mtrr" in name.name}
    expected = {int(name) for name in switched_registers(dr6_shared=dr6_shared)} - mtrrs
    carried, tried = set(), set()
    for register, (read, write) in HARDWARE.items():
        if write is None or register in mtrrs:
            continue
        with two_vcpus() as (_, source, target):
            before = read(target)
            try:
                write(source, 1 if before != 1 else 3)
            except RegisterValueError:
                write(source, 0)
            if read(source) == before:
                continue
            tried.add(register)

            SharedState(dr6_shared=dr6_shared, has_xcr0=True).carry(source, target)

            if read(target) != before:
                assert read(target) == read(source)
                carried.add(register)

    assert carried == expected
    assert len(tried - expected) > 60  # and as many others stay


def test_a_vcpu_with_a_new_state_is_written_anew() -> None:
    with two_vcpus() as (fake, source, target):
        shared = SharedState(dr6_shared=False, has_xcr0=True)
        shared.carry(source, target)
        before = calls(fake, "KVM_SET_XSAVE", "KVM_SET_DEBUGREGS", "KVM_SET_XCRS")

        shared.forget(target)
        shared.carry(source, target)

        assert calls(fake, "KVM_SET_XSAVE", "KVM_SET_DEBUGREGS", "KVM_SET_XCRS") == [n + 1 for n in before]


def test_a_page_fault_that_waits_has_its_own_address() -> None:
    with two_vcpus() as (_, source, target):
        source.run.sregs.cr2 = 0x1000
        shared = SharedState(dr6_shared=False, has_xcr0=False)
        shared.expect_fault(target, 0xFA17)

        shared.carry(source, target)
        assert target.run.sregs.cr2 == 0xFA17

        shared.carry(source, target)  # once
        assert target.run.sregs.cr2 == 0x1000
