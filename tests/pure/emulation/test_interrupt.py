# SPDX-License-Identifier: Apache-2.0
"""INT3, INT n, INTO, INT1 through the IDT: frames, stacks, flags, and the fault of every check on the way."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import CODE, HANDLER, STACK, Guest, a_guest
from vmm.backend.emulation import registers as r

INT3, INT_40, INTO, INT1 = b"\xcc", b"\xcd\x40", b"\xce", b"\xf1"
VECTOR = 0x40
OF_VECTOR_40 = VECTOR << 3 | 2  # error code: index 0x40 of the IDT, not an external event
FLAGS = r.RFLAGS_IF | 2


def fault(guest: Guest) -> tuple[int, int | None] | None:
    """The exception; whatever it is, RIP and RSP are where they were."""
    assert (guest.regs.rip, guest.regs.rsp) == (CODE, STACK)
    return guest.exception


# ---- 64-bit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "vector"), [(INT3, 3), (INT_40, 0x40), (b"\xcd\xff", 0xFF), (INT1, 1)])
def test_ring_0_enters_the_handler_with_the_return_address_behind(code: bytes, vector: int) -> None:
    with a_guest() as guest:
        guest.gate(vector)

        assert guest.carry_out(code) is None

        assert guest.exception is None
        assert guest.regs.rip == HANDLER
        assert guest.regs.rflags == 2  # interrupt gate: IF off
        # RIP, CS, RFLAGS, RSP, SS from the top of the stack down
        assert guest.frame(5) == [CODE + len(code), g.KERNEL_CS, FLAGS, STACK, g.KERNEL_SS]
        assert guest.regs.rsp == STACK - 40


def test_the_stack_is_aligned_to_16_first() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.set_regs(rsp=STACK - 9)

        guest.carry_out(INT_40)

        assert guest.regs.rsp == STACK - 16 - 40
        assert guest.frame(5)[3] == STACK - 9


def test_a_trap_gate_leaves_interrupts_on() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR, type=0xF)

        guest.carry_out(INT_40)

        assert guest.regs.rflags & r.RFLAGS_IF


def test_flags_cleared_and_flags_pushed() -> None:
    set_ = r.RFLAGS_TF | r.RFLAGS_NT | r.RFLAGS_AC | r.RFLAGS_RF | r.RFLAGS_OF
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.set_regs(rflags=FLAGS | set_)

        guest.carry_out(INT_40)

        assert guest.regs.rflags == 2 | r.RFLAGS_AC | r.RFLAGS_OF
        assert guest.frame(3)[2] == FLAGS | set_ & ~r.RFLAGS_RF
        assert guest.exception is None  # no single-step trap after INT n


def test_ring_3_changes_to_rsp0_and_a_null_ss() -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(VECTOR)

        guest.carry_out(INT_40)

        assert guest.frame(5) == [CODE + 2, g.USER_CS, FLAGS, STACK, g.USER_SS]
        assert guest.regs.rsp == g.RSP0 - 40
        sregs = guest.sregs
        assert (sregs.cs.selector, sregs.cs.dpl, sregs.cs.l) == (g.KERNEL_CS, 0, 1)
        assert (sregs.ss.selector, sregs.ss.dpl) == (0, 0)


@pytest.mark.parametrize("cpl", [0, 3])
def test_an_interrupt_stack_is_used_at_any_level(cpl: int) -> None:
    with a_guest(cpl=cpl) as guest:
        guest.gate(VECTOR, ist=1)

        guest.carry_out(INT_40)

        assert guest.regs.rsp == g.IST1 - 40


def test_the_code_descriptor_becomes_accessed() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.memory.data[g.GDT + g.KERNEL_CS + 5] &= ~1

        guest.carry_out(INT_40)

        assert guest.memory.data[g.GDT + g.KERNEL_CS + 5] & 1
        assert guest.sregs.cs.type & 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dpl": 0}, (x86.GP_VECTOR, OF_VECTOR_40)),
        ({"present": 0}, (x86.NP_VECTOR, OF_VECTOR_40)),
        ({"dpl": 0, "present": 0}, (x86.GP_VECTOR, OF_VECTOR_40)),  # privilege is checked first
        ({"type": 0x5}, (x86.GP_VECTOR, OF_VECTOR_40)),  # no task gates in 64-bit mode
        ({"type": 0x6}, (x86.GP_VECTOR, OF_VECTOR_40)),
        ({"selector": 0}, (x86.GP_VECTOR, 0)),
        ({"selector": 0x1000}, (x86.GP_VECTOR, 0x1000)),  # beyond the GDT
        ({"selector": 0x0C}, (x86.GP_VECTOR, 0x0C)),  # no LDT
        ({"selector": g.KERNEL_SS}, (x86.GP_VECTOR, g.KERNEL_SS)),  # data
        ({"selector": g.KERNEL_CS_32}, (x86.GP_VECTOR, g.KERNEL_CS_32)),  # not 64-bit code
        ({"offset": 1 << 47}, (x86.GP_VECTOR, 0)),
    ],
)
def test_gates_that_ring_3_cannot_go_through(changes: dict[str, int], expected: tuple[int, int]) -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(VECTOR, **changes)

        assert guest.carry_out(INT_40) is None

        assert fault(guest) == expected


def test_int1_ignores_the_gates_privilege() -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(1, dpl=0)

        guest.carry_out(INT1)

        assert guest.exception is None
        assert guest.regs.rip == HANDLER


def test_int1_faults_as_an_external_event() -> None:
    with a_guest() as guest:
        guest.gate(1, present=0)

        guest.carry_out(INT1)

        assert fault(guest) == (x86.NP_VECTOR, 1 << 3 | 2 | 1)


def test_a_gate_beyond_the_idt() -> None:
    with a_guest() as guest:
        sregs = guest.sregs
        sregs.idt.limit = VECTOR * 16 + 14
        guest.vcpu.set_sregs(sregs)

        guest.carry_out(INT_40)

        assert fault(guest) == (x86.GP_VECTOR, OF_VECTOR_40)


def test_a_selector_beyond_the_gdt_is_not_looked_up() -> None:
    with a_guest() as guest:
        beyond = 0x40  # the limit is 0x3F
        guest.memory.put(g.GDT + beyond, guest.memory.number(g.GDT + g.KERNEL_CS))
        guest.gate(VECTOR, selector=beyond)

        guest.carry_out(INT_40)

        assert fault(guest) == (x86.GP_VECTOR, beyond)


def test_a_code_segment_that_is_not_present() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.memory.data[g.GDT + g.KERNEL_CS + 5] &= ~0x80

        guest.carry_out(INT_40)

        assert fault(guest) == (x86.NP_VECTOR, g.KERNEL_CS)


def test_outer_code_cannot_be_entered_from_ring_0() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR, selector=g.USER_CS)

        guest.carry_out(INT_40)

        assert fault(guest) == (x86.GP_VECTOR, g.USER_CS & ~3)


def test_conforming_code_keeps_the_level() -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(VECTOR)
        guest.memory.data[g.GDT + g.KERNEL_CS + 5] |= 4

        guest.carry_out(INT_40)

        assert guest.sregs.cs.selector == g.KERNEL_CS | 3
        assert guest.sregs.ss.selector == g.USER_SS
        assert guest.regs.rsp == STACK - 40


@pytest.mark.parametrize(
    ("page", "clear", "error_code"),
    [
        (g.IDT, 1, 0),
        (g.GDT, 1, 0),
        (g.TSS, 1, 0),
        (g.RSP0 - 40, 1, 2),  # a write by the supervisor
        (g.RSP0 - 40, 2, 3),
    ],
)
def test_page_faults_on_the_way_are_supervisors(page: int, clear: int, error_code: int) -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(VECTOR)
        guest.change_page(page, clear=clear)

        assert guest.carry_out(INT_40) is None

        assert fault(guest) == (x86.PF_VECTOR, error_code)
        assert guest.sregs.cr2 & ~0xFFF == page & ~0xFFF


def test_smap_guards_system_tables_whatever_ac_says() -> None:
    with a_guest() as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_SMAP)
        guest.set_regs(rflags=FLAGS | r.RFLAGS_AC)
        guest.gate(VECTOR)

        guest.carry_out(INT_40)  # all pages of this guest are the user's

        assert fault(guest) == (x86.PF_VECTOR, 1)
        assert guest.sregs.cr2 == g.IDT + VECTOR * 16


def test_a_frame_over_two_pages_faults_before_its_first_byte() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.set_regs(rsp=STACK + 16)  # the frame is [STACK - 24, STACK + 16)
        guest.change_page(STACK - 24, clear=1)
        guest.memory.written.clear()

        guest.carry_out(INT_40)

        assert guest.exception == (x86.PF_VECTOR, 2)
        assert not [gpa for gpa, _ in guest.memory.written if gpa >= g.CODE]


def test_a_stack_pointer_that_is_not_canonical() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.set_regs(rsp=(1 << 47) + 16)

        guest.carry_out(INT_40)

        assert guest.exception == (x86.SS_VECTOR, 0)


def test_a_tss_too_short_for_the_stack() -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(VECTOR)
        sregs = guest.sregs
        sregs.tr.limit = 10
        guest.vcpu.set_sregs(sregs)

        guest.carry_out(INT_40)

        assert fault(guest) == (x86.TS_VECTOR, g.TSS_SELECTOR)


def test_a_stack_that_is_not_ram_is_declined() -> None:
    with a_guest() as guest:
        guest.gate(VECTOR)
        guest.memory.put(g.PT + 8 * (STACK - 40 >> 12), 0xFEC0_0007)

        refusal = guest.carry_out(INT_40)

        assert refusal is not None
        assert "not RAM" in refusal
        assert (guest.regs.rip, guest.regs.rsp, guest.exception) == (CODE, STACK, None)


def test_into_does_not_exist_in_64_bit_mode() -> None:
    with a_guest() as guest:
        guest.set_regs(rflags=FLAGS | r.RFLAGS_OF)

        guest.carry_out(INTO)

        assert fault(guest) == (x86.UD_VECTOR, None)


@pytest.mark.parametrize(("cr0_clear", "cr4_set", "words"), [(1, 0, "real"), (0, r.CR4_CET, "control-flow")])
def test_modes_that_are_not_carried_out(cr0_clear: int, cr4_set: int, words: str) -> None:
    with a_guest() as guest:
        sregs = guest.sregs
        guest.set_sregs(cr0=sregs.cr0 & ~cr0_clear, cr4=sregs.cr4 | cr4_set)

        refusal = guest.carry_out(INT_40)

        assert refusal is not None
        assert words in refusal


# ---- 32-bit ----------------------------------------------------------------------------------------------


def test_32_bit_ring_0() -> None:
    with a_guest(bits=32) as guest:
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)

        assert guest.carry_out(INT_40) is None

        assert guest.frame(3, 4) == [CODE + 2, g.KERNEL_CS_32, FLAGS]
        assert (guest.regs.rip, guest.regs.rsp) == (HANDLER, STACK - 12)


def test_32_bit_ring_3_loads_the_stack_of_the_tss() -> None:
    with a_guest(bits=32, cpl=3) as guest:
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)

        guest.carry_out(INT_40)

        assert guest.frame(5, 4) == [CODE + 2, g.USER_CS_32, FLAGS, STACK, g.USER_SS]
        assert guest.regs.rsp == g.RSP0 - 20
        assert (guest.sregs.ss.selector, guest.sregs.ss.dpl, guest.sregs.cs.dpl) == (g.KERNEL_SS, 0, 0)


def test_a_16_bit_gate_pushes_words() -> None:
    with a_guest(bits=32) as guest:
        guest.gate(VECTOR, selector=g.KERNEL_CS_32, type=0x6, offset=0x1_0000 | HANDLER)

        guest.carry_out(INT_40)

        assert guest.frame(3, 2) == [CODE + 2, g.KERNEL_CS_32, FLAGS]
        assert guest.regs.rip == HANDLER  # the upper half of the offset does not count


@pytest.mark.parametrize(("flags", "rip"), [(r.RFLAGS_OF, HANDLER), (0, CODE + 1)])
def test_into_looks_at_of(flags: int, rip: int) -> None:
    with a_guest(bits=32) as guest:
        guest.gate(4, selector=g.KERNEL_CS_32)
        guest.set_regs(rflags=FLAGS | flags)

        guest.carry_out(INTO)

        assert guest.regs.rip == rip


@pytest.mark.parametrize(
    ("selector", "descriptor", "expected"),
    [
        (0, None, (x86.TS_VECTOR, 0)),
        (g.USER_SS, None, (x86.TS_VECTOR, g.USER_SS & ~3)),  # RPL and DPL 3
        (g.KERNEL_CS_32, None, (x86.TS_VECTOR, g.KERNEL_CS_32)),  # code
        (0x1000, None, (x86.TS_VECTOR, 0x1000)),
        (g.KERNEL_SS, 0x00CF_1300_0000_FFFF, (x86.SS_VECTOR, g.KERNEL_SS)),  # not present
        (g.KERNEL_SS, 0x0040_9300_0000_0100, (x86.SS_VECTOR, g.KERNEL_SS)),  # ESP beyond its limit
    ],
)
def test_a_32_bit_tss_with_a_bad_stack(
    selector: int, descriptor: int | None, expected: tuple[int, int]
) -> None:
    with a_guest(bits=32, cpl=3) as guest:
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.memory.put(g.TSS + 8, selector, 2)
        if descriptor is not None:
            guest.memory.put(g.GDT + selector, descriptor)

        guest.carry_out(INT_40)

        assert fault(guest) == expected


def test_a_stack_segment_without_room() -> None:
    with a_guest(bits=32) as guest:
        guest.gate(VECTOR, selector=g.KERNEL_CS_32)
        guest.set_regs(rsp=8)  # 12 bytes do not fit: the rest would wrap

        guest.carry_out(INT_40)

        assert guest.exception == (x86.SS_VECTOR, 0)


def test_a_task_gate_is_declined() -> None:
    with a_guest(bits=32) as guest:
        guest.gate(VECTOR, type=0x5)

        refusal = guest.carry_out(INT_40)

        assert refusal is not None
        assert "task gate" in refusal
