# SPDX-License-Identifier: Apache-2.0
"""MONITOR and MWAIT: nothing is watched and nothing waits, but what they may not say faults (SDM volume 2)."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import CODE, DATA, a_guest
from vmm.backend.emulation.processor import Feature
from vmm.backend.emulation.table import MONITOR

UD, GP, PF = (x86.UD_VECTOR, None), (x86.GP_VECTOR, 0), x86.PF_VECTOR
MONITOR_RAX, MWAIT = b"\x0f\x01\xc8", b"\x0f\x01\xc9"
INTERRUPTS_BREAK = Feature(5, "ecx", 1)
"""MWAIT's ECX bit 0: wake at interrupts though they are off."""


@pytest.mark.parametrize(
    ("code", "rcx", "cpl", "expected"),
    [
        (MONITOR_RAX, 0, 0, None),
        (MONITOR_RAX, 1, 0, GP),
        (MONITOR_RAX, 1 << 32, 0, GP),
        (MONITOR_RAX, 0, 3, UD),
        (MONITOR_RAX, 1, 3, UD),
        (MWAIT, 0, 0, None),
        (MWAIT, 1, 0, None),
        (MWAIT, 2, 0, GP),
        (MWAIT, 1 << 32, 0, GP),
        (MWAIT, 1 << 63 | 1, 0, GP),
        (MWAIT, 0, 3, UD),
    ],
)
def test_where_cpuid_has_them(code: bytes, rcx: int, cpl: int, expected: tuple[int, int] | None) -> None:
    with a_guest(MONITOR, INTERRUPTS_BREAK, cpl=cpl) as guest:
        guest.set_regs(rax=DATA, rcx=rcx)

        guest.carry_out(code)

        assert guest.exception == expected
        assert guest.regs.rip == (CODE if expected else CODE + 3)


@pytest.mark.parametrize(("ecx", "expected"), [(0, None), (1, GP)])
def test_a_wake_up_at_interrupts_that_are_off_has_a_cpuid_bit_of_its_own(
    ecx: int, expected: tuple[int, int] | None
) -> None:
    with a_guest(MONITOR) as guest:
        guest.set_regs(rcx=ecx)

        guest.carry_out(MWAIT)

        assert guest.exception == expected


@pytest.mark.parametrize("code", [MONITOR_RAX, MWAIT])
def test_32_bit_code_has_no_upper_half_of_rcx(code: bytes) -> None:
    with a_guest(MONITOR, bits=32) as guest:
        guest.set_regs(rax=DATA, rcx=1 << 32)

        guest.carry_out(code)

        assert guest.exception is None


def test_monitor_is_checked_as_a_read_of_its_address() -> None:
    with a_guest(MONITOR) as guest:
        guest.set_regs(rax=DATA)
        guest.change_page(DATA, clear=1)

        guest.carry_out(MONITOR_RAX)

        assert (guest.exception, guest.sregs.cr2) == ((PF, 0), DATA)


def test_monitor_of_an_address_that_is_not_canonical() -> None:
    with a_guest(MONITOR) as guest:
        guest.set_regs(rax=1 << 47)

        guest.carry_out(MONITOR_RAX)

        assert guest.exception == GP
