# SPDX-License-Identifier: Apache-2.0
"""IRET in protected mode and in IA-32e mode (SDM volume 2, `IRET`; volume 3, section 6.14.3)."""

from __future__ import annotations

from kvmapi.uapi import x86
from vmm.backend.emulation import descriptors as d
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import inside
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, general_protection
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.emulation.stack_frame import null_segment

_IOPL, _IF, _VM, _RF, _NT = 3 << 12, 1 << 9, 1 << 17, 1 << 16, 1 << 14
_VIRTUAL_INTERRUPTS = 1 << 19 | 1 << 20
_ALWAYS = 0x4DD5
"""CF, PF, AF, ZF, SF, TF, DF, OF, NT."""
_WIDE = _RF | 1 << 18 | 1 << 21
"""RF, AC, ID: of a frame of at least 32 bits."""
_RPL = 3


def interrupt_return(cpu: Processor, size: int) -> None:
    """Return with a frame of `size` bytes (2, 4, 8) a value.

    Errors: `GuestFaultError`, with the exception that the processor raises; `DeclinedError` in real and virtual-8086
    mode and for a return there, for a return from a nested task, and with CET.
    """
    if not cpu.protected or cpu.virtual_8086:
        raise DeclinedError("IRET in real or virtual-8086 mode is left to KVM")
    if cpu.sregs.cr4 & r.CR4_CET:
        raise DeclinedError("IRET with control-flow enforcement is not carried out here")
    if cpu.regs.rflags & _NT:
        if cpu.long_mode:
            raise general_protection()
        raise DeclinedError("a return from a nested task is not carried out here")
    rip, selector, flags = _pop(cpu, 0, 3, size)
    selector &= 0xFFFF
    if flags & _VM and not cpu.long_mode and not cpu.cpl:
        raise DeclinedError("a return to virtual-8086 mode is not carried out here")
    code = _code(cpu, selector)
    level = selector & _RPL
    wide = cpu.long_mode and code.long
    if wide and not cpu.canonical(rip):
        raise general_protection()
    if not wide and rip > code.segment(selector).limit:
        raise general_protection()
    changes_stack = level > cpu.cpl or cpu.bits == 64
    pointer, ss = 0, cpu.sregs.ss
    stack: d.Descriptor | None = None
    if changes_stack:
        pointer, stack_selector = _pop(cpu, 3, 2, size)
        ss, stack = _stack(cpu, stack_selector & 0xFFFF, level, wide=wide)
    d.mark_accessed(cpu, code)
    if stack is not None:
        d.mark_accessed(cpu, stack)
    _set_flags(cpu, flags, size)
    outer = level > cpu.cpl
    if changes_stack:
        mask = 0xFFFF_FFFF if ss.db else 0xFFFF
        cpu.regs.rsp = pointer if wide else (cpu.regs.rsp & ~mask | pointer & mask) & 0xFFFF_FFFF
        cpu.sregs.ss = ss
    else:
        mask = cpu.stack_mask
        cpu.regs.rsp = cpu.regs.rsp & ~mask | cpu.regs.rsp + 3 * size & mask
    cpu.sregs.cs = code.segment(selector)
    cpu.regs.rip = rip
    if outer:
        _drop_segments(cpu, level)


def _pop(cpu: Processor, first: int, count: int, size: int) -> list[int]:
    """Values on the stack, from the `first` one on."""
    mask, ss = cpu.stack_mask, cpu.sregs.ss
    offset, length = cpu.regs.rsp + first * size & mask, count * size
    wraps = offset + length - 1 > mask
    if cpu.bits == 64:
        if wraps or not (cpu.canonical(offset) and cpu.canonical(offset + length - 1)):
            raise GuestFaultError(x86.SS_VECTOR, 0)
        at = offset
    else:
        if wraps or not inside(ss, offset, length):
            raise GuestFaultError(x86.SS_VECTOR, 0)
        at = ss.base + offset & 0xFFFF_FFFF
    raw = cpu.memory.read(at, length, Access(user=cpu.cpl == 3))
    return [int.from_bytes(raw[index : index + size], "little") for index in range(0, length, size)]


def _code(cpu: Processor, selector: int) -> d.Descriptor:
    if not selector & 0xFFFC:
        raise general_protection()
    invalid = general_protection(selector & 0xFFFC)
    code = d.read_descriptor(cpu, selector, invalid)
    level = selector & _RPL
    if not code.code or level < cpu.cpl or (code.dpl > level if code.conforming else code.dpl != level):
        raise invalid
    if cpu.long_mode and code.long and code.big:
        raise invalid
    if not code.present:
        raise GuestFaultError(x86.NP_VECTOR, selector & 0xFFFC)
    return code


def _stack(
    cpu: Processor, selector: int, level: int, *, wide: bool
) -> tuple[x86.kvm_segment, d.Descriptor | None]:
    if not selector & 0xFFFC:
        if not wide or level == _RPL or selector & _RPL != level:
            raise general_protection()
        return null_segment(level), None
    invalid = general_protection(selector & 0xFFFC)
    stack = d.read_descriptor(cpu, selector, invalid)
    if selector & _RPL != level or stack.dpl != level or not stack.writable_data:
        raise invalid
    if not stack.present:
        raise GuestFaultError(x86.SS_VECTOR, selector & 0xFFFC)
    return stack.segment(selector), stack


def _set_flags(cpu: Processor, flags: int, size: int) -> None:
    """What the frame may change of RFLAGS, by the level that is left."""
    changed = _ALWAYS | (_WIDE if size > 2 else 0)
    if cpu.cpl <= (cpu.regs.rflags & _IOPL) >> 12:
        changed |= _IF
    if cpu.cpl == 0:
        changed |= _IOPL | (_VIRTUAL_INTERRUPTS if size > 2 else 0)
    cpu.regs.rflags = cpu.regs.rflags & ~changed | flags & changed


def _drop_segments(cpu: Processor, level: int) -> None:
    """Data segments that the outer level may not use become null."""
    for name in ("es", "fs", "gs", "ds"):
        segment = getattr(cpu.sregs, name)
        conforming = segment.type & 0b1100 == 0b1100
        if segment.unusable or not segment.selector & 0xFFFC or (segment.dpl < level and not conforming):
            base = segment.base if name in ("fs", "gs") and cpu.long_mode else 0
            setattr(cpu.sregs, name, x86.kvm_segment(base=base, unusable=1))
