# SPDX-License-Identifier: Apache-2.0
"""A guest for these tests: a vCPU of the scripted KVM, 2 MiB of RAM, page tables, GDT, IDT and TSS.

| address | what |
|---|---|
| 0x1000-0x4FFF | PML4, PDPT, PD, PT: identity, supervisor and user, writable, 4 KiB pages |
| 0x5000 | 32-bit page directory with one 4 MiB page, for 32-bit protected mode |
| 0x6000 GDT, 0x7000 IDT, 0x8000 TSS | |
| 0x9000 | the instruction |
| 0xB000, 0xD000, 0xF000 | tops of: the stack in use, RSP0, IST1 |
| 0x10000 | data |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm, Vcpu
from kvmapi.fake import FakeKvm
from kvmapi.uapi import x86
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.processor import Cpuid, Feature, Processor
from vmm.hypercall.outside import UnprotectedMemory
from vmm.outside import Buffer, GuestMemoryError

PML4, PDPT, PD, PT, PD_32 = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
GDT, IDT, TSS, CODE, STACK, RSP0, IST1, DATA = 0x6000, 0x7000, 0x8000, 0x9000, 0xB000, 0xD000, 0xF000, 0x10000
HANDLER = 0xA000
RAM_BYTES = 2 << 20

KERNEL_CS, KERNEL_SS, USER_SS, USER_CS, KERNEL_CS_32, USER_CS_32, TSS_SELECTOR = (
    0x08, 0x10, 0x18 | 3, 0x20 | 3, 0x28, 0x30 | 3, 0x38,
)  # fmt: skip
_DESCRIPTORS = {
    KERNEL_CS: 0x00AF_9B00_0000_FFFF,
    KERNEL_SS: 0x00CF_9300_0000_FFFF,
    USER_SS: 0x00CF_F300_0000_FFFF,
    USER_CS: 0x00AF_FB00_0000_FFFF,
    KERNEL_CS_32: 0x00CF_9B00_0000_FFFF,
    USER_CS_32: 0x00CF_FB00_0000_FFFF,
}

XSAVE = Feature(1, "ecx", 26)
SMAP = Feature(7, "ebx", 20)
INVPCID = Feature(7, "ebx", 10)


class Memory:
    """`vmm.outside.GuestMemory` of `size` bytes at 0, that remembers where it was written."""

    def __init__(self, size: int = RAM_BYTES) -> None:
        self.data = bytearray(size)
        self.written: list[tuple[int, int]] = []

    def _check(self, gpa: int, size: int) -> None:
        if gpa < 0 or gpa + size > len(self.data):
            raise GuestMemoryError(
                f"[{gpa:#x}, {gpa + size:#x}) is not RAM, which ends at {len(self.data):#x}"
            )

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.data[gpa : gpa + size])

    def write(self, gpa: int, data: Buffer) -> None:
        self._check(gpa, len(data))
        self.written.append((gpa, len(data)))
        self.data[gpa : gpa + len(data)] = data

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        found = self.read(gpa, len(expected))
        if found == expected:
            self.write(gpa, new)
        return found

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        self.write(gpa, bytes([value]) * size)

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, len(self.data))]

    def put(self, gpa: int, value: int, size: int = 8) -> None:
        """Store a number without remembering it."""
        self.data[gpa : gpa + size] = value.to_bytes(size, "little")

    def number(self, gpa: int, size: int = 8) -> int:
        return int.from_bytes(self.data[gpa : gpa + size], "little")


class Guest:
    """The vCPU at an instruction, before and after `carry_out`."""

    def __init__(self, fake: FakeKvm, vcpu: Vcpu) -> None:
        self.fake, self.vcpu, self.memory = fake, vcpu, Memory()
        self.emulator = Emulator(vcpu, UnprotectedMemory(self.memory))

    def carry_out(self, code: bytes, *, known: int = 15) -> str | None:
        """Let the emulator do `code` at RIP, of which the exit told the first `known` bytes."""
        base = self.vcpu.get_sregs().cs.base
        at = base + self.vcpu.get_regs().rip
        self.memory.data[at : at + len(code)] = code
        return self.emulator.carry_out(code[:known])

    @property
    def regs(self) -> x86.kvm_regs:
        return self.vcpu.get_regs()

    @property
    def sregs(self) -> x86.kvm_sregs:
        return self.vcpu.get_sregs()

    @property
    def exception(self) -> tuple[int, int | None] | None:
        """`(vector, error code)` that KVM was told to deliver."""
        event = self.vcpu.get_vcpu_events().exception
        if not event.injected:
            return None
        return event.nr, event.error_code if event.has_error_code else None

    def set_regs(self, **values: int) -> None:
        regs = self.vcpu.get_regs()
        for name, value in values.items():
            setattr(regs, name, value)
        self.vcpu.set_regs(regs)

    def set_sregs(self, **values: int) -> None:
        sregs = self.vcpu.get_sregs()
        for name, value in values.items():
            setattr(sregs, name, value)
        self.vcpu.set_sregs(sregs)

    def change_page(self, address: int, *, clear: int = 0, set_: int = 0) -> None:
        """Change the bits of the 4 KiB page table entry of `address`."""
        at = PT + (address >> 12) * 8
        self.memory.put(at, self.memory.number(at) & ~clear | set_)

    def gate(self, vector: int, **changes: int) -> None:
        """Write an IDT gate: a 64-bit interrupt gate to HANDLER with DPL 3, unless `changes` says otherwise."""
        parts = {"selector": KERNEL_CS, "offset": HANDLER, "type": 0xE, "dpl": 3, "present": 1, "ist": 0}
        parts |= changes
        raw = parts["offset"] & 0xFFFF | parts["selector"] << 16 | parts["ist"] << 32 | parts["type"] << 40
        raw |= parts["dpl"] << 45 | parts["present"] << 47 | (parts["offset"] >> 16 & 0xFFFF) << 48
        raw |= parts["offset"] >> 32 << 64
        if self.sregs.efer & r.EFER_LMA:
            self.memory.put(IDT + vector * 16, raw, 16)
        else:
            self.memory.put(IDT + vector * 8, raw & (1 << 64) - 1)

    def frame(self, count: int, size: int = 8) -> list[int]:
        """The `count` values at RSP."""
        at = self.regs.rsp
        return [self.memory.number(at + size * index, size) for index in range(count)]


def _segment(selector: int) -> x86.kvm_segment:
    raw = _DESCRIPTORS[selector]
    return x86.kvm_segment(
        base=0, limit=0xFFFF_FFFF, selector=selector, type=raw >> 40 & 0xF, present=1, dpl=raw >> 45 & 3,
        db=raw >> 54 & 1, s=1, l=raw >> 53 & 1, g=1,
    )  # fmt: skip


def cpuid_entries(features: Iterable[Feature]) -> list[x86.kvm_cpuid_entry2]:
    """CPUID leaves with just these bits, and what XSAVE needs: x87, SSE and AVX, AVX state at byte 576."""
    entries = {
        (0xD, 0): x86.kvm_cpuid_entry2(function=0xD, flags=1, eax=7),
        (0xD, 2): x86.kvm_cpuid_entry2(function=0xD, index=2, flags=1, eax=256, ebx=576),
        (0x8000_0008, 0): x86.kvm_cpuid_entry2(function=0x8000_0008, eax=0x3028),  # 40 and 48 bits
    }
    for feature in features:
        key = (feature.leaf, feature.index)
        entry = entries.setdefault(key, x86.kvm_cpuid_entry2(function=key[0], index=key[1], flags=1))
        setattr(entry, feature.register, getattr(entry, feature.register) | 1 << feature.bit)
    return list(entries.values())


@contextmanager
def a_guest(*features: Feature, bits: int = 64, cpl: int = 0) -> Iterator[Guest]:
    """A guest in 64-bit mode, or in 32-bit protected mode with 32-bit paging, at privilege level 0 or 3."""
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        guest = Guest(fake, vm.create_vcpu(0))
        guest.vcpu.set_cpuid2(cpuid_entries(features))
        _set_up_memory(guest.memory, bits)
        sregs = guest.vcpu.get_sregs()
        if bits == 64:
            sregs.cr0, sregs.cr3, sregs.cr4 = r.CR0_PE | r.CR0_WP | r.CR0_PG, PML4, r.CR4_PAE
            sregs.efer = r.EFER_LMA | 1 << 8
            sregs.cs = _segment(USER_CS if cpl else KERNEL_CS)
        else:
            sregs.cr0, sregs.cr3, sregs.cr4 = r.CR0_PE | r.CR0_WP | r.CR0_PG, PD_32, r.CR4_PSE
            sregs.cs = _segment(USER_CS_32 if cpl else KERNEL_CS_32)
        sregs.ss = sregs.ds = sregs.es = _segment(USER_SS if cpl else KERNEL_SS)
        sregs.gdt.base, sregs.gdt.limit = GDT, 0x3F
        sregs.idt.base, sregs.idt.limit = IDT, 0xFFF
        sregs.tr = x86.kvm_segment(base=TSS, limit=0x67, selector=TSS_SELECTOR, type=0xB, present=1)
        sregs.ldt.unusable = 1
        guest.vcpu.set_sregs(sregs)
        guest.vcpu.set_regs(x86.kvm_regs(rip=CODE, rsp=STACK, rflags=r.RFLAGS_IF | 2))
        guest.fake.calls.clear()
        yield guest


@contextmanager
def processor(*, bits: int = 64, cpl: int = 0) -> Iterator[tuple[Guest, Processor]]:
    """A guest, and its processor for a part of an instruction: what that changes is not stored."""
    with a_guest(bits=bits, cpl=cpl) as guest:
        yield guest, Processor(guest.vcpu, UnprotectedMemory(guest.memory), Cpuid([]))


def raised(do: Callable[[], object]) -> tuple[int, int | None]:
    """Vector and error code of the fault that `do` ends with."""
    with pytest.raises(GuestFaultError) as fault:
        do()
    return fault.value.vector, fault.value.error_code


def _set_up_memory(memory: Memory, bits: int) -> None:
    for table, below in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
        memory.put(table, below | 7)
    for page in range(512):
        memory.put(PT + 8 * page, page << 12 | 7)
    memory.put(PD_32, 0x87, 4)
    for selector, raw in _DESCRIPTORS.items():
        memory.put(GDT + (selector & ~7), raw)
    if bits == 64:
        memory.put(TSS + 4, RSP0)
        memory.put(TSS + 0x24, IST1)
    else:
        memory.put(TSS + 4, RSP0, 4)
        memory.put(TSS + 8, KERNEL_SS, 2)
