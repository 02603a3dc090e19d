# SPDX-License-Identifier: Apache-2.0
"""A processor without KVM, over real guest memory: 64-bit, 32-bit or 16-bit code, memory mapped one to one."""

from __future__ import annotations

import struct
from typing import Any, cast

from kvmapi import Vcpu
from kvmapi.uapi import x86
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam

PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
GDT, IDT, TSS = 0x6000, 0x7000, 0x9000
CODE = 0x10000
RAM_SIZE = 4 * MIB
XMM = 160
COMPONENTS = {2: (576, 256), 5: (1088, 64), 6: (1152, 512), 7: (1664, 1024)}
"""Of the XSAVE area: AVX, mask registers, ZMM0 to ZMM15, ZMM16 to ZMM31, each with offset and bytes."""


class FakeVcpu:
    """Registers that KVM would hold."""

    def __init__(self, regs: x86.kvm_regs, sregs: x86.kvm_sregs) -> None:
        self.regs, self.sregs = regs, sregs
        self.xsave = bytearray(4096)
        self.xcr0 = 7

    def get_regs(self) -> x86.kvm_regs:
        return x86.kvm_regs.from_buffer_copy(self.regs)

    def get_sregs(self) -> x86.kvm_sregs:
        return x86.kvm_sregs.from_buffer_copy(self.sregs)

    def get_xsave(self) -> bytes:
        return bytes(self.xsave)

    def get_xcrs(self) -> x86.kvm_xcrs:
        xcrs = x86.kvm_xcrs(nr_xcrs=1)
        xcrs.xcrs[0].value = self.xcr0
        return xcrs

    def get_msrs(self, msrs: list[int]) -> list[tuple[int, int]]:
        return [(msr, 0) for msr in msrs]

    def put_state(self, at: int, data: bytes) -> None:
        """Into the XSAVE area, whose components are then all in use."""
        self.xsave[at : at + len(data)] = data
        self.xsave[512] = 0xE7


def fake_of(cpu: Processor) -> FakeVcpu:
    """The vCPU of a processor that `processor` has made."""
    vcpu: object = cpu.vcpu
    assert isinstance(vcpu, FakeVcpu)
    return vcpu


def page_tables(ram: GuestRam, bits: int = 0x67) -> None:
    """4 KiB pages up to 2 MiB, one to one."""
    ram.write(PML4, struct.pack("<Q", PDPT | 0x67))
    ram.write(PDPT, struct.pack("<Q", PD | 0x67))
    ram.write(PD, struct.pack("<Q", PT | 0x67))
    ram.write(PT, struct.pack("<512Q", *[number * 4096 | bits for number in range(512)]))


def processor(
    ram: GuestRam, *, bits: int = 64, ring: int = 0, vcpu: Any = None, **registers: int
) -> Processor:
    """At CODE, with these registers; the rest are 0."""
    regs, sregs = x86.kvm_regs(), x86.kvm_sregs()
    regs.rip, regs.rsp, regs.rflags = CODE, 0x20000, 2
    for name, value in registers.items():
        if name.endswith("_base"):
            getattr(sregs, name.removesuffix("_base")).base = value
        else:
            setattr(regs, name, value)
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        segment = getattr(sregs, name)
        segment.limit, segment.present, segment.s, segment.dpl = 0xFFFFFFFF, 1, 1, ring
        segment.db = int(bits != 16)
    sregs.cs.type, sregs.cs.l, sregs.cs.db = 11, int(bits == 64), int(bits == 32)
    sregs.gdt.base, sregs.gdt.limit, sregs.idt.base, sregs.idt.limit = GDT, 63, IDT, 4095
    sregs.tr.base, sregs.tr.limit, sregs.tr.type, sregs.tr.present = TSS, 0x67, 11, 1
    if bits == 64:
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80010033, PML4, 0x620, 0xD00
    else:
        sregs.cr0 = 1 if bits == 32 else 0
    cpuid = Cpuid([_component(number, *place) for number, place in COMPONENTS.items()])
    own = cast(Vcpu, FakeVcpu(regs, sregs))  # as far as a processor is asked here
    return Processor(own if vcpu is None else vcpu, UnprotectedMemory(ram), cpuid)


def _component(number: int, offset: int, size: int) -> x86.kvm_cpuid_entry2:
    flags = x86.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    return x86.kvm_cpuid_entry2(function=0xD, index=number, flags=flags, eax=size, ebx=offset)
