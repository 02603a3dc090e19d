# SPDX-License-Identifier: Apache-2.0
"""Who may call, where the parameters of a call travel, and how a call ends (TLFS 3.5 to 3.9).

| | 64-bit caller | 32-bit caller |
|---|---|---|
| control word | RCX | EDX:EAX |
| input GPA, or bytes 0-7 of fast input | RDX | EBX:ECX |
| output GPA, or bytes 8-15 of fast input | R8 | EDI:ESI |
| bytes 16-111 of fast input | XMM0 to XMM5 | XMM0 to XMM5 |
| fast output | the same registers, from the first 16-byte chunk behind the input | not possible |
| result value | RAX | EDX:EAX |
| VTL call and return: code, control | RCX, RAX | EAX, ECX |

Implements: HC-002, HC-006, HC-007, HC-008, HC-014
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from vmm.hv.constants import HV_HYPERCALL_FAST_INPUT_SIZE, HV_HYPERCALL_FAST_XMM_INPUT_SIZE
from vmm.hypercall.outside import CallerRegisters, XmmBlock


class CallerMode(enum.IntEnum):
    """What the processor was doing at the trap instruction."""

    ILLEGAL = 0
    """Real mode, virtual-8086 mode or CPL above 0: no hypercall, #UD."""
    BITS_32 = 1
    """Protected or compatibility mode."""
    BITS_64 = 2
    """EFER.LMA and CS.L are set."""


class Outcome(enum.IntEnum):
    """What the transport does now. RIP is still at the trap instruction."""

    COMPLETED = 0
    """The result is in its registers: move RIP behind the trap instruction."""
    RETRY = -1
    """Leave RIP: the caller makes the call again, after whatever became deliverable meanwhile (continuation)."""
    INVALID_OPCODE = -2
    """Inject #UD at the trap instruction. No register changed."""
    INTERCEPT = -3
    """Leave RIP: `HypercallContext.intercept_memory_access` was told; a higher VTL runs first. No register changed."""
    VTL_SWITCH = -4
    """Move RIP behind the trap instruction, then do the switch that the handler has set up. No register changed."""


# Plain integers: comparing members costs on the path that every hypercall takes.
ILLEGAL: Final = int(CallerMode.ILLEGAL)
BITS_32: Final = int(CallerMode.BITS_32)
BITS_64: Final = int(CallerMode.BITS_64)

CR0_PE: Final = 1 << 0
EFER_LMA: Final = 1 << 10
RFLAGS_VM: Final = 1 << 17
LOW_32: Final = 0xFFFF_FFFF

_PAIR: Final = struct.Struct("<QQ")
_CHUNK: Final = 16
FAST_GENERAL_SIZE: Final = HV_HYPERCALL_FAST_INPUT_SIZE
FAST_SIZE: Final = HV_HYPERCALL_FAST_XMM_INPUT_SIZE


def caller_mode(cr0: int, efer: int, rflags: int, cs_l: int, cpl: int) -> CallerMode:
    """The mode from the registers at the trap (SDM vol. 3, 3.1 and 21.1).

    Implements: HC-002, HC-014
    """
    if cpl or not cr0 & CR0_PE or rflags & RFLAGS_VM:
        return CallerMode.ILLEGAL
    return CallerMode.BITS_64 if cs_l and efer & EFER_LMA else CallerMode.BITS_32


def operands(registers: CallerRegisters, mode: int) -> tuple[int, int, int]:
    """Control word; GPA of the input list or bytes 0-7 of fast input; GPA of the output list or bytes 8-15."""
    if mode == BITS_64:
        return registers.rcx, registers.rdx, registers.r8
    return (
        (registers.rdx & LOW_32) << 32 | registers.rax & LOW_32,
        (registers.rbx & LOW_32) << 32 | registers.rcx & LOW_32,
        (registers.rdi & LOW_32) << 32 | registers.rsi & LOW_32,
    )


def set_control_word(registers: CallerRegisters, mode: int, control: int) -> None:
    """Where a repeated call finds its control word."""
    if mode == BITS_64:
        registers.rcx = control
    else:
        registers.rdx = control >> 32
        registers.rax = control & LOW_32


def set_result(registers: CallerRegisters, mode: int, result: int) -> None:
    """RAX, or EDX:EAX."""
    if mode == BITS_64:
        registers.rax = result
    else:
        registers.rdx = result >> 32
        registers.rax = result & LOW_32


def chunks(size: int) -> int:
    """`size` rounded up to whole 16-byte chunks (register pair or XMM register), in bytes."""
    return (size + _CHUNK - 1) & -_CHUNK


def write_fast_output(registers: CallerRegisters, xmm: XmmBlock, offset: int, data: bytes) -> None:
    """Store `data` at `offset` of the 64-bit caller's parameter block. Bytes around it keep their value.

    Implements: HC-007, HC-008
    """
    if offset < FAST_GENERAL_SIZE:
        general = data[: FAST_GENERAL_SIZE - offset]
        block = bytearray(_PAIR.pack(registers.rdx, registers.r8))
        block[offset : offset + len(general)] = general
        registers.rdx, registers.r8 = _PAIR.unpack(block)
        data = data[len(general) :]
        offset = FAST_GENERAL_SIZE
    if data:
        xmm.write(offset - FAST_GENERAL_SIZE, data)
