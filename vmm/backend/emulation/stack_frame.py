# SPDX-License-Identifier: Apache-2.0
"""The stack on which an interrupt's frame goes: the one in use, or the TSS' (SDM volume 3, 6.12.1 and 6.14.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvmapi.uapi import x86
from vmm.backend.emulation.addressing import inside
from vmm.backend.emulation.descriptors import SYSTEM_READ, Descriptor, mark_accessed, read_descriptor
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor

_TSS_16_BIT_TYPES = (1, 3)


@dataclass(frozen=True, slots=True)
class Stack:
    """`ss`: what SS will hold. `pointer`: RSP before the first push. `descriptor`: SS's, if it is loaded."""

    ss: x86.kvm_segment
    pointer: int
    descriptor: Descriptor | None = None


def current(cpu: Processor) -> Stack:
    """The stack in use."""
    return Stack(cpu.sregs.ss, int(cpu.regs.rsp))


def null_segment(cpl: int) -> x86.kvm_segment:
    """SS after a change to level `cpl` in IA-32e mode: a null selector whose hidden part still tells the level."""
    return x86.kvm_segment(limit=0xFFFF_FFFF, selector=cpl, type=3, present=1, dpl=cpl, db=1, s=1, g=1)


def from_long_tss(cpu: Processor, level: int, ist: int, ext: int) -> int:
    """RSP for privilege `level`, or of interrupt stack `ist` if that is not 0, from the 64-bit TSS."""
    tr = cpu.sregs.tr
    at = 28 + 8 * ist if ist else 4 + 8 * level
    if at + 7 > tr.limit:
        raise GuestFaultError(x86.TS_VECTOR, tr.selector & 0xFFFC | ext)
    return int.from_bytes(cpu.memory.read(tr.base + at, 8, SYSTEM_READ), "little")


def from_legacy_tss(cpu: Processor, level: int, ext: int) -> Stack:
    """The stack for privilege `level` from a 16-bit or 32-bit TSS, with all checks of its segment."""
    tr = cpu.sregs.tr
    narrow = tr.type in _TSS_16_BIT_TYPES
    at, size = (2 + 4 * level, 2) if narrow else (4 + 8 * level, 4)
    if at + size + 1 > tr.limit:
        raise GuestFaultError(x86.TS_VECTOR, tr.selector & 0xFFFC | ext)
    raw = cpu.memory.read(tr.base + at, size + 2, SYSTEM_READ)
    pointer, selector = int.from_bytes(raw[:size], "little"), int.from_bytes(raw[size:], "little")
    invalid = GuestFaultError(x86.TS_VECTOR, selector & 0xFFFC | ext)
    if not selector & 0xFFFC:
        raise GuestFaultError(x86.TS_VECTOR, ext)
    descriptor = read_descriptor(cpu, selector, invalid)
    if selector & 3 != level or descriptor.dpl != level or not descriptor.writable_data:
        raise invalid
    if not descriptor.present:
        raise GuestFaultError(x86.SS_VECTOR, selector & 0xFFFC | ext)
    return Stack(descriptor.segment(selector), pointer, descriptor)


def push_legacy(
    cpu: Processor, stack: Stack, values: Sequence[int], size: int, *, user: bool, ext: int
) -> None:
    """Push `values` (the last one pushed is the last here), `size` bytes each, and take `stack` into use."""
    mask = 0xFFFF_FFFF if stack.ss.db else 0xFFFF
    block = b"".join(value.to_bytes(size, "little") for value in reversed(values))
    at = (stack.pointer & mask) - len(block) & mask
    if at + len(block) - 1 > mask or not inside(stack.ss, at, len(block)):
        error_code = ext if stack.descriptor is None else stack.ss.selector & 0xFFFC | ext
        raise GuestFaultError(x86.SS_VECTOR, error_code)
    cpu.memory.write(stack.ss.base + at & 0xFFFF_FFFF, block, Access(write=True, user=user))
    if stack.descriptor is not None:
        mark_accessed(cpu, stack.descriptor)
        cpu.sregs.ss = stack.ss
    cpu.regs.rsp = stack.pointer & ~mask | at


def push_long(cpu: Processor, pointer: int, values: Sequence[int], *, user: bool, ext: int) -> None:
    """Push `values`, 8 bytes each, below `pointer` aligned to 16, and set RSP."""
    block = b"".join(value.to_bytes(8, "little") for value in reversed(values))
    at = (pointer & ~0xF) - len(block) & 0xFFFF_FFFF_FFFF_FFFF
    if not (cpu.canonical(at) and cpu.canonical(at + len(block) - 1)):
        raise GuestFaultError(x86.SS_VECTOR, ext)
    cpu.memory.write(at, block, Access(write=True, user=user))
    cpu.regs.rsp = at
