# SPDX-License-Identifier: Apache-2.0
"""A VTL of one VP, made by hand: a 64-bit guest of a few bytes whose rights to memory the tests restrict.

Guest physical memory, mapped one to one for both rings: page tables from 0x1000, GDT, IDT, TSS, one page each; code and
stack of ring 0 and ring 3; handlers of exceptions, which tell their vector; pages DATA and OTHER for the tests.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvmapi import Kvm, Vm
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.host_profile import kvm_modules
from vmm.backend.outcome import Outcome
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.faults import Alias
from vmm.backend.protection.mapping import Mapping
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.stepping import Stepper
from vmm.backend.protection.view import ProtectedView
from vmm.backend.vp import AFTER_KICK, BEFORE_ENTRY, VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.hv.status import HvStatus
from vmm.hypercall.outside import AccessInterceptedError, UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.outside import Buffer
from vmm.vsm.outside import MemoryAccess, Refused, RightsChange
from vmm.vsm.rights import ALL, EXECUTE, READ, WRITE

PAGE = 0x1000
PML4, PDPT, PD, PT0, PT1 = (PAGE * number for number in range(1, 6))
GDT, IDT, TSS = 0x6000, 0x7000, 0x9000
CODE, USER_CODE = 0x10000, 0x18000
STACK, USER_STACK = 0x20000, 0x28000  # their ends
HANDLERS = 0x40000
DATA, OTHER = 0x100000, 0x110000
LIBRARY = 0x30000  # code that the tests call or jump to
SMALL_PAGES_END = 4 * MIB
MAPPED_BY_PT1 = 2 * MIB
RAM_SIZE = 4 * MIB
RING_SELECTORS = {0: (0x08, 0x10), 3: (0x23, 0x1B)}
TASK_SELECTOR = 0x28
EXCEPTION_PORT, END_PORT = 0xE6, 0xE7
END = bytes([0xE6, END_PORT])  # out END_PORT, al
WATCHDOG_SECONDS = 30
KICK = signal.SIGUSR1
VTL0, VTL1 = 0, 1
HOST_FLAGS = 1 << 16 | 3 << 12  # RF, IOPL
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))


@dataclass
class Registers:
    """What of a vCPU must not change by a refused access."""

    general: dict[str, int]
    rip: int
    rsp: int
    rflags: int
    selectors: tuple[int, ...]
    xmm: bytes

    @classmethod
    def of(cls, world: World) -> Registers:
        regs, sregs = world.vcpu.get_regs(), world.vcpu.get_sregs()
        selectors = tuple(getattr(sregs, name).selector for name in ("cs", "ss", "ds", "es", "fs", "gs"))
        general = {name: getattr(regs, name) for name in GENERAL}
        xmm = bytes(world.vcpu.get_xsave())[160:416]
        # RF is set where an instruction has faulted, and a KVM without VT-x or SVM loses IOPL in ring 3.
        return cls(general, regs.rip, regs.rsp, regs.rflags & ~HOST_FLAGS, selectors, xmm)


@dataclass
class Told:
    """An access that VTL1 was told of, and the registers then."""

    access: MemoryAccess
    registers: Registers


@dataclass
class Ended:
    """How a program ended. vector: of the exception that ended it, None for its own end."""

    vector: int | None
    told: list[Told]
    registers: Registers


class RightfulMemory:
    """Guest memory with VTL0's rights (`vmm.hypercall.outside.ProcessorMemory`)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size, READ)
        return self._world.ram.read(gpa, size)

    def fetch(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size, EXECUTE)
        return self._world.ram.read(gpa, size)

    def write(self, gpa: int, data: Buffer) -> None:
        self._check(gpa, len(data), WRITE)
        self._world.ram.write(gpa, data)

    def write_all(self, parts: Sequence[tuple[int, Buffer]]) -> None:
        for gpa, data in parts:
            self._check(gpa, len(data), WRITE)
        for gpa, data in parts:
            self._world.ram.write(gpa, data)

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        self._check(gpa, len(expected), READ)
        self._check(gpa, len(expected), WRITE)
        return self._world.ram.compare_exchange(gpa, expected, new)

    def require_writable(self, gpa: int, size: int) -> None:
        self._check(gpa, size, WRITE)

    def _check(self, gpa: int, size: int, wanted: int) -> None:
        if self._world.refusing(VTL0, gpa, size, wanted) is not None:
            raise AccessInterceptedError(gpa, wanted == WRITE)


@dataclass
class World:
    """See the module. `grant`: whether VTL1 gives all rights when it is told; else the program ends there."""

    kvm: Kvm
    vm: Vm
    grant: bool = True
    told: list[Told] = field(default_factory=list)
    ended: Ended | None = None

    def __post_init__(self) -> None:
        self.hardware = kvm_modules().hardware
        self.ram = GuestRam(RAM_SIZE)
        mapping = self.ram.map_for_kvm()
        blocks = [(block.gpa, block.size, block.offset) for block in self.ram.blocks]
        self.view = ProtectedView(RamView(self.ram, mapping), self.ram, blocks)
        self.rights: dict[int, int] = {}
        self.rightful = RightfulMemory(self)
        self.mapping = Mapping()
        self.mapping.add(VTL0, self.view)
        self.vm.set_identity_map_addr(0xFEFFC000)
        self.vm.set_tss_addr(0xFEFFD000)
        for number, (gpa, size, offset) in enumerate(blocks):
            self.vm.set_user_memory_region(number, gpa, size, mapping.address + offset)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid2(self.kvm.supported_cpuid())
        ports = PortBus()
        ports.add(EXCEPTION_PORT, 1, Port(self._exception), "exception")
        ports.add(END_PORT, 1, Port(lambda value: self._end(None)), "end")
        self.processor = VirtualProcessor(0, self.vcpu, ports, MmioBus(), self._end_run)
        self.processor.emulator = Emulator(self.vcpu, UnprotectedMemory(self.ram))
        self.alone = Alone([self.processor])
        self.stepper = Stepper(
            self.processor, self.vcpu, self.view, self.rightful, self.alone, hardware=self.hardware
        )
        self.faults = MappingFaults(
            self.processor,
            self.vcpu,
            VTL0,
            self.view,
            self.rightful,
            self,
            self,
            self.stepper,
            [Alias(0xFFFF0000, 0x10000, 0xF0000)],
            hardware=self.hardware,
        )
        self.faults.attach(self.processor.handlers)
        self.outcome: Outcome | None = None
        self._lay_out()

    # ---- memory --------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        write, rwu = self.ram.write, 0x67
        write(PML4, struct.pack("<Q", PDPT | rwu))
        write(PDPT, struct.pack("<Q", PD | rwu))
        large = [number << 21 | 0x80 | rwu for number in range(2, 8)]
        write(PD, struct.pack("<8Q", PT0 | rwu, PT1 | rwu, *large))
        for table, first in ((PT0, 0), (PT1, MAPPED_BY_PT1)):
            write(table, struct.pack("<512Q", *[first + number * PAGE | rwu for number in range(512)]))
        task = 0x67 | (TSS & 0xFFFFFF) << 16 | 0x89 << 40 | (TSS >> 24) << 56
        code, data = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
        ring3 = 3 << 45
        write(GDT, struct.pack("<8Q", 0, code, data, data | ring3, code | ring3, task, 0, 0))
        write(TSS + 4, struct.pack("<Q", STACK))
        for vector in range(256):
            handler = HANDLERS + vector * 16
            gate = struct.pack(
                "<HHBBHII", handler & 0xFFFF, RING_SELECTORS[0][0], 0, 0xEE, handler >> 16, 0, 0
            )
            write(IDT + 16 * vector, gate)
            write(handler, bytes([0xB0, vector, 0xE6, EXCEPTION_PORT, 0xF4]))
        write(DATA, bytes(range(256)) * 16)
        write(OTHER, bytes(range(255, -1, -1)) * 16)

    def restrict(self, gpa: int, rights: int, pages: int = 1) -> HvStatus:
        """What VTL1 leaves VTL0 of some pages."""
        change = RightsChange(gpa // PAGE, pages, rights)
        status = self.mapping.apply(VTL0, [change])
        if status is HvStatus.SUCCESS:
            for page in range(pages):
                self.rights[gpa // PAGE + page] = rights
        return status

    # ---- vmm.backend.protection.mmio_writes.Rights, vmm.vsm.outside.MemoryIntercepts -----------------------

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        return None if self.rights.get(gpa // PAGE, ALL) & wanted else Refused(VTL1, gpa)

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        assert (vtl, owner) == (VTL0, VTL1)
        self.told.append(Told(access, Registers.of(self)))
        if not self.grant:
            self._end(None)
            return
        self.restrict(access.gpa & -PAGE, ALL)

    # ---- running -------------------------------------------------------------------------------------

    def start(self, code: bytes, ring: int = 0, at: int | None = None, **registers: int) -> None:
        """Put `code` and the end behind it in place, and the vCPU before it."""
        if at is None:
            at = USER_CODE if ring else CODE
        self.ram.write(at, code + END)
        code_selector, data_selector = RING_SELECTORS[ring]
        sregs = self.vcpu.get_sregs()
        for name in ("ds", "es", "fs", "gs", "ss"):
            segment = getattr(sregs, name)
            segment.base, segment.limit, segment.g, segment.present, segment.unusable = 0, 0xFFFFFFFF, 1, 1, 0
            segment.type, segment.s, segment.dpl, segment.db, segment.l = 3, 1, ring, 1, 0
            segment.selector = data_selector
        cs = sregs.cs
        cs.base, cs.limit, cs.g, cs.present, cs.type, cs.s = 0, 0xFFFFFFFF, 1, 1, 11, 1
        cs.l, cs.db, cs.dpl, cs.selector = 1, 0, ring, code_selector
        sregs.gdt.base, sregs.gdt.limit = GDT, 63
        sregs.idt.base, sregs.idt.limit = IDT, 256 * 16 - 1
        task = sregs.tr
        task.base, task.limit, task.selector, task.type, task.present, task.s = (
            TSS,
            0x67,
            TASK_SELECTOR,
            11,
            1,
            0,
        )
        # PG WP NE ET MP PE; PAE OSFXSR OSXMMEXCPT, OSXSAVE; NXE LMA LME
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80010033, PML4, 0x620, 0xD00
        if self.has_avx:
            sregs.cr4 |= 1 << 18
        self.vcpu.set_sregs(sregs)
        if self.has_avx:
            xcrs = x86.kvm_xcrs(nr_xcrs=1)
            xcrs.xcrs[0].xcr, xcrs.xcrs[0].value = 0, 7
            self.vcpu.set_xcrs(xcrs)
        regs = self.vcpu.get_regs()
        for number, name in enumerate(GENERAL):
            setattr(regs, name, 0x1111_0000_0000_0000 + number)
        # IOPL 3: ring 3 may use the ports
        regs.rip, regs.rsp, regs.rflags = at, USER_STACK if ring else STACK, 0x3002
        for name, value in registers.items():
            setattr(regs, name, value)
        self.vcpu.set_regs(regs)
        xsave = bytearray(bytes(self.vcpu.get_xsave()))
        xsave[160:416] = bytes(range(256))
        xsave[512] |= 3
        self.vcpu.set_xsave(x86.kvm_xsave.from_buffer_copy(xsave))

    @property
    def has_avx(self) -> bool:
        leaf = next(entry for entry in self.kvm.supported_cpuid() if entry.function == 1)
        return bool(leaf.ecx >> 28 & 1)

    def run(self) -> Ended:
        """Run to the end. A guest that does not end fails the test."""
        self.ended = None
        overdue = threading.Event()
        thread = threading.get_ident()
        run = self.vcpu.run

        def stop() -> None:
            overdue.set()
            run.immediate_exit = True
            signal.pthread_kill(thread, KICK)

        timer = threading.Timer(WATCHDOG_SECONDS, stop)
        timer.start()
        try:
            while self.ended is None:
                if BEFORE_ENTRY in self.processor.handlers:
                    self.processor.handlers[BEFORE_ENTRY]()
                    continue
                number = self.vcpu.run_once()
                if number == errno.EINTR:
                    assert not overdue.is_set(), f"the guest ran for {WATCHDOG_SECONDS} s without an end"
                    run.immediate_exit = False
                    if AFTER_KICK in self.processor.handlers:
                        self.processor.handlers[AFTER_KICK]()
                elif number:
                    self.processor.handlers[-number]()
                else:
                    self.processor.handle_exit(run.exit_reason)
                assert self.outcome is None, self.outcome
        finally:
            timer.cancel()
            timer.join()
        run.immediate_exit = True  # the OUT that ended it is not finished
        assert self.vcpu.run_once() == errno.EINTR
        run.immediate_exit = False
        self.ended.registers = Registers.of(self)
        return self.ended

    def _exception(self, vector: int) -> None:
        self._end(vector)

    def _end(self, vector: int | None) -> None:
        self.ended = Ended(vector, self.told, Registers.of(self))

    def _end_run(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def memory_image(self) -> bytes:
        """What programs can have changed."""
        return self.ram.read(0, HANDLERS) + self.ram.read(DATA - PAGE, OTHER + PAGE - (DATA - PAGE))

    def close(self) -> None:
        self.vm.close()
        self.ram.close()


class Port:
    """A port of which only what is written matters."""

    def __init__(self, written: Callable[[int], None]) -> None:
        self._written = written

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._written(value)


@contextlib.contextmanager
def new_world(*, grant: bool = True, irqchip: bool = False) -> Iterator[World]:
    """A world of its own."""
    with Kvm.open() as kvm, kvm.create_vm() as vm:
        if irqchip:
            vm.create_irqchip()
        world = World(kvm, vm, grant)
        try:
            yield world
        finally:
            world.close()


__all__ = ["ALL", "World", "k", "new_world"]
