# SPDX-License-Identifier: Apache-2.0
"""Operands of instructions that are carried out by hand: the segment's type and limit count, before anything is read.

From the operation sections of SDM volume 2, `MOV`, `POP`, `SIDT`, `LIDT`: #SS(0) for what lies outside of the stack
segment, #GP(0) for the others, and for a segment that is null, or may not be read or written.
"""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation import guest as g
from tests.pure.emulation.guest import STACK, a_guest
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.backend.protection import by_hand
from vmm.backend.protection.decoded import decode
from vmm.hypercall.outside import UnprotectedMemory

DATA = 0x8000
GP, SS = (x86.GP_VECTOR, 0), (x86.SS_VECTOR, 0)
READ_WRITE, EXPAND_DOWN, EXECUTE_ONLY, READ_ONLY = 3, 7, 9, 1

POP_SS = b"\x17"
POP_SS_16 = b"\x66\x17"
MOV_SS_EBX = b"\x8e\x13"  # from DS:[EBX]
MOV_SS_EBP = b"\x8e\x55\x00"  # from SS:[EBP]
MOV_SS_CS_EBX = b"\x2e\x8e\x13"
SIDT_EBX, LIDT_EBX = b"\x0f\x01\x0b", b"\x0f\x01\x1b"


def carried_out(
    code: bytes,
    segments: dict[str, dict[str, int]],
    *,
    bits: int = 32,
    address: int = DATA,
    rsp: int = STACK,
) -> tuple[Processor, tuple[int, int] | None]:
    """The processor behind the instruction, and the exception that it has raised."""
    with a_guest(bits=bits) as guest:
        for at in (DATA, STACK):
            guest.memory.put(at, g.KERNEL_SS)
        cpu = Processor(guest.vcpu, UnprotectedMemory(guest.memory), Cpuid([]))
        cpu.regs.rbx = cpu.regs.rbp = address
        cpu.regs.rsp = rsp
        for name, fields in segments.items():
            for field, value in fields.items():
                setattr(getattr(cpu.sregs, name), field, value)
        decoded = decode(code, cpu.regs.rip, bits)
        assert decoded is not None
        assert by_hand.carry_out(cpu, decoded, hardware=True)
        exception = guest.vcpu.get_vcpu_events().exception
        raised = exception.injected or exception.pending
        return cpu, (exception.nr, exception.error_code) if raised else None


@pytest.mark.parametrize(
    ("code", "segments", "fault"),
    [
        (POP_SS, {"ss": {"limit": STACK + 1}}, None),
        (POP_SS, {"ss": {"limit": STACK}}, SS),
        (POP_SS_16, {"ss": {"limit": STACK}}, SS),
        (POP_SS, {"ss": {"type": EXPAND_DOWN, "limit": STACK - 1}}, None),
        (POP_SS, {"ss": {"type": EXPAND_DOWN, "limit": STACK}}, SS),
        (MOV_SS_EBX, {"ds": {"limit": DATA + 1}}, None),
        (MOV_SS_EBX, {"ds": {"limit": DATA}}, GP),
        (MOV_SS_EBX, {"ds": {"unusable": 1}}, GP),
        (MOV_SS_EBX, {"ds": {"type": EXPAND_DOWN, "limit": DATA}}, GP),
        (MOV_SS_EBP, {"ss": {"limit": DATA}}, SS),
        (MOV_SS_CS_EBX, {"cs": {"limit": DATA}}, GP),
        (MOV_SS_CS_EBX, {"cs": {"type": EXECUTE_ONLY}}, GP),
        (SIDT_EBX, {"ds": {"limit": DATA + 5}}, None),
        (SIDT_EBX, {"ds": {"limit": DATA + 4}}, GP),
        (SIDT_EBX, {"ds": {"type": READ_ONLY}}, GP),
        (LIDT_EBX, {"ds": {"limit": DATA + 5}}, None),
        (LIDT_EBX, {"ds": {"limit": DATA + 4}}, GP),
        (LIDT_EBX, {"ds": {"type": READ_ONLY}}, None),
    ],
)
def test_in_32_bit_code_a_segment_limits_its_operands(
    code: bytes, segments: dict[str, dict[str, int]], fault: tuple[int, int] | None
) -> None:
    cpu, raised = carried_out(code, segments)

    assert raised == fault
    assert (cpu.regs.rip, cpu.regs.rsp) == (
        (g.CODE, STACK) if fault else (g.CODE + len(code), STACK + {POP_SS: 4, POP_SS_16: 2}.get(code, 0))
    )


@pytest.mark.parametrize(("rsp", "fault"), [(STACK, None), (0xFFFF, SS)])
def test_a_word_over_the_end_of_a_16_bit_stack(rsp: int, fault: tuple[int, int] | None) -> None:
    _, raised = carried_out(POP_SS, {"ss": {"db": 0, "limit": 0xFFFF}}, rsp=rsp)

    assert raised == fault


@pytest.mark.parametrize(
    ("code", "fault"), [(MOV_SS_EBX, GP), (MOV_SS_EBP, SS), (SIDT_EBX, GP), (LIDT_EBX, GP)]
)
def test_in_64_bit_code_an_operand_has_to_be_canonical(code: bytes, fault: tuple[int, int]) -> None:
    cpu, raised = carried_out(code, {"ds": {"limit": 0}, "ss": {"limit": 0}}, bits=64, address=1 << 47)

    assert (raised, cpu.regs.rip) == (fault, g.CODE)


def test_in_64_bit_code_no_segment_has_a_limit() -> None:
    cpu, raised = carried_out(MOV_SS_EBX, {"ds": {"limit": 0, "unusable": 1}}, bits=64)

    assert (raised, cpu.sregs.ss.selector) == (None, g.KERNEL_SS)
