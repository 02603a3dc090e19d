# SPDX-License-Identifier: Apache-2.0
"""64-bit guests of a few bytes that access memory the tests restrict.

Guest physical memory: page tables at 0x1000 (identity, 2 MiB pages, the first GiB), code at 0x8000, a stack below
0x10000, and from DATA on two hugepages' worth that belong to the tests.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import signal
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmapi import Exit, Kvm, Vcpu, Vm, decode
from kvmapi.exit_types import HltExit
from kvmapi.run import KvmRun
from kvmapi.uapi.kvm import KVM_EXIT_MEMORY_FAULT
from kvmapi.uapi.vsm import (
    KVM_MEMORY_EXIT_FLAG_EXEC,
    KVM_MEMORY_EXIT_FLAG_READ,
    KVM_MEMORY_EXIT_FLAG_WRITE,
    kvm_run_memory_fault_vsm,
)

PAGE = 0x1000
HUGEPAGE = 0x200000
PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
CODE = 0x8000
STACK = 0x10000
DATA = 2 * HUGEPAGE
RAM_SIZE = 4 * HUGEPAGE
EXIT_UNION = 32
WATCHDOG_SECONDS = 30
KICK = signal.SIGUSR1

READ, WRITE, EXEC = KVM_MEMORY_EXIT_FLAG_READ, KVM_MEMORY_EXIT_FLAG_WRITE, KVM_MEMORY_EXIT_FLAG_EXEC

HLT = b"\xf4"
# What the guest does to the byte at RDI, then it halts; where RIP is then does not matter.
ACCESSES = {
    "read": b"\x8a\x07" + HLT,  # mov al, [rdi]
    "write": b"\x88\x07" + HLT,  # mov [rdi], al
    "modify": b"\xf0\x00\x07" + HLT,  # lock add [rdi], al
    "execute": b"\xff\xe7",  # jmp rdi, where a HLT is
}
FLAG = {"read": READ, "write": WRITE, "modify": WRITE, "execute": EXEC}


@dataclass(frozen=True)
class Fault:
    """A KVM_EXIT_MEMORY_FAULT."""

    flags: int
    gpa: int
    size: int
    access_gpa: int
    insn_len: int
    insn_bytes: bytes

    @classmethod
    def of(cls, run: KvmRun) -> Fault:
        raw = kvm_run_memory_fault_vsm.from_address(ctypes.addressof(run.struct) + EXIT_UNION)
        return cls(
            raw.flags,
            raw.gpa,
            raw.size,
            raw.access_gpa,
            raw.insn_len,
            bytes(raw.insn_bytes[: raw.nr_insn_bytes]),
        )


class Guest:
    """One vCPU in long mode, ring 0, over 8 MiB that a hugepage may back."""

    def __init__(self, vm: Vm, flags: int = 0) -> None:
        self.vm = vm
        # A hugepage needs the same offset into it on both sides.
        self._mapping = mmap.mmap(-1, RAM_SIZE + HUGEPAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._mapping.madvise(mmap.MADV_HUGEPAGE)
        self._pin = ctypes.c_char.from_buffer(self._mapping)
        start = ctypes.addressof(self._pin)
        self.host_address = -(-start // HUGEPAGE) * HUGEPAGE
        self._skip = self.host_address - start
        self._write_page_tables()
        vm.set_user_memory_region(0, 0, RAM_SIZE, self.host_address, flags)
        self.vcpu: Vcpu = vm.create_vcpu(0)
        # Without CPUID there is no long mode.
        with Kvm.open() as kvm:
            self.vcpu.set_cpuid2(kvm.supported_cpuid())

    def poke(self, gpa: int, data: bytes) -> None:
        self._mapping[self._skip + gpa : self._skip + gpa + len(data)] = data

    def peek(self, gpa: int, size: int) -> bytes:
        return self._mapping[self._skip + gpa : self._skip + gpa + size]

    def _write_page_tables(self) -> None:
        present_writable, large = 0x3, 0x80
        self.poke(PML4, struct.pack("<Q", PDPT | present_writable))
        self.poke(PDPT, struct.pack("<Q", PD | present_writable))
        entries = [index * HUGEPAGE | present_writable | large for index in range(512)]
        self.poke(PD, struct.pack("<512Q", *entries))

    def map_small(self, index: int) -> None:
        """Map the guest's `index`-th 2 MiB by 4 KiB pages, with the table at PT."""
        entries = [index * HUGEPAGE + page * PAGE | 0x3 for page in range(512)]
        self.poke(PT, struct.pack("<512Q", *entries))
        self.poke(PD + 8 * index, struct.pack("<Q", PT | 0x3))

    def start(self, code: bytes, **registers: int) -> None:
        """Put `code` at CODE and the vCPU in front of it."""
        self.poke(CODE, code)
        sregs = self.vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss):
            segment.base, segment.limit, segment.g, segment.present = 0, 0xFFFFFFFF, 1, 1
            segment.type, segment.s, segment.dpl, segment.db, segment.l = 3, 1, 0, 1, 0
            segment.selector = 0x10
        sregs.cs.type, sregs.cs.l, sregs.cs.db, sregs.cs.selector = 11, 1, 0, 8
        sregs.cr0, sregs.cr3, sregs.cr4 = 0x80010033, PML4, 0x620  # PG WP NE ET MP PE; PAE OSFXSR OSXMMEXCPT
        sregs.efer = 0x500  # LMA LME
        self.vcpu.set_sregs(sregs)
        regs = self.vcpu.get_regs()
        regs.rip, regs.rsp, regs.rflags = CODE, STACK, 2
        for name, value in registers.items():
            setattr(regs, name, value)
        self.vcpu.set_regs(regs)

    def access(self, kind: str, gpa: int) -> Fault | None:
        """Let the guest access `gpa` with one instruction; None when it could."""
        if kind == "execute":
            self.poke(gpa, HLT)
        self.start(ACCESSES[kind], rdi=gpa, rax=0x5A)
        return self.go_on()

    def go_on(self) -> Fault | None:
        """Run to the HLT behind an access, or to the fault that it caused."""
        result, exit_ = self.run()
        if result == errno.EFAULT and self.vcpu.run.exit_reason == KVM_EXIT_MEMORY_FAULT:
            return Fault.of(self.vcpu.run)
        assert result == 0 and isinstance(exit_, HltExit), f"{errno.errorcode.get(result, result)}, {exit_}"
        return None

    def run(self) -> tuple[int, Exit]:
        """One KVM_RUN to its end; EINTR is repeated. A guest that does not exit fails the test."""
        overdue = threading.Event()
        thread = threading.get_ident()

        def stop() -> None:
            overdue.set()
            self.vcpu.run.immediate_exit = True
            signal.pthread_kill(thread, KICK)

        timer = threading.Timer(WATCHDOG_SECONDS, stop)
        timer.start()
        try:
            while (result := self.vcpu.run_once()) == errno.EINTR:
                if overdue.is_set():
                    raise AssertionError(f"the guest ran for {WATCHDOG_SECONDS} s without an exit")
            return result, decode(self.vcpu.run)
        finally:
            timer.cancel()
            timer.join()

    def restrict(self, gpa: int, attributes: int, size: int = PAGE) -> None:
        self.vm.set_memory_attributes(gpa, size, attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vm.close()
        del self._pin
        self._mapping.close()


def nested_paging() -> bool:
    """Whether the processor walks the guest's page tables, and not KVM."""
    return any(
        parameter.exists() and parameter.read_text().strip() in ("1", "Y")
        for parameter in (
            Path("/sys/module/kvm_amd/parameters/npt"),
            Path("/sys/module/kvm_intel/parameters/ept"),
        )
    )
