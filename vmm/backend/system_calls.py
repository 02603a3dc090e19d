# SPDX-License-Identifier: Apache-2.0
"""SYSCALL of a guest's programs, on a KVM that leaves it in ring 3 (`vmm.backend.ring3`).

Such a KVM goes to the address in IA32_LSTAR, sets RCX and R11 and clears in RFLAGS what IA32_FMASK says, as it should,
but stays in ring 3. The page there is the kernel's alone: the guest gets a page fault at its own entry point. That page
fault is what we wait for:

| what | done by |
|---|---|
| the guest writes IA32_LSTAR | the MSR filter; then a breakpoint is at its page fault handler (IDT, vector 14) |
| any page fault | KVM_EXIT_DEBUG at the handler, in ring 0, where KVM emulates and minds breakpoints |
| one of ring 3 at the entry point | its frame is dropped; the processor goes to the entry point as by SYSCALL |
| any other | one single step past the breakpoint |

A breakpoint at the entry point itself does not help: measured, the page fault comes and no KVM_EXIT_DEBUG. While one
is armed, KVM hands over every #DB: the guest's single steps and INT1 are given back to it, its own breakpoints have
no effect (api.rst KVM_SET_GUEST_DEBUG). A handler that the guest moves after it has written IA32_LSTAR is not
noticed. Programs in compatibility mode (IA32_CSTAR) are left as they are, and so are all where IA32_FMASK leaves IF
alone: a program that jumps to the entry point is told from one that calls by IF, which it cannot clear. An interrupt
between SYSCALL and the page fault finds the program at the entry point; it returns there, and the page fault comes
then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvmapi import KvmError, MsrRange, Vm
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend import guest_debug
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, general_protection, page_fault

if TYPE_CHECKING:
    from vmm.backend.emulation.processor import Cpuid, Processor
    from vmm.backend.vp import VirtualProcessor
    from vmm.hypercall.outside import ProcessorMemory

STAR, LSTAR, SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
_FRAME_BYTES = 48  # error code, RIP, CS, RFLAGS, RSP, SS
_RPL = 3
# struct kvm_run, behind the exit's header of 32 bytes: msr is (error u8, padding, reason u32, index u32, data u64)
_ERROR_U8, _INDEX_U32, _DATA_U64 = 32, 11, 6
_OUR_BREAKPOINT = 1  # of DR6
_FETCH_BY_PROGRAM = 0x15  # #PF's error code: present, user, instruction fetch


def watch(vm: Vm) -> None:
    """Have writes of IA32_LSTAR leave the guest. Errors: `KvmError`."""
    vm.enable_cap(k.KVM_CAP_X86_USER_SPACE_MSR, k.KVM_MSR_EXIT_REASON_FILTER)
    vm.set_msr_filter([MsrRange(LSTAR, 1, x86.KVM_MSR_FILTER_WRITE)])


class SystemCalls:
    """One VP's, of a machine without VTLs. Puts itself into the VP's handlers; all else is on the VP's thread."""

    def __init__(self, vp: VirtualProcessor, memory: ProcessorMemory, needed: Callable[[], bool]) -> None:
        """needed: whether this KVM leaves SYSCALL in ring 3; asked when a guest means to use it."""
        self._vcpu = vp.vcpu
        self._memory = memory
        self._needed = needed
        self._cpuid: Cpuid | None = None
        self._handler: int | None = None  # where the breakpoint is
        self._stepping = False  # past it
        vp.handlers[k.KVM_EXIT_X86_WRMSR] = self._write_msr
        vp.handlers[k.KVM_EXIT_DEBUG] = self._debug

    def reset(self) -> None:
        """The machine is reset, the VP frozen: no breakpoint until IA32_LSTAR is written again. Errors: `KvmError`."""
        self._stepping = False
        if self._handler is not None:
            self._handler = None
            self._vcpu.set_guest_debug(0)

    def _write_msr(self) -> None:
        run = self._vcpu.run
        try:
            self._vcpu.set_msrs([(run.u32[_INDEX_U32], run.u64[_DATA_U64])])
        except KvmError:  # not canonical
            run.u8[_ERROR_U8] = 1
            return
        if self._needed():
            self._handler = self._page_fault_handler()
            self._arm()

    def _page_fault_handler(self) -> int | None:
        """From the guest's IDT; None where it has none yet."""
        from vmm.backend.emulation import descriptors

        cpu = self._processor()
        if not cpu.long_mode:
            return None
        try:
            gate = descriptors.read_gate(cpu, x86.PF_VECTOR, general_protection())
        except (DeclinedError, GuestFaultError):
            return None
        return gate.offset if gate.present else None

    def _arm(self) -> None:
        if self._handler is None:
            self._vcpu.set_guest_debug(0)
        else:
            self._vcpu.set_guest_debug(guest_debug.BREAK, guest_debug.break_at(self._handler))

    def _debug(self) -> None:
        cpu = self._processor()
        if self._stepping:
            self._stepping = False
            self._arm()
        elif cpu.cpl:
            self._program_s_debug_exception(cpu)
        elif not self._system_call(cpu):
            self._stepping = True
            self._vcpu.set_guest_debug(guest_debug.STEP)

    def _program_s_debug_exception(self, cpu: Processor) -> None:
        """A program in ring 3 got #DB: by its own doing, or because it jumped to where our breakpoint is."""
        dr6 = self._vcpu.run.u64[guest_debug.DR6_U64]
        if dr6 & _OUR_BREAKPOINT and not dr6 & r.DR6_BS:
            cpu.raise_fault(page_fault(cpu.regs.rip, _FETCH_BY_PROGRAM))
        else:
            cpu.debug_trap(dr6 & r.DR6_BS)

    def _system_call(self, cpu: Processor) -> bool:
        """Make a SYSCALL of a page fault that was none; False if it was one. In ring 0."""
        from vmm.backend.emulation.descriptors import SYSTEM_READ

        if cpu.regs.rip != self._handler:
            return False
        try:
            raw = cpu.memory.read(cpu.regs.rsp, _FRAME_BYTES, SYSTEM_READ)
        except (DeclinedError, GuestFaultError):
            return False
        _, rip, cs, rflags, rsp, _ = (
            int.from_bytes(raw[at : at + 8], "little") for at in range(0, _FRAME_BYTES, 8)
        )
        if cs & _RPL != _RPL or cpu.sregs.cr2 != rip:
            return False
        (_, star), (_, entry), (_, mask) = self._vcpu.get_msrs([STAR, LSTAR, SFMASK])
        rflags &= ~r.RFLAGS_RF
        called = mask & r.RFLAGS_IF and rflags == (cpu.regs.r11 & ~mask & ~r.RFLAGS_RF) | 2
        if rip != entry or not called:
            return False
        regs, sregs = cpu.regs, cpu.sregs
        regs.rip, regs.rsp, regs.rflags = entry, rsp, rflags
        sregs.cs = _flat(star >> 32 & 0xFFFC, kind=0xB, long=1)
        sregs.ss = _flat((star >> 32 & 0xFFFC) + 8, kind=0x3, long=0)
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_regs(regs)
        return True

    def _processor(self) -> Processor:
        from vmm.backend.emulation.processor import Cpuid, Processor  # few guests come here

        if self._cpuid is None:
            self._cpuid = Cpuid(self._vcpu.get_cpuid2())
        return Processor(self._vcpu, self._memory, self._cpuid)


def _flat(selector: int, *, kind: int, long: int) -> x86.kvm_segment:
    """What SYSCALL makes of CS and SS, whatever the GDT has (SDM volume 2, SYSCALL)."""
    return x86.kvm_segment(
        base=0, limit=0xFFFF_FFFF, selector=selector, type=kind, present=1, dpl=0, db=1 - long, s=1, l=long, g=1
    )  # fmt: skip
