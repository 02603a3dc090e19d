# SPDX-License-Identifier: Apache-2.0
"""Segment descriptors and IDT gates in guest memory (SDM volume 3, sections 3.4.5, 5.8.3, 6.11, 6.14.1)."""

from __future__ import annotations

from dataclasses import dataclass

from kvmapi.uapi import x86
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor

SYSTEM_READ = Access(implicit=True)
SYSTEM_WRITE = Access(write=True, implicit=True)

# Types of gates; bit 0 tells a trap gate from an interrupt gate
TASK_GATE, GATE_16, GATE_32 = 0x5, 0x6, 0xE
TRAP_GATE_BIT = 1

_ACCESSED = 1
_TABLE_INDICATOR = 4


@dataclass(frozen=True, slots=True)
class Gate:
    """An IDT entry. `ist` is 0 outside IA-32e mode."""

    selector: int
    offset: int
    type: int
    dpl: int
    present: bool
    ist: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A code or data segment descriptor, where it lies and its 8 bytes as a number."""

    linear_address: int
    raw: int

    @property
    def type(self) -> int:
        """The type field. Of a user segment: 8 code, 4 conforming or expand-down, 2 readable or writable."""
        return self.raw >> 40 & 0xF

    @property
    def user_segment(self) -> bool:
        """S: code or data, not a system segment."""
        return bool(self.raw >> 44 & 1)

    @property
    def code(self) -> bool:
        return self.user_segment and bool(self.type & 8)

    @property
    def conforming(self) -> bool:
        return bool(self.type & 4)

    @property
    def writable_data(self) -> bool:
        return self.user_segment and self.type & 0b1010 == 0b0010

    @property
    def dpl(self) -> int:
        return self.raw >> 45 & 3

    @property
    def present(self) -> bool:
        return bool(self.raw >> 47 & 1)

    @property
    def long(self) -> bool:
        return bool(self.raw >> 53 & 1)

    @property
    def big(self) -> bool:
        return bool(self.raw >> 54 & 1)

    def segment(self, selector: int) -> x86.kvm_segment:
        """What a segment register holds once `selector` is loaded (the limit in bytes)."""
        limit = self.raw & 0xFFFF | self.raw >> 32 & 0xF0000
        granular = self.raw >> 55 & 1
        return x86.kvm_segment(
            base=self.raw >> 16 & 0xFF_FFFF | self.raw >> 32 & 0xFF00_0000,
            limit=limit << 12 | 0xFFF if granular else limit,
            selector=selector,
            type=self.type | _ACCESSED,
            present=1,
            dpl=self.dpl,
            db=self.big,
            s=1,
            l=self.long,
            g=granular,
            avl=self.raw >> 52 & 1,
        )


def read_gate(cpu: Processor, vector: int, fault: GuestFaultError) -> Gate:
    """Entry `vector` of the IDT. Errors: `fault` if the IDT is too short."""
    size = 16 if cpu.long_mode else 8
    if vector * size + size - 1 > cpu.sregs.idt.limit:
        raise fault
    raw = int.from_bytes(cpu.memory.read(cpu.sregs.idt.base + vector * size, size, SYSTEM_READ), "little")
    return Gate(
        selector=raw >> 16 & 0xFFFF,
        offset=raw & 0xFFFF | raw >> 32 & 0xFFFF_0000 | (raw >> 64 & 0xFFFF_FFFF) << 32,
        type=raw >> 40 & 0x1F,  # with S, which is 0 in a gate
        dpl=raw >> 45 & 3,
        present=bool(raw >> 47 & 1),
        ist=raw >> 32 & 7 if cpu.long_mode else 0,
    )


def read_descriptor(cpu: Processor, selector: int, fault: GuestFaultError) -> Descriptor:
    """The descriptor that `selector` names in the GDT or LDT. Errors: `fault` if the table is too short."""
    table = cpu.sregs.ldt if selector & _TABLE_INDICATOR else cpu.sregs.gdt
    if selector & _TABLE_INDICATOR and (table.unusable or not table.present):
        raise fault
    if (selector | 7) > table.limit:
        raise fault
    at = table.base + (selector & ~7)
    return Descriptor(at, int.from_bytes(cpu.memory.read(at, 8, SYSTEM_READ), "little"))


def mark_accessed(cpu: Processor, descriptor: Descriptor) -> None:
    """Set the descriptor's accessed bit in memory, as loading it does."""
    if not descriptor.type & _ACCESSED:
        low = (descriptor.raw >> 40 & 0xFF) | _ACCESSED
        cpu.memory.write(descriptor.linear_address + 5, bytes([low]), SYSTEM_WRITE)
