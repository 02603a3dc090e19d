# SPDX-License-Identifier: Apache-2.0
"""What a user is shown of a VP that cannot go on: registers, segments, the instruction at RIP."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from kvmapi import KvmError, Vcpu
from kvmapi.uapi.x86 import kvm_lapic_state, kvm_segment, kvm_sregs

_GPRS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("rip", "rflags"),
)
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
_EFER_LMA = 1 << 10
_CR0_PE = 1


def describe(vcpu: Vcpu) -> str:
    """The VP's registers, several lines. Never raises: what cannot be read is said instead."""
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except KvmError as error:
        return f"registers cannot be read: {error}"
    lines = [f"mode: {_mode(sregs)}"]
    lines += ["  ".join(f"{name:>6}={getattr(regs, name):016x}" for name in row) for row in _GPRS]
    lines += [_segment_line(name, getattr(sregs, name)) for name in _SEGMENTS]
    lines += [
        f"{name:>6} base={t.base:016x} limit={t.limit:04x}"
        for name, t in (("gdt", sregs.gdt), ("idt", sregs.idt))
    ]
    lines.append(
        f"   cr0={sregs.cr0:08x} cr2={sregs.cr2:016x} cr3={sregs.cr3:016x} cr4={sregs.cr4:08x} "
        f"cr8={sregs.cr8:x} efer={sregs.efer:x} apic_base={sregs.apic_base:x}"
    )
    return "\n".join(lines)


_RESET_CS, _RESET_RIP = 0xF000, 0xFFF0


def describe_triple_fault(vcpu: Vcpu) -> str:
    """As `describe`, after KVM_EXIT_SHUTDOWN. Says so where KVM has put the VP's first state over the faulting one.

    kvm_amd does (`shutdown_interception`): the processor leaves nothing behind that it could show.
    """
    told = describe(vcpu)
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except KvmError:
        return told  # which says it
    if (sregs.cs.selector, regs.rip, sregs.cr0 & _CR0_PE) == (_RESET_CS, _RESET_RIP, 0):
        return f"KVM reset this processor when it faulted, as AMD's makes it; these are the registers since:\n{told}"
    return told


_IRR, _ISR = 0x200, 0x100
_VECTORS = 256
_TPR, _LVT_TIMER, _TIMER_LEFT = 0x80, 0x320, 0x390


def describe_waiting(vp: int, vcpus: Sequence[Vcpu], running: Vcpu) -> str:
    """What a VP that is stopped was doing and what it could wait for: a line for each VTL, from VTL0 up.

    running: the vCPU of the VTL that its thread runs. Never raises.
    """
    lines = [f"VP {vp}:"]
    for vtl, vcpu in enumerate(vcpus):
        try:
            told = _waiting(vcpu)
        except KvmError as error:
            told = f"cannot be read: {error}"
        lines.append(f"  VTL{vtl} {'runs' if vcpu is running else 'waits'}: {told}")
    return "\n".join(lines)


def _waiting(vcpu: Vcpu) -> str:
    regs, lapic, events = vcpu.get_regs(), vcpu.get_lapic(), vcpu.get_vcpu_events()
    return (
        f"rip={regs.rip:x} rsp={regs.rsp:x} rflags={regs.rflags:x} mp_state={vcpu.get_mp_state()} "
        f"irr={_vectors(lapic, _IRR)} isr={_vectors(lapic, _ISR)} tpr={_u32(lapic, _TPR):x} "
        f"timer={_u32(lapic, _LVT_TIMER):x}/{_u32(lapic, _TIMER_LEFT):x} "
        f"injected={events.interrupt.nr if events.interrupt.injected else '-'} nmi={events.nmi.pending} "
        f"shadow={events.interrupt.shadow}"
    )


def _u32(lapic: kvm_lapic_state, register: int) -> int:
    return int.from_bytes(bytes(lapic.regs[register : register + 4]), "little")


def _vectors(lapic: kvm_lapic_state, register: int) -> str:
    """The vectors that are set in IRR or ISR, in hexadecimal: 32 of them in each 16 bytes."""
    found = [
        f"{vector:x}"
        for vector in range(_VECTORS)
        if _u32(lapic, register + vector // 32 * 16) >> vector % 32 & 1
    ]
    return ",".join(found) or "-"


def describe_failure(vcpu: Vcpu, cause: BaseException) -> str:
    """Registers, and where in our code `cause` was raised: for a defect of ours, so that it can be reported."""
    trace = "".join(traceback.format_exception(cause)).rstrip()
    return f"{describe(vcpu)}\nthis is a defect of the VMM; please report it with these lines:\n{trace}"


def _mode(sregs: kvm_sregs) -> str:
    if not sregs.cr0 & _CR0_PE:
        return "real mode"
    if sregs.efer & _EFER_LMA:
        return "64-bit mode" if sregs.cs.l else "compatibility mode"
    return "protected mode, " + ("32-bit" if sregs.cs.db else "16-bit")


def _segment_line(name: str, segment: kvm_segment) -> str:
    return (
        f"{name:>6} selector={segment.selector:04x} base={segment.base:016x} limit={segment.limit:08x} "
        f"type={segment.type:x} s={segment.s} dpl={segment.dpl} p={segment.present} l={segment.l} "
        f"db={segment.db} g={segment.g}"
    )
