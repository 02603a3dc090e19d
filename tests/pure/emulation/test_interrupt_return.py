# SPDX-License-Identifier: Apache-2.0
"""IRET with a frame in memory: what changes, and the exception of each check on the way."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import GDT, PD_32, STACK, Guest, processor, raised
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import DeclinedError
from vmm.backend.emulation.interrupt_return import interrupt_return

TARGET, OUTER_STACK = 0x5000, 0x7000
GP, SS, NP = x86.GP_VECTOR, x86.SS_VECTOR, x86.NP_VECTOR
ALWAYS = 2
KERNEL, USER = (g.KERNEL_CS, g.KERNEL_SS), (g.USER_CS, g.USER_SS)


def put(guest: Guest, *values: int, size: int = 8) -> None:
    for index, value in enumerate(values):
        guest.memory.put(STACK + size * index, value, size)


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


@pytest.mark.parametrize(("iopl", "loaded"), [(0, 0), (2, 0), (3, r.RFLAGS_IF)])
def test_ring_3_loads_if_where_iopl_lets_it(iopl: int, loaded: int) -> None:
    with processor(cpl=3) as (guest, cpu):
        cpu.regs.rflags = ALWAYS | iopl << 12
        put(guest, *frame(USER, ALWAYS | r.RFLAGS_IF))

        interrupt_return(cpu, 8)

        assert cpu.regs.rflags == ALWAYS | iopl << 12 | loaded


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
        ({1: 3}, (GP, 0)),
        ({1: 0x1003}, (GP, 0x1000)),  # beyond the GDT
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


def test_null_selectors_are_not_looked_up() -> None:
    with processor() as (guest, cpu):
        guest.memory.put(GDT, guest.memory.number(GDT + g.KERNEL_CS))
        put(guest, *frame((0, g.KERNEL_SS)))

        assert raised(lambda: interrupt_return(cpu, 8)) == (GP, 0)


def test_code_of_64_and_of_32_bits_at_once() -> None:
    with processor() as (guest, cpu):
        guest.memory.data[GDT + g.KERNEL_CS + 6] |= 1 << 6  # D beside L
        put(guest, *frame())

        assert raised(lambda: interrupt_return(cpu, 8)) == (GP, g.KERNEL_CS)


def test_conforming_code_is_returned_to_at_the_selectors_level() -> None:
    with processor(cpl=3) as (guest, cpu):
        guest.memory.data[GDT + g.KERNEL_CS + 5] |= 4
        put(guest, *frame((g.KERNEL_CS | 3, g.USER_SS)))

        interrupt_return(cpu, 8)

        assert (cpu.sregs.cs.selector, cpu.cpl) == (g.KERNEL_CS | 3, 3)


# ---- to and from code of other sizes ---------------------------------------------------------------------


def test_64_bit_code_returns_to_32_bit_code_of_ring_3() -> None:
    with processor() as (guest, cpu):
        put(guest, *frame((g.USER_CS_32, g.USER_SS)))
        guest.memory.put(STACK + 24, 1 << 40 | OUTER_STACK)

        interrupt_return(cpu, 8)

        assert (cpu.bits, cpu.cpl, cpu.regs.rip, cpu.regs.rsp) == (32, 3, TARGET, OUTER_STACK)


@pytest.mark.parametrize(
    ("cs", "ss", "rip"),
    [
        (g.USER_CS_32, g.USER_SS, 1 << 32),  # canonical, but beyond the segment
        (g.KERNEL_CS_32, 0, TARGET),  # only 64-bit code does without a stack segment
    ],
)
def test_what_a_frame_must_not_say_of_32_bit_code(cs: int, ss: int, rip: int) -> None:
    with processor() as (guest, cpu):
        put(guest, *frame((cs, ss), rip=rip))

        assert raised(lambda: interrupt_return(cpu, 8)) == (GP, 0)


@pytest.mark.parametrize(("rip", "fits"), [(0xFFF, True), (0x1000, False)])
def test_rip_is_within_the_limit_of_32_bit_code(rip: int, fits: bool) -> None:
    with processor(bits=32) as (guest, cpu):
        guest.memory.put(GDT + g.KERNEL_CS_32, 0x0040_9B00_0000_0FFF)
        put(guest, rip, g.KERNEL_CS_32, ALWAYS, size=4)

        if fits:
            interrupt_return(cpu, 4)
            assert cpu.regs.rip == rip
        else:
            assert raised(lambda: interrupt_return(cpu, 4)) == (GP, 0)


# ---- the stack -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rsp",
    [
        (1 << 47) - 16,  # its end is not canonical
        -(1 << 47) - 16 & (1 << 64) - 1,  # its start is not
        -16 & (1 << 64) - 1,  # it wraps
    ],
)
def test_a_64_bit_frame_over_an_edge(rsp: int) -> None:
    with processor() as (_, cpu):
        cpu.regs.rsp = rsp

        assert raised(lambda: interrupt_return(cpu, 8)) == (SS, 0)


@pytest.mark.parametrize(("limit", "fits"), [(STACK + 11, True), (STACK + 10, False)])
def test_a_32_bit_frame_is_within_the_stacks_limit(limit: int, fits: bool) -> None:
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS_32, ALWAYS, size=4)
        cpu.sregs.ss.limit = limit

        if fits:
            interrupt_return(cpu, 4)
            assert (cpu.regs.rip, cpu.regs.rsp) == (TARGET, STACK + 12)
        else:
            assert raised(lambda: interrupt_return(cpu, 4)) == (SS, 0)


def test_a_frame_that_wraps_on_a_16_bit_stack() -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.ss.db = 0
        cpu.regs.rsp = 0xFFF8

        assert raised(lambda: interrupt_return(cpu, 4)) == (SS, 0)


def test_a_16_bit_stack_pointer_keeps_its_upper_half() -> None:
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS_32, ALWAYS, size=4)
        cpu.sregs.ss.db = 0
        cpu.regs.rsp = 0x7_0000 | STACK

        interrupt_return(cpu, 4)

        assert cpu.regs.rsp == 0x7_0000 | STACK + 12


def test_a_16_bit_stack_of_the_outer_level_has_a_16_bit_pointer() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.memory.data[GDT + (g.USER_SS & ~3) + 6] &= ~(1 << 6)  # B
        cpu.regs.rsp = 0x7_0000 | STACK
        for index, value in enumerate((TARGET, g.USER_CS_32, ALWAYS, 0x5_0000 | OUTER_STACK, g.USER_SS)):
            guest.memory.put((0x7_0000 | STACK) + 4 * index, value, 4)

        interrupt_return(cpu, 4)

        assert cpu.regs.rsp == 0x7_0000 | OUTER_STACK


def test_a_frame_may_end_where_the_stack_pointer_does() -> None:
    with processor(bits=32) as (guest, cpu):
        cpu.sregs.ss.db = 0
        cpu.regs.rsp = 0xFFF4
        for index, value in enumerate((TARGET, 0xABCD_0000 | g.KERNEL_CS_32, ALWAYS)):
            guest.memory.put(0xFFF4 + 4 * index, value, 4)

        interrupt_return(cpu, 4)

        assert (cpu.regs.rip, cpu.regs.rsp, cpu.sregs.cs.selector) == (TARGET, 0, g.KERNEL_CS_32)


@pytest.mark.parametrize("cpl", [0, 3])
def test_the_frame_is_read_with_the_levels_rights(cpl: int) -> None:
    with processor(bits=32, cpl=cpl) as (guest, cpu):
        put(guest, TARGET, g.USER_CS_32 if cpl else g.KERNEL_CS_32, ALWAYS, size=4)
        guest.memory.put(PD_32, 0x83, 4)  # all of it is the supervisor's

        if cpl:
            assert raised(lambda: interrupt_return(cpu, 4)) == (x86.PF_VECTOR, 5)
        else:
            interrupt_return(cpu, 4)
            assert cpu.regs.rip == TARGET


# ---- data segments that the outer level may not use ------------------------------------------------------

DATA_0, DATA_3, CODE_0, CONFORMING_0 = (3, 0), (3, 3), (0xB, 0), (0xF, 0)  # type and DPL


@pytest.mark.parametrize(
    ("kind", "selector", "kept"),
    [
        (DATA_0, g.KERNEL_SS, False),
        (DATA_3, g.USER_SS, True),
        (CODE_0, g.KERNEL_CS, False),
        (CONFORMING_0, g.KERNEL_CS, True),
        (DATA_3, 3, False),  # a null selector
    ],
)
@pytest.mark.parametrize("name", ["ds", "es", "fs", "gs"])
def test_data_segments_of_the_outer_level(
    kind: tuple[int, int], selector: int, kept: bool, name: str
) -> None:
    with processor() as (guest, cpu):
        segment = getattr(cpu.sregs, name)
        segment.type, segment.dpl = kind
        segment.selector, segment.present, segment.s, segment.base = selector, 1, 1, 0x1234_0000
        put(guest, *frame(USER))

        interrupt_return(cpu, 8)

        left = getattr(cpu.sregs, name)
        assert (left.selector, bool(left.unusable)) == ((selector, False) if kept else (0, True))
        # In IA-32e mode the bases of FS and GS stay whatever is in the registers.
        assert left.base == (0x1234_0000 if kept or name in ("fs", "gs") else 0)


def test_data_segments_of_32_bit_code_lose_their_base() -> None:
    with processor(bits=32) as (guest, cpu):
        cpu.sregs.fs = x86.kvm_segment(
            base=0x1234_0000, limit=0xFFFF, selector=g.KERNEL_SS, type=3, present=1, s=1
        )
        put(guest, TARGET, g.USER_CS_32, ALWAYS, OUTER_STACK, g.USER_SS, size=4)

        interrupt_return(cpu, 4)

        assert (cpu.sregs.fs.base, cpu.sregs.fs.selector, bool(cpu.sregs.fs.unusable)) == (0, 0, True)


def test_a_return_to_the_same_level_leaves_data_segments_alone() -> None:
    with processor() as (guest, cpu):
        before = [bytes(getattr(cpu.sregs, name)) for name in ("ds", "es", "fs", "gs")]
        put(guest, *frame())

        interrupt_return(cpu, 8)

        assert [bytes(getattr(cpu.sregs, name)) for name in ("ds", "es", "fs", "gs")] == before


# ---- what is not carried out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cr0_clear", "cr4", "flags", "words"),
    [(1, 0, 0, "real"), (0, 0, r.RFLAGS_VM, "real or virtual-8086"), (0, r.CR4_CET, 0, "control-flow")],
)
def test_modes_that_are_not_carried_out(cr0_clear: int, cr4: int, flags: int, words: str) -> None:
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS_32, ALWAYS, size=4)
        cpu.sregs.cr0 &= ~cr0_clear
        cpu.sregs.cr4 |= cr4
        cpu.regs.rflags |= flags

        with pytest.raises(DeclinedError, match=words):
            interrupt_return(cpu, 4)


def test_a_return_to_virtual_8086_mode_is_ring_0s() -> None:
    flags = ALWAYS | r.RFLAGS_VM
    with processor(bits=32) as (guest, cpu):
        put(guest, TARGET, g.KERNEL_CS_32, flags, size=4)
        with pytest.raises(DeclinedError, match="virtual-8086"):
            interrupt_return(cpu, 4)
    with processor(bits=32, cpl=3) as (guest, cpu):
        put(guest, TARGET, g.USER_CS_32, flags, size=4)
        interrupt_return(cpu, 4)
        assert not cpu.regs.rflags & r.RFLAGS_VM
    with processor() as (guest, cpu):
        put(guest, *frame(flags=flags))
        interrupt_return(cpu, 8)
        assert not cpu.regs.rflags & r.RFLAGS_VM


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
