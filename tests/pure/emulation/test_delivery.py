# SPDX-License-Identifier: Apache-2.0
"""`deliver` itself: exceptions' error codes, the stacks of all levels, and the last byte that each limit allows."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import GDT, HANDLER, PD_32, STACK, TSS, Guest, processor, raised
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import DeclinedError
from vmm.backend.emulation.interrupt import deliver
from vmm.backend.emulation.processor import Processor

GP, SS, TS, PF = x86.GP_VECTOR, x86.SS_VECTOR, x86.TS_VECTOR, x86.PF_VECTOR
VECTOR, RIP, FLAGS = 13, g.CODE, r.RFLAGS_IF | 2
ERROR_CODE = 0x1234_5678
RING_1_STACK, RING_1_CS, RING_1_SS = 0xE000, g.KERNEL_CS_32 | 1, g.KERNEL_SS | 1
DPL_1 = 1 << 45


def pushed(guest: Guest, cpu: Processor, count: int, size: int) -> list[int]:
    at = cpu.regs.rsp
    return [guest.memory.number(at + size * index, size) for index in range(count)]


@pytest.mark.parametrize(
    ("bits", "cs", "gate", "size", "rest"),
    [
        (64, g.KERNEL_CS, 0xE, 8, [ERROR_CODE, RIP, g.KERNEL_CS, FLAGS, STACK, g.KERNEL_SS]),
        (32, g.KERNEL_CS_32, 0xE, 4, [ERROR_CODE, RIP, g.KERNEL_CS_32, FLAGS]),
        (32, g.KERNEL_CS_32, 0x6, 2, [ERROR_CODE & 0xFFFF, RIP, g.KERNEL_CS_32, FLAGS]),
    ],
)
def test_an_error_code_is_pushed_last_and_as_wide_as_the_rest(
    bits: int, cs: int, gate: int, size: int, rest: list[int]
) -> None:
    with processor(bits=bits) as (guest, cpu):
        guest.gate(VECTOR, selector=cs, type=gate)

        deliver(cpu, VECTOR, software=False, error_code=ERROR_CODE)

        assert pushed(guest, cpu, len(rest), size) == rest
        assert (cpu.regs.rsp, cpu.regs.rip) == (STACK - size * len(rest), HANDLER)


@pytest.mark.parametrize("fault", [False, True])
def test_a_fault_saves_rf(fault: bool) -> None:
    with processor() as (guest, cpu):
        guest.gate(VECTOR)
        cpu.regs.rflags |= r.RFLAGS_RF

        deliver(cpu, VECTOR, software=False, fault=fault)

        assert pushed(guest, cpu, 3, 8)[2] == FLAGS | (r.RFLAGS_RF if fault else 0)
        assert not cpu.regs.rflags & r.RFLAGS_RF


# ---- stacks of the TSS -----------------------------------------------------------------------------------


def test_64_bit_code_of_ring_1_has_a_stack_of_its_own() -> None:
    with processor(cpl=3) as (guest, cpu):
        guest.gate(VECTOR)
        guest.memory.put(GDT + g.KERNEL_CS, guest.memory.number(GDT + g.KERNEL_CS) | DPL_1)
        guest.memory.put(TSS + 12, RING_1_STACK)

        deliver(cpu, VECTOR)

        assert (cpu.regs.rsp, cpu.cpl) == (RING_1_STACK - 40, 1)
        assert (cpu.sregs.cs.selector, cpu.sregs.ss.selector) == (g.KERNEL_CS | 1, 1)
        # A null selector with a hidden part that can be used, as 64-bit code needs it.
        ss = cpu.sregs.ss
        assert (ss.base, ss.limit, ss.type, ss.present, ss.dpl, ss.s, ss.unusable) == (
            0,
            0xFFFF_FFFF,
            3,
            1,
            1,
            1,
            0,
        )


@pytest.mark.parametrize("ist", [2, 7])
def test_each_interrupt_stack_has_its_place(ist: int) -> None:
    with processor() as (guest, cpu):
        guest.gate(VECTOR, ist=ist)
        guest.memory.put(TSS + 28 + 8 * ist, RING_1_STACK)

        deliver(cpu, VECTOR)

        assert cpu.regs.rsp == RING_1_STACK - 40


@pytest.mark.parametrize(("tss", "pointer_at", "size"), [(0xB, 12, 4), (3, 6, 2)], ids=["32-bit", "16-bit"])
def test_32_bit_code_of_ring_1_has_a_stack_of_its_own(tss: int, pointer_at: int, size: int) -> None:
    with processor(bits=32, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        for selector in (g.KERNEL_CS_32, g.KERNEL_SS):
            guest.memory.put(GDT + selector, guest.memory.number(GDT + selector) | DPL_1)
        cpu.sregs.tr.type = tss
        guest.memory.put(TSS + pointer_at, RING_1_STACK, size)
        guest.memory.put(TSS + pointer_at + size, RING_1_SS, 2)

        deliver(cpu, VECTOR)

        assert (cpu.regs.rsp, cpu.cpl) == (RING_1_STACK - 20, 1)
        assert (cpu.sregs.cs.selector, cpu.sregs.ss.selector) == (RING_1_CS, RING_1_SS)
        assert pushed(guest, cpu, 5, 4) == [RIP, g.USER_CS_32, FLAGS, STACK, g.USER_SS]


@pytest.mark.parametrize("tss", [1, 3], ids=["available", "busy"])
def test_both_types_of_16_bit_tss_are_one(tss: int) -> None:
    with processor(bits=32, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        cpu.sregs.tr.type = tss
        guest.memory.put(TSS + 2, g.RSP0, 2)
        guest.memory.put(TSS + 4, g.KERNEL_SS, 2)

        deliver(cpu, VECTOR)

        assert cpu.regs.rsp == g.RSP0 - 20


@pytest.mark.parametrize(
    ("bits", "tss", "ist", "last"),
    [
        (64, 0xB, 0, 4 + 7),
        (64, 0xB, 1, 36 + 7),
        (32, 0xB, 0, 4 + 5),
        (32, 3, 0, 2 + 3),
    ],
)
def test_the_stack_is_wholly_in_the_tss(bits: int, tss: int, ist: int, last: int) -> None:
    for limit, fits in ((last, True), (last - 1, False)):
        with processor(bits=bits, cpl=3) as (guest, cpu):
            guest.gate(VECTOR, selector=g.KERNEL_CS if bits == 64 else g.KERNEL_CS_32, ist=ist)
            cpu.sregs.tr.type, cpu.sregs.tr.limit = tss, limit
            if tss == 3:
                guest.memory.put(TSS + 2, g.RSP0, 2)
                guest.memory.put(TSS + 4, g.KERNEL_SS, 2)

            if fits:
                deliver(cpu, VECTOR)
                assert cpu.regs.rip == HANDLER
            else:
                assert raised(lambda: deliver(cpu, VECTOR)) == (TS, g.TSS_SELECTOR)


def test_a_null_stack_segment_in_the_tss_is_not_looked_up() -> None:
    with processor(bits=32, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.memory.put(GDT, guest.memory.number(GDT + g.KERNEL_SS))
        guest.memory.put(TSS + 8, 0, 2)

        assert raised(lambda: deliver(cpu, VECTOR, software=False)) == (TS, 1)


def test_the_error_code_has_no_rpl() -> None:
    with processor(bits=32, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.memory.put(TSS + 8, 0x1000 | 3, 2)

        assert raised(lambda: deliver(cpu, VECTOR)) == (TS, 0x1000)


def test_the_stack_segment_of_the_tss_becomes_accessed() -> None:
    with processor(bits=32, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.memory.data[GDT + g.KERNEL_SS + 5] &= ~1

        deliver(cpu, VECTOR)

        assert guest.memory.data[GDT + g.KERNEL_SS + 5] & 1


# ---- pushing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rsp", "why"),
    [
        ((1 << 47) + 16, "its end"),
        (-(1 << 47) + 16 & (1 << 64) - 1, "its start"),
    ],
)
def test_a_64_bit_frame_that_is_not_canonical(rsp: int, why: str) -> None:
    with processor() as (guest, cpu):
        guest.gate(VECTOR)
        cpu.regs.rsp = rsp

        assert raised(lambda: deliver(cpu, VECTOR)) == (SS, 0), why


def test_a_frame_that_wraps_on_a_16_bit_stack() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        cpu.sregs.ss.db = 0
        cpu.regs.rsp = 0x1_0008

        assert raised(lambda: deliver(cpu, VECTOR)) == (SS, 0)


def test_a_16_bit_stack_pointer_keeps_its_upper_half() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        cpu.sregs.ss.db = 0
        cpu.regs.rsp = 0x7_0000 | STACK

        deliver(cpu, VECTOR)

        assert cpu.regs.rsp == 0x7_0000 | STACK - 12


@pytest.mark.parametrize(("lowest", "fits"), [(STACK - 13, True), (STACK - 12, False)])
def test_a_frame_is_within_the_limit_of_an_expand_down_stack(lowest: int, fits: bool) -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        cpu.sregs.ss.type, cpu.sregs.ss.limit = 7, lowest  # offsets above the limit are allowed

        if fits:
            deliver(cpu, VECTOR)
            assert cpu.regs.rsp == STACK - 12
        else:
            assert raised(lambda: deliver(cpu, VECTOR)) == (SS, 0)


def test_a_32_bit_frame_is_written_with_a_writes_rights() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.memory.put(PD_32, 0x85, 4)  # read-only

        assert raised(lambda: deliver(cpu, VECTOR)) == (PF, 3)


@pytest.mark.parametrize("bits", [64, 32])
def test_conforming_code_pushes_with_ring_3s_rights(bits: int) -> None:
    cs = g.KERNEL_CS if bits == 64 else g.KERNEL_CS_32
    with processor(bits=bits, cpl=3) as (guest, cpu):
        guest.gate(VECTOR, selector=cs)
        guest.memory.data[GDT + cs + 5] |= 4
        guest.change_page(STACK - 40, clear=4)
        guest.memory.put(PD_32, 0x83, 4)

        assert raised(lambda: deliver(cpu, VECTOR)) == (PF, 7)


# ---- code segments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [0, 1 << 6])
def test_ia_32e_mode_wants_64_bit_code(changed: int) -> None:
    """Neither 32-bit code nor code that says it is of both sizes."""
    cs = g.KERNEL_CS if changed else g.KERNEL_CS_32
    with processor() as (guest, cpu):
        guest.gate(VECTOR, selector=cs)
        guest.memory.data[GDT + cs + 6] |= changed

        assert raised(lambda: deliver(cpu, VECTOR)) == (GP, cs)


@pytest.mark.parametrize(("selector", "software", "error_code"), [(0, True, 0), (3, True, 0), (0, False, 1)])
def test_a_null_code_segment_is_not_looked_up(selector: int, software: bool, error_code: int) -> None:
    with processor() as (guest, cpu):
        guest.gate(VECTOR, selector=selector)
        guest.memory.put(GDT, guest.memory.number(GDT + g.KERNEL_CS))

        assert raised(lambda: deliver(cpu, VECTOR, software=software)) == (GP, error_code)


@pytest.mark.parametrize(("offset", "fits"), [(0xFFF, True), (0x1000, False)])
def test_the_handler_is_within_the_limit_of_32_bit_code(offset: int, fits: bool) -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32, offset=offset)
        guest.memory.put(GDT + g.KERNEL_CS_32, 0x0040_9B00_0000_0FFF)

        if fits:
            deliver(cpu, VECTOR)
            assert cpu.regs.rip == offset
        else:
            assert raised(lambda: deliver(cpu, VECTOR)) == (GP, 0)


def test_a_handler_that_is_not_canonical() -> None:
    with processor() as (guest, cpu):
        guest.gate(VECTOR, offset=1 << 47)

        assert raised(lambda: deliver(cpu, VECTOR, software=False)) == (GP, 1)


def test_virtual_8086_mode_is_declined() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        cpu.regs.rflags |= r.RFLAGS_VM

        with pytest.raises(DeclinedError, match="virtual-8086"):
            deliver(cpu, VECTOR)
