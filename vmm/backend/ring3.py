# SPDX-License-Identifier: Apache-2.0
"""Whether SYSCALL brings a guest's program into its kernel: one of the experiments of `vmm.backend.ring0`, and asked by
`vmm.backend.system_calls`.

A KVM without VT-x or SVM runs ring 3 on the host's own, and has to do at a system call what the processor would do.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from typing import Final

from kvmapi import Kvm, Vcpu
from kvmapi.uapi import kvm as k

_PML4, _PDPT, _PD, _PROGRAM, _KERNEL, _END = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000
_SYSCALL, _HLT = b"\x0f\x05", b"\xf4"
_TABLE, _LARGE_PAGE = 0x7, 0x87  # present, writable, user; 2 MiB
TSS_GPA: Final = 0xFFFB_D000
"""Three pages that KVM wants on Intel processors, out of the way below 4 GiB (api.rst 4.36)."""

_CR0: Final = 0x8000_0011  # PG, ET, PE
_CR4: Final = 0x20  # PAE
_EFER: Final = 0x501  # LMA, LME, SCE
_STAR, _LSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
_KERNEL_CS, _USER_SELECTORS = 0x08, 0x13
_AGAIN = (errno.EINTR, errno.EAGAIN)


def system_call_reaches_ring_0(kvm: Kvm) -> bool:
    """Let a program make a system call. Its kernel is one HLT: an exit in ring 0, #GP without an IDT in ring 3."""
    with mmap.mmap(-1, _END) as memory:
        for table, entry in ((_PML4, _PDPT | _TABLE), (_PDPT, _PD | _TABLE), (_PD, _LARGE_PAGE)):
            struct.pack_into("<Q", memory, table, entry)
        memory[_PROGRAM : _PROGRAM + 2] = _SYSCALL
        memory[_KERNEL : _KERNEL + 1] = _HLT
        pin = ctypes.c_char.from_buffer(memory)
        try:
            return _reaches(kvm, ctypes.addressof(pin))
        finally:
            del pin  # else the memory could not be closed


def _reaches(kvm: Kvm, address: int) -> bool:
    with kvm.create_vm() as vm:
        vm.set_tss_addr(TSS_GPA)
        vm.set_user_memory_region(0, 0, _END, address)
        vcpu = vm.create_vcpu(0)
        vcpu.set_cpuid2(kvm.supported_cpuid())
        _in_ring_3(vcpu)
        while vcpu.run_once() in _AGAIN:
            pass  # a signal, for instance for the VP whose guest makes somebody ask
        return vcpu.run.exit_reason == k.KVM_EXIT_HLT


def _in_ring_3(vcpu: Vcpu) -> None:
    """At the program, in 64-bit mode, without an IDT."""
    sregs = vcpu.get_sregs()
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, _PML4, _CR4, _EFER
    sregs.idt.limit = 0
    for segment, selector, kind, code in (
        (sregs.cs, _USER_SELECTORS + 16, 0xB, 1),
        (sregs.ss, _USER_SELECTORS + 8, 0x3, 0),
    ):
        segment.base, segment.limit, segment.selector = 0, 0xFFFF_FFFF, selector
        segment.type, segment.present, segment.dpl, segment.s = kind, 1, 3, 1
        segment.l, segment.db, segment.g = code, 1 - code, 1
    vcpu.set_sregs(sregs)
    vcpu.set_msrs([(_STAR, _USER_SELECTORS << 48 | _KERNEL_CS << 32), (_LSTAR, _KERNEL), (_SFMASK, 0)])
    regs = vcpu.get_regs()
    regs.rip, regs.rflags, regs.rsp = _PROGRAM, 2, _END
    vcpu.set_regs(regs)
