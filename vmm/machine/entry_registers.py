# SPDX-License-Identifier: Apache-2.0
"""From a boot protocol's entry state to a vCPU's registers."""

from __future__ import annotations

from kvmapi import Vcpu
from kvmapi.uapi import x86
from vmm.machine.boot.entry import EntryState, Segment


def put(vcpu: Vcpu, entry: EntryState) -> None:
    """Set the vCPU's general and special registers to `entry`; its APIC base and CR8 stay. Errors: `KvmError`."""
    sregs = vcpu.get_sregs()
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"):
        setattr(sregs, name, _segment(getattr(entry, name)))
    sregs.gdt.base, sregs.gdt.limit = entry.gdt
    sregs.idt.base, sregs.idt.limit = entry.idt
    for name in ("cr0", "cr2", "cr3", "cr4", "efer"):
        setattr(sregs, name, getattr(entry, name))
    vcpu.set_sregs(sregs)
    regs = x86.kvm_regs()
    for name, value in entry.gprs.items():
        setattr(regs, name, value)
    regs.rip, regs.rflags = entry.rip, entry.rflags
    vcpu.set_regs(regs)


def put_real_mode(vcpu: Vcpu, address: int) -> None:
    """Start in real mode at physical `address` (below 1 MiB), as an ACPI waking vector asks (ACPI 16.3.2)."""
    sregs = vcpu.get_sregs()
    sregs.cs.selector, sregs.cs.base = address >> 4, address & ~0xF
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip = address & 0xF
    vcpu.set_regs(regs)


def _segment(segment: Segment) -> x86.kvm_segment:
    converted = x86.kvm_segment(unusable=int(not segment.present))
    for name in ("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g"):
        setattr(converted, name, getattr(segment, name))
    return converted
