# SPDX-License-Identifier: Apache-2.0
"""IRET with a frame in memory, and loads of SS: what changes, and the exception of each check on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import CODE, GDT, STACK, Guest, a_guest
from vmm.backend.emulation import registers as r
from vmm.backend.emulation import stack_segment
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError
from vmm.backend.emulation.interrupt_return import interrupt_return
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.hypercall.outside import UnprotectedMemory

TARGET, OUTER_STACK = 0x5000, 0x7000
GP, SS, NP = x86.GP_VECTOR, x86.SS_VECTOR, x86.NP_VECTOR
ALWAYS = 2
KERNEL, USER = (g.KERNEL_CS, g.KERNEL_SS), (g.USER_CS, g.USER_SS)


@contextmanager
def processor(*, bits: int = 64, cpl: int = 0) -> Iterator[tuple[Guest, Processor]]:
    with a_guest(bits=bits, cpl=cpl) as guest:
        yield guest, Processor(guest.vcpu, UnprotectedMemory(guest.memory), Cpuid([]))


def put(guest: Guest, *values: int, size: int = 8) -> None:
    for index, value in enumerate(values):
        guest.memory.put(STACK + size * index, value, size)


def raised(do: Callable[[], None]) -> tuple[int, int | None]:
    with pytest.raises(GuestFaultError) as fault:
        do()
    return fault.value.vector, fault.value.error_code


def frame(target: tuple[int, int] = KERNEL, flags: int = ALWAYS, rip: int = TARGET) -> tuple[int, ...]:
    return rip, target[0], flags, OUTER_STACK, target[1]


@pytest.mark.parametrize("target", [KERNEL, USER], ids=["ring 0", "ring 3"])
def test_a_64_bit_frame_is_taken_whole(target: tuple[int, int]) -> None:
    with processor() as (guest, cpu):
        put(guest, *frame(target))

        interrupt_return(cpu, 8)

        assert (cpu.regs.rip, cpu.regs.rsp, cpu.regs.rflags) == (TARGET, OUTER_STACK, ALWAYS)
        assert (cpu.sregs.cs.selector, cpu.sregs.ss.selector) == target
        assert cpu.cpl == target[0] & 3
        lost = bool(target[0] & 3)
        assert [bool(segment.unusable) for segment in (cpu.sregs.ds, cpu.sregs.es)] == [lost, lost]


def test_flags_are_loaded_as_far_as_the_level_goes() -> None:
    everything = 0x3F7FD7 | r.RFLAGS_RF
    for cpl, kept in ((0, 0), (3, r.RFLAGS_IF | 3 << 12)):
        with processor(cpl=cpl) as (guest, cpu):
            cpu.regs.rflags = ALWAYS
            put(guest, *frame(USER, everything & ~r.RFLAGS_VM))

            interrupt_return(cpu, 8)

            without = kept | (3 << 19 if cpl else 0) | r.RFLAGS_VM
            assert cpu.regs.rflags == everything & ~without | ALWAYS, cpl


def test_16_bits_leave_the_upper_flags() -> None:
    with processor() as (guest, cpu):
        cpu.regs.rflags = ALWAYS | r.RFLAGS_RF
        put(guest, 0x500, g.KERNEL_CS, 0x41, 0x700, g.KERNEL_SS, size=2)

        interrupt_return(cpu, 2)

        assert (cpu.regs.rip, cpu.regs.rsp, cpu.regs.rflags) == (0x500, 0x700, 0x43 | r.RFLAGS_RF)


def test_32_bit_code_returns_to_its_own_level_with_three_values() -> None:
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS_32, 0x46, 1, 2, size=4)

        interrupt_return(cpu, 4)

        assert (cpu.regs.rip, cpu.regs.rsp, cpu.regs.rflags) == (TARGET, STACK + 12, 0x46)


def test_32_bit_code_returns_to_another_level_with_five() -> None:
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.USER_CS_32, 0x46, OUTER_STACK, g.USER_SS, size=4)

        interrupt_return(cpu, 4)

        assert (cpu.regs.rip, cpu.regs.rsp, cpu.cpl) == (TARGET, OUTER_STACK, 3)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({1: 0}, (GP, 0)),
        ({1: 0x1000}, (GP, 0x1000)),  # beyond the GDT
        ({1: g.KERNEL_SS}, (GP, g.KERNEL_SS)),  # no code
        ({1: g.USER_CS & ~3}, (GP, g.USER_CS & ~3)),  # level of the selector and of the segment
        ({0: 1 << 63}, (GP, 0)),
        ({4: 0, 1: g.USER_CS}, (GP, 0)),
        ({4: 3}, (GP, 0)),
        ({4: 0x1000}, (GP, 0x1000)),
        ({4: g.USER_SS}, (GP, g.USER_SS & ~3)),
        ({4: g.KERNEL_CS}, (GP, g.KERNEL_CS)),
    ],
)
def test_what_a_frame_must_not_say(changed: dict[int, int], fault: tuple[int, int]) -> None:
    with processor() as (guest, cpu):
        values = list(frame())
        for index, value in changed.items():
            values[index] = value
        put(guest, *values)

        assert raised(lambda: interrupt_return(cpu, 8)) == fault


def test_ring_3_does_not_return_to_ring_0() -> None:
    with processor(cpl=3) as (guest, cpu):
        put(guest, *frame(KERNEL))

        assert raised(lambda: interrupt_return(cpu, 8)) == (GP, g.KERNEL_CS)


@pytest.mark.parametrize(("selector", "vector"), [(g.KERNEL_CS, NP), (g.KERNEL_SS, SS)])
def test_segments_that_are_not_present(selector: int, vector: int) -> None:
    with processor() as (guest, cpu):
        put(guest, *frame())
        guest.memory.put(GDT + selector, guest.memory.number(GDT + selector) & ~(1 << 47))

        assert raised(lambda: interrupt_return(cpu, 8)) == (vector, selector)


def test_a_null_stack_segment_of_ring_0() -> None:
    with processor() as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS, ALWAYS, OUTER_STACK, 0)

        interrupt_return(cpu, 8)

        assert (cpu.sregs.ss.selector, cpu.cpl) == (0, 0)


def test_a_stack_that_is_not_canonical() -> None:
    with processor() as (_, cpu):
        cpu.regs.rsp = 1 << 63

        assert raised(lambda: interrupt_return(cpu, 8)) == (SS, 0)


@pytest.mark.parametrize("flags", [r.RFLAGS_NT])
def test_a_nested_task(flags: int) -> None:
    with processor() as (_, cpu):
        cpu.regs.rflags |= flags
        assert raised(lambda: interrupt_return(cpu, 8)) == (GP, 0)
    with processor(bits=32) as (_, cpu):
        cpu.regs.rflags |= flags
        with pytest.raises(DeclinedError, match="nested task"):
            interrupt_return(cpu, 4)


def test_the_accessed_bits_are_set() -> None:
    with processor() as (guest, cpu):
        put(guest, *frame())
        for selector in KERNEL:
            guest.memory.put(GDT + selector, guest.memory.number(GDT + selector) & ~(1 << 40))

        interrupt_return(cpu, 8)

        assert all(guest.memory.number(GDT + selector) >> 40 & 1 for selector in KERNEL)


# ---- SS --------------------------------------------------------------------------------------------------


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
