# SPDX-License-Identifier: Apache-2.0
"""XGETBV and XSETBV: what XCR0 may hold (SDM volume 1, 13.3)."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import CODE, XSAVE, Guest, a_guest
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.processor import Feature

UD, GP = (x86.UD_VECTOR, None), (x86.GP_VECTOR, 0)
XGETBV, XSETBV = b"\x0f\x01\xd0", b"\x0f\x01\xd1"
XGETBV_1 = Feature(0xD, "eax", 2, index=1)
ALL_COMPONENTS = [Feature(0xD, "eax", bit) for bit in (3, 4, 5, 6, 7, 9, 17, 18)]
"""What leaf 0DH offers beside x87, SSE and AVX: MPX, AVX-512, PKRU, AMX."""


def set_xcr0(guest: Guest, value: int) -> None:
    xcrs = x86.kvm_xcrs(nr_xcrs=1)
    xcrs.xcrs[0].value = value
    guest.vcpu.set_xcrs(xcrs)


def xcr0(guest: Guest) -> int:
    return int(guest.vcpu.get_xcrs().xcrs[0].value)


def test_xgetbv_reads_xcr0_and_clears_upper_halves() -> None:
    with a_guest(XSAVE) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        set_xcr0(guest, 0x1_0000_0007)
        guest.set_regs(rax=1 << 63, rdx=1 << 63, rcx=0xFFFF_FFFF_0000_0000)  # only ECX counts

        guest.carry_out(XGETBV)

        assert (guest.regs.rax, guest.regs.rdx, guest.exception) == (7, 1, None)


def test_xgetbv_1_tells_what_is_in_use() -> None:
    with a_guest(XSAVE, XGETBV_1) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        set_xcr0(guest, 7)
        area = guest.vcpu.get_xsave()
        area.region[128] = 0b1010  # XSTATE_BV: SSE, and a component that XCR0 does not enable
        guest.vcpu.set_xsave(area)
        guest.set_regs(rcx=1)

        guest.carry_out(XGETBV)

        assert (guest.regs.rax, guest.regs.rdx) == (0b10, 0)


@pytest.mark.parametrize(
    ("features", "osxsave", "cpl", "ecx", "expected"),
    [
        ([], True, 0, 0, UD),
        ([XSAVE], False, 0, 0, UD),
        ([XSAVE], True, 0, 1, GP),  # ECX 1 is not in CPUID
        ([XSAVE, XGETBV_1], True, 0, 2, GP),
        ([XSAVE], True, 3, 0, None),  # any privilege level
    ],
)
def test_xgetbv_faults(
    features: list[Feature], osxsave: bool, cpl: int, ecx: int, expected: tuple[int, int] | None
) -> None:
    with a_guest(*features, cpl=cpl) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | osxsave * r.CR4_OSXSAVE)
        set_xcr0(guest, 1)
        guest.set_regs(rcx=ecx)

        guest.carry_out(XGETBV)

        assert guest.exception == expected


@pytest.mark.parametrize("value", [1, 3, 7])
def test_xsetbv_sets_what_cpuid_offers(value: int) -> None:
    with a_guest(XSAVE) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        guest.set_regs(rax=value)

        guest.carry_out(XSETBV)

        assert (xcr0(guest), guest.exception, guest.regs.rip) == (value, None, CODE + 3)


@pytest.mark.parametrize(
    ("value", "ecx", "cpl"),
    [
        (0, 0, 0),  # x87 must stay
        (2, 0, 0),
        (5, 0, 0),  # AVX without SSE
        (8 | 7, 0, 0),  # not in CPUID
        (1 << 32 | 1, 0, 0),
        (3, 1, 0),  # no XCR1
        (3, 0, 3),
    ],
)
def test_xsetbv_refuses(value: int, ecx: int, cpl: int) -> None:
    with a_guest(XSAVE, cpl=cpl) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        set_xcr0(guest, 1)
        guest.set_regs(rax=value & 0xFFFF_FFFF, rdx=value >> 32, rcx=ecx)

        guest.carry_out(XSETBV)

        assert (guest.exception, xcr0(guest)) == (GP, 1)


def test_xsetbv_faults_when_kvm_knows_better() -> None:
    with a_guest(XSAVE) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        guest.set_regs(rax=3)
        guest.fake.fail("KVM_SET_XCRS", 22)

        assert guest.carry_out(XSETBV) is None

        assert guest.exception == GP


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (0b11001, True),
        (0b01001, False),  # MPX's two
        (0b10001, False),
        (0xE7, True),
        (0x67, False),  # AVX-512's three
        (0xC7, False),
        (0xE3, False),  # and without AVX
        (0x201, True),
        (0x6_0001, True),
        (0x2_0001, False),  # AMX's two
        (0x4_0001, False),
    ],
)
def test_components_that_go_together(value: int, allowed: bool) -> None:
    with a_guest(XSAVE, *ALL_COMPONENTS) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        set_xcr0(guest, 1)
        guest.set_regs(rax=value)

        guest.carry_out(XSETBV)

        assert (guest.exception, xcr0(guest)) == ((None, value) if allowed else (GP, 1))


def test_components_of_the_upper_half() -> None:
    value = 1 << 62 | 1
    with a_guest(XSAVE, Feature(0xD, "edx", 30)) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSXSAVE)
        # Only the lower halves of the registers count.
        guest.set_regs(rax=1 << 32 | 1, rdx=1 << 32 | value >> 32, rcx=1 << 32)

        guest.carry_out(XSETBV)

        assert (guest.exception, xcr0(guest)) == (None, value)


def test_xsetbv_without_osxsave_is_undefined() -> None:
    with a_guest(XSAVE) as guest:
        set_xcr0(guest, 1)
        guest.set_regs(rax=3)

        guest.carry_out(XSETBV)

        assert (guest.exception, xcr0(guest)) == (UD, 1)
