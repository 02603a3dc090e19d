# SPDX-License-Identifier: Apache-2.0
"""Delivery of a software interrupt through the IDT (SDM volume 2, `INT n`; volume 3, sections 6.12 and 6.14).

Not through `KVM_SET_VCPU_EVENTS`: KVM cannot be told an instruction length, so it cannot report a fault on the
way (gate not present, DPL, stack) as that of a software interrupt, whose error code and return address differ.
"""

from __future__ import annotations

from kvmapi.uapi import x86
from vmm.backend.emulation import descriptors as d
from vmm.backend.emulation import registers as r
from vmm.backend.emulation import stack_frame
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, general_protection
from vmm.backend.emulation.processor import Processor

_IDT = 2  # error code: the selector index is an IDT vector


def deliver(
    cpu: Processor,
    vector: int,
    *,
    software: bool = True,
    fault: bool = False,
    error_code: int | None = None,
) -> None:
    """Enter the handler of `vector`. RIP must be what the handler returns to: behind a software interrupt.

    software: INT n, INT3, INTO: the gate's DPL must allow it. False for INT1, which is like an external event, and for
    external events. fault: the exception is one, so RFLAGS.RF is saved as it is. error_code: what an exception pushes
    last.
    Errors: `GuestFaultError` for what the tables forbid; `DeclinedError` in real and virtual-8086 mode, for a task gate
    and with CET.
    """
    if not cpu.protected or cpu.virtual_8086:
        raise DeclinedError("an interrupt in real or virtual-8086 mode is left to KVM")
    if cpu.sregs.cr4 & r.CR4_CET:
        raise DeclinedError("an interrupt with control-flow enforcement is not carried out here")
    ext = 0 if software else 1
    of_vector = vector << 3 | _IDT | ext
    gate = d.read_gate(cpu, vector, general_protection(of_vector))
    wide_or_narrow = (d.GATE_32,) if cpu.long_mode else (d.GATE_32, d.GATE_16)
    is_gate = gate.type & ~d.TRAP_GATE_BIT in wide_or_narrow
    is_task = gate.type == d.TASK_GATE and not cpu.long_mode
    if not (is_gate or is_task) or (software and gate.dpl < cpu.cpl):
        raise general_protection(of_vector)
    if not gate.present:
        raise GuestFaultError(x86.NP_VECTOR, of_vector)
    if is_task:
        raise DeclinedError("an interrupt through a task gate is not carried out here")
    code = _code_segment(cpu, gate.selector, ext)
    level = cpu.cpl if code.conforming else code.dpl
    d.mark_accessed(cpu, code)
    flags = int(cpu.regs.rflags) if fault else int(cpu.regs.rflags & ~r.RFLAGS_RF)
    if cpu.long_mode:
        _enter_long(cpu, gate, level, ext, flags, error_code)
    else:
        _enter_legacy(cpu, gate, code, level, ext, flags, error_code)
    cpu.sregs.cs = code.segment(gate.selector & ~3 | level)
    cpu.regs.rflags &= ~(r.RFLAGS_TF | r.RFLAGS_NT | r.RFLAGS_RF | r.RFLAGS_VM)
    if not gate.type & d.TRAP_GATE_BIT:
        cpu.regs.rflags &= ~r.RFLAGS_IF


def _code_segment(cpu: Processor, selector: int, ext: int) -> d.Descriptor:
    if not selector & 0xFFFC:
        raise general_protection(ext)
    of_selector = selector & 0xFFFC | ext
    code = d.read_descriptor(cpu, selector, general_protection(of_selector))
    if not code.code or code.dpl > cpu.cpl or (cpu.long_mode and (not code.long or code.big)):
        raise general_protection(of_selector)
    if not code.present:
        raise GuestFaultError(x86.NP_VECTOR, of_selector)
    return code


def _enter_long(
    cpu: Processor, gate: d.Gate, level: int, ext: int, flags: int, error_code: int | None
) -> None:
    inner = level < cpu.cpl
    pointer = int(cpu.regs.rsp)
    if inner or gate.ist:
        pointer = stack_frame.from_long_tss(cpu, level, gate.ist, ext)
    if not cpu.canonical(gate.offset):
        raise general_protection(ext)
    values = (
        cpu.sregs.ss.selector,
        int(cpu.regs.rsp),
        flags,
        cpu.sregs.cs.selector,
        int(cpu.regs.rip),
        *(() if error_code is None else (error_code,)),
    )
    stack_frame.push_long(cpu, pointer, values, user=level == 3, ext=ext)
    if inner:
        cpu.sregs.ss = stack_frame.null_segment(level)
    cpu.regs.rip = gate.offset


def _enter_legacy(
    cpu: Processor,
    gate: d.Gate,
    code: d.Descriptor,
    level: int,
    ext: int,
    flags: int,
    error_code: int | None,
) -> None:
    size = 4 if gate.type & ~d.TRAP_GATE_BIT == d.GATE_32 else 2
    width = (1 << 8 * size) - 1
    inner = level < cpu.cpl
    stack = stack_frame.from_legacy_tss(cpu, level, ext) if inner else stack_frame.current(cpu)
    values = [flags & width, cpu.sregs.cs.selector, cpu.regs.rip & width]
    if inner:
        values = [cpu.sregs.ss.selector, cpu.regs.rsp & width, *values]
    if error_code is not None:
        values.append(error_code & width)
    target = gate.offset & width
    if target > code.segment(gate.selector).limit:
        raise general_protection(ext)
    stack_frame.push_legacy(cpu, stack, values, size, user=level == 3, ext=ext)
    cpu.regs.rip = target
