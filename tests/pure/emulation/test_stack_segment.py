# SPDX-License-Identifier: Apache-2.0
"""Loads of SS: what changes, and the exception of each check on the way."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import CODE, GDT, processor, raised
from vmm.backend.emulation import registers as r
from vmm.backend.emulation import stack_segment

GP, SS = x86.GP_VECTOR, x86.SS_VECTOR


@pytest.mark.parametrize(
    ("cpl", "selector", "fault"),
    [
        (0, g.KERNEL_SS, None),
        (3, g.USER_SS, None),
        (0, 0, None),
        (3, 0, (GP, 0)),
        (3, 3, (GP, 0)),
        (0, 1, (GP, 0)),
        (0, g.USER_SS, (GP, g.USER_SS & ~3)),
        (0, g.KERNEL_CS, (GP, g.KERNEL_CS)),
        (0, 0x1000, (GP, 0x1000)),
    ],
)
def test_a_load_of_ss(cpl: int, selector: int, fault: tuple[int, int] | None) -> None:
    with processor(cpl=cpl) as (_, cpu):
        if fault is None:
            stack_segment.load(cpu, selector)
            assert (cpu.sregs.ss.selector, cpu.cpl) == (selector, cpl)
        else:
            assert raised(lambda: stack_segment.load(cpu, selector)) == fault


def test_a_null_ss_is_none_in_32_bit_code() -> None:
    with processor(bits=32) as (_, cpu):
        assert raised(lambda: stack_segment.load(cpu, 0)) == (GP, 0)


def test_ss_in_real_mode_is_sixteen_times_its_selector() -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.cr0 = 0

        stack_segment.load(cpu, 0x1234)

        assert (cpu.sregs.ss.base, cpu.sregs.ss.selector) == (0x12340, 0x1234)


def test_rip_is_where_it_was() -> None:
    """A load of SS leaves RIP to whoever carries it out."""
    with processor() as (_, cpu):
        stack_segment.load(cpu, g.KERNEL_SS)

        assert cpu.regs.rip == CODE


def test_a_stack_segment_that_is_not_present() -> None:
    with processor() as (guest, cpu):
        guest.memory.data[GDT + g.KERNEL_SS + 5] &= ~0x80

        assert raised(lambda: stack_segment.load(cpu, g.KERNEL_SS)) == (SS, g.KERNEL_SS)


@pytest.mark.parametrize("selector", [g.KERNEL_SS | 3, g.USER_SS & ~3])
def test_the_selector_and_the_segment_are_of_the_current_level(selector: int) -> None:
    with processor() as (_, cpu):
        assert raised(lambda: stack_segment.load(cpu, selector)) == (GP, selector & ~3)


def test_the_accessed_bit_is_set() -> None:
    with processor() as (guest, cpu):
        guest.memory.data[GDT + g.KERNEL_SS + 5] &= ~1

        stack_segment.load(cpu, g.KERNEL_SS)

        assert guest.memory.data[GDT + g.KERNEL_SS + 5] & 1
        assert cpu.sregs.ss.type == 3


def test_ss_in_virtual_8086_mode_is_sixteen_times_its_selector() -> None:
    with processor(bits=32) as (_, cpu):
        cpu.regs.rflags |= r.RFLAGS_VM

        stack_segment.load(cpu, 0x1234)

        assert (cpu.sregs.ss.base, cpu.sregs.ss.selector) == (0x12340, 0x1234)
