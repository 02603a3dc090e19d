# SPDX-License-Identifier: Apache-2.0
"""One instruction of a VTL, with pages in its mapping that it may read or write but not execute.

| what could go wrong | what is done |
|---|---|
| another processor of the VTL uses the pages meanwhile | all others are kept out of the guest (`alone`) |
| an interrupt is delivered, and its handler runs with the pages | KVM_GUESTDBG_BLOCKIRQ |
| the instruction raises an exception, and its handler runs with the pages | no event can be delivered: see below |
| rights change meanwhile | the page is out again, the instruction is repeated |
| the instruction has been changed since it was looked at | it is looked at again behind `alone`, and repeated |
| it writes to a page table that was let in for its walk, and the decoder does not know | what it wrote is undone |
| the step does not end | SFMASK.TF and DEBUGCTL.BTF are clear meanwhile |
| the step is seen by the guest | RFLAGS.TF is taken out of what PUSHF, SYSCALL stored; a TF of its own has its #DB |
| the step takes the #DB of one of the guest's own breakpoints | it is raised, with DR6 as it was told of |
| the end of the step is not seen in time | not stepped at all: `by_hand` |

A handler cannot be reached: on a processor the pages of the IDT are out of the mapping, so that the delivery fails with
EFAULT and KVM keeps the exception; on a KVM that emulates ring 0 the IDT has a limit of 0, so that the delivery fails
with KVM_EXIT_SHUTDOWN and KVM's registers are as before it. There a native single step in ring 3 ends in the delivery
of a #DB, too. An exception that was caught goes its way afterwards, with the pages out.

The IDT may lie in a page that the instruction uses. A processor reads it there, and the exception's handler would run
with the pages. So the IDT register points elsewhere for this instruction, at a page that is out.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Final

from kvmapi import KvmError, Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend import guest_debug
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.events import Event, Kind, exception_of, in_delivery, keep
from vmm.backend.protection.far_operands import descriptor
from vmm.backend.protection.operands import operands, stack_width
from vmm.backend.protection.touches import Touches, idt_pages, linear_rip, of_instruction, translate
from vmm.backend.protection.unfinished import put_registers
from vmm.backend.protection.view import ProtectedView
from vmm.backend.vp import VirtualProcessor
from vmm.hypercall.outside import AccessInterceptedError, ProcessorMemory
from vmm.outside import GuestMemoryError

_BREAK: Final = guest_debug.BREAK | x86.KVM_GUESTDBG_BLOCKIRQ
_LONG: Final = 53  # the bit of a code segment's descriptor
_SFMASK: Final = 0xC000_0084
_GOES_ON: Final = ((_SFMASK, r.RFLAGS_TF), (0x1D9, 1 << 1))  # DEBUGCTL.BTF
_IMMEDIATE_EXIT: Final = 1
_PAGE: Final = 4096
_BREAKPOINTS: Final = 0xF  # of DR6: those whose conditions were met, enabled or not
_PUSHES_FLAGS: Final = ("pushf", "pushfd", "pushfq")
_DECOY_PAGES: Final = 64
"""Pages around the instruction that are looked at for one that it does not use."""

_MOST_SIGNALS: Final = 1000
"""Kicks while one instruction is carried out, which takes microseconds."""

_MOST_EXITS: Final = 1 << 16
"""Exits that one instruction can cause: a repeated string instruction that KVM emulates whole, by the byte."""


class Stepper:
    """Steps of one VTL of one VP, on the VP's thread. `steps` counts those that were carried out."""

    def __init__(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        view: ProtectedView,
        memory: ProcessorMemory,
        alone: Alone,
        *,
        hardware: bool,
    ) -> None:
        """memory: with the VTL's rights. hardware: whether guests run on VT-x or SVM (`KvmModules.hardware`)."""
        self.steps = 0
        self._held: list[tuple[int, int, int]] = []  # (MSR, value meanwhile, value of the guest's)
        self.raised: Event | None = None
        """The exception that the last instruction raised, where KVM has not kept it."""
        self.failed = False
        """The last instruction needs something else than the pages that were let in: nothing of it has happened."""
        self._processor = processor
        self._vcpu = vcpu
        self._view = view
        self._memory = memory
        self._alone = alone
        self._hardware = hardware

    def step(
        self,
        cpu: Processor,
        touches: Touches,
        pages: dict[int, int],
        walked: frozenset[int],
        answer: Callable[[], bool],
    ) -> None:
        """Carry out the instruction at RIP, with `pages` (and page tables `walked`) in the mapping.

        answer: is asked at each KVM_EXIT_MMIO on the way, and answers it if it can. If the step cannot be made now,
        nothing is done, and the instruction faults again. Errors: `KvmError`, `OSError`.
        """
        self.raised, self.failed = None, False
        if not self._alone.begin(self._processor):
            return
        try:
            still = self._is_still_there(cpu, touches)
            ended = self._run(cpu, touches, pages, walked, answer) if still else None
        finally:
            self._alone.end(self._processor)
        self._vcpu.run.u8[_IMMEDIATE_EXIT] = 1  # a kick that came meanwhile is attended to
        if ended is not None:
            self._processor.handle_exit(ended)

    def _is_still_there(self, cpu: Processor, touches: Touches) -> bool:
        """Whether the instruction and its operands are those that were looked at, when other VPs still ran: what is let
        in is for these only."""
        now = of_instruction(cpu, self._view, whole=touches.whole)
        before, after = touches.instruction, now.instruction
        same = before is after is None or (
            before is not None and after is not None and before.raw == after.raw
        )
        return same and now.touches == touches.touches

    def _run(
        self,
        cpu: Processor,
        touches: Touches,
        pages: dict[int, int],
        walked: frozenset[int],
        answer: Callable[[], bool],
    ) -> int | None:
        """The reason of an exit that is still to be handled, None without one."""
        vcpu, view = self._vcpu, self._view
        debug = vcpu.get_debugregs()
        loads = self._loaded_trap_flag(cpu, touches)
        self._held = []
        try:
            shield = self._shield(cpu, touches, pages, walked)
            if shield is None or not view.let_in(pages, walked):
                return None  # rights may have changed since
            view.take_out(shield)
            self._hold_what_goes_on(touches)
            self._ask_for_exit(cpu, touches)
            try:
                number = self._run_once()
                for _ in range(_MOST_EXITS):
                    if number or vcpu.run.exit_reason != k.KVM_EXIT_MMIO or not answer():
                        break
                    number = self._run_once()
            finally:
                vcpu.set_guest_debug(0)
        finally:
            view.let_out()
            self._unshield(cpu)
            self._give_back()
        # It is still the guest's: KVM clears it with the step's own.
        self._put_trap_flag(bool(cpu.regs.rflags & r.RFLAGS_TF))
        if number:
            self.failed = not self._take_trap(cpu, touches, debug, loads)
            return None
        return self._ended(cpu, touches, debug, loads)

    def _loaded_trap_flag(self, cpu: Processor, touches: Touches) -> bool | None:
        """The RFLAGS.TF that the instruction gives its guest; None: it does not change it."""
        decoded = touches.instruction
        if decoded is None:
            return None
        if decoded.mnemonic.startswith(("popf", "iret")):
            which = 2 if decoded.mnemonic.startswith("iret") else 0
            flags = list(operands(cpu, decoded))[which]
            return bool(self._number(cpu, flags.gva, flags.size) & r.RFLAGS_TF)
        if decoded.mnemonic == "sysret":
            return bool(cpu.regs.r11 & r.RFLAGS_TF)
        return None

    def _put_trap_flag(self, wanted: bool) -> None:
        """RFLAGS.TF as the guest has it. Errors: `KvmError`."""
        regs = self._vcpu.get_regs()
        if bool(regs.rflags & r.RFLAGS_TF) is not wanted:
            regs.rflags ^= r.RFLAGS_TF
            put_registers(self._vcpu, regs, self._vcpu.get_sregs())

    def _run_once(self) -> int:
        """KVM_RUN, again where a signal ends it: the trap may be on its way, as a triple fault that nobody can see
        until the next KVM_RUN tells of it. `step` has the signal's cause looked at. The error number."""
        vcpu = self._vcpu
        for _ in range(_MOST_SIGNALS):
            vcpu.run.u8[_IMMEDIATE_EXIT] = 0
            number = vcpu.run_once()
            if number != errno.EINTR:
                break
        return number

    def _hold_what_goes_on(self, touches: Touches) -> None:
        """On a processor a step is a trap, of which a guest can rid itself: SYSCALL clears RFLAGS.TF where SFMASK says
        so, and with DEBUGCTL.BTF only a branch ends a step. Then it would go on with the pages in. Errors: `KvmError`.
        """
        decoded = touches.instruction
        for msr, bit in _GOES_ON if self._hardware else ():
            if msr == _SFMASK and decoded is not None and decoded.mnemonic == "wrmsr":
                continue  # it may be what is written
            try:
                before = self._vcpu.get_msrs([msr])[0][1]
            except KvmError:  # the processor model does not have it
                continue
            if before & bit:
                self._vcpu.set_msrs([(msr, before & ~bit)])
                self._held.append((msr, before & ~bit, before))

    def _give_back(self) -> None:
        """Errors: `KvmError`."""
        for msr, meanwhile, before in self._held:
            if self._vcpu.get_msrs([msr])[0][1] == meanwhile:
                self._vcpu.set_msrs([(msr, before)])

    def _ask_for_exit(self, cpu: Processor, touches: Touches) -> None:
        """KVM_EXIT_DEBUG behind the instruction.

        A KVM that emulates ring 0 has two ways for IRET, and the one that it takes for a single step knows less: so
        it is stopped where it returns to.
        """
        decoded = touches.instruction
        if self._hardware or decoded is None or not decoded.mnemonic.startswith("iret"):
            self._vcpu.set_guest_debug(guest_debug.STEP)
            return
        frame = list(operands(cpu, decoded))
        rip, selector = (self._number(cpu, operand.gva, operand.size) for operand in frame[:2])
        raw = [self._number(cpu, operand.gva, operand.size) for operand in descriptor(cpu, selector)]
        target = rip + (0 if not raw or raw[0] >> _LONG & 1 else _base(raw[0]))
        self._vcpu.set_guest_debug(_BREAK, guest_debug.break_at(target))

    def _number(self, cpu: Processor, gva: int, size: int) -> int:
        """What the instruction reads there; 0 where it will have a page fault."""
        found = b""
        while len(found) < size:
            at = gva + len(found) & (1 << 64) - 1
            here = min(size - len(found), _PAGE - at % _PAGE)
            gpa = translate(cpu, self._view, at, Access(implicit=True))
            if gpa is None:
                return 0
            try:
                found += self._view.read(gpa, here)
            except GuestMemoryError:  # a device's, which is not asked twice
                return 0
        return int.from_bytes(found, "little")

    # ---- no event may be delivered -------------------------------------------------------------------

    def _shield(
        self, cpu: Processor, touches: Touches, pages: dict[int, int], walked: frozenset[int]
    ) -> frozenset[int] | None:
        """See to it that no handler can be reached. The pages to be taken out for that; None: it cannot be done."""
        if not self._hardware:
            self._put_idt(cpu, int(cpu.sregs.idt.base), 0)
            return frozenset()
        used = {touch.gpa >> 12 for touch in touches.touches} | pages.keys() | walked
        idt = idt_pages(cpu, self._view)
        if not idt & used and not any(self._view.covered(gpn) for gpn in idt):
            return idt
        around = linear_rip(cpu) & -_PAGE
        for index in range(1, _DECOY_PAGES):
            at = around + index * _PAGE & (1 << 64) - 1
            gpa = translate(cpu, self._view, at, Access(implicit=True))
            if gpa is None or gpa >> 12 in used:
                continue
            if self._view.is_ram(gpa >> 12) and not self._view.covered(gpa >> 12):
                self._put_idt(cpu, at, _PAGE - 1)
                return frozenset({gpa >> 12})
        return None

    def _put_idt(self, cpu: Processor, base: int, limit: int) -> None:
        sregs = x86.kvm_sregs.from_buffer_copy(cpu.sregs)
        sregs.idt.base, sregs.idt.limit = base, limit
        self._vcpu.set_sregs(sregs)

    def _unshield(self, cpu: Processor) -> None:
        sregs = self._vcpu.get_sregs()
        idt = cpu.sregs.idt
        if (sregs.idt.base, sregs.idt.limit) != (idt.base, idt.limit):
            sregs.idt = idt
            self._vcpu.set_sregs(sregs)
            self._vcpu.run.sregs.idt = idt  # where the exit's handler looks, and higher VTLs

    # ---- how it ended --------------------------------------------------------------------------------

    def _ended(
        self, cpu: Processor, touches: Touches, debug: x86.kvm_debugregs, loads: bool | None
    ) -> int | None:
        reason = int(self._vcpu.run.exit_reason)
        if reason == k.KVM_EXIT_DEBUG:
            status = int(self._vcpu.run.u64[guest_debug.DR6_U64]) if self._hardware else 0
            breakpoints = _enabled(status, debug.dr7)
            if breakpoints and not status & r.DR6_BS:  # one at the instruction itself: a fault
                self._raise_debug(breakpoints)
            else:
                self._finished(cpu, touches, loads, breakpoints)
            return None
        if reason != k.KVM_EXIT_SHUTDOWN or self._hardware:
            return reason
        events = self._vcpu.get_vcpu_events()
        if events.exception.nr == x86.DB_VECTOR:
            self._vcpu.set_debugregs(debug)  # the step has set DR6.BS
            self._finished(cpu, touches, loads)
        else:
            self.raised = exception_of(events)
        return None

    def _take_trap(
        self, cpu: Processor, touches: Touches, debug: x86.kvm_debugregs, loads: bool | None
    ) -> bool:
        """KVM_RUN failed. False: nothing was done. Else the step was, and its #DB or another event is on its way, which
        KVM delivers itself.
        """
        events = self._vcpu.get_vcpu_events()
        exception = events.exception
        if (exception.injected or exception.pending) and exception.nr == x86.DB_VECTOR and not self._hardware:
            exception.injected = exception.pending = 0
            events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
            self._vcpu.set_vcpu_events(events)
            self._vcpu.set_debugregs(debug)
            self._finished(cpu, touches, loads)
            return True
        return in_delivery(self._vcpu) is not None

    def _finished(self, cpu: Processor, touches: Touches, loads: bool | None, breakpoints: int = 0) -> None:
        """breakpoints: bits of DR6, if one of the guest's own was hit."""
        self.steps += 1
        if loads is not None:
            self._put_trap_flag(loads)
        traced = bool(cpu.regs.rflags & r.RFLAGS_TF)
        decoded = touches.instruction
        if decoded is not None and decoded.mnemonic in _PUSHES_FLAGS and not traced:
            self._hide_trap_flag(cpu, touches)
        if self._hardware and decoded is not None and decoded.mnemonic == "syscall":
            regs = self._vcpu.get_regs()
            masked = any(msr == _SFMASK for msr, _, _ in self._held)
            regs.r11 = regs.r11 & ~r.RFLAGS_TF | cpu.regs.rflags & r.RFLAGS_TF
            regs.rflags &= ~r.RFLAGS_TF if masked else ~0
            put_registers(self._vcpu, regs, self._vcpu.get_sregs())
            traced = traced and not masked
        if traced or breakpoints:
            self._raise_debug(breakpoints | (r.DR6_BS if traced else 0))

    def _raise_debug(self, status: int) -> None:
        """The guest's #DB. status: bits of DR6; those of breakpoints stay as they were without one (SDM 3, 18.2.3)."""
        debug = self._vcpu.get_debugregs()
        if status & _BREAKPOINTS:
            debug.dr6 &= ~_BREAKPOINTS
        debug.dr6 |= status
        self._vcpu.set_debugregs(debug)
        keep(self._vcpu, Event(Kind.EXCEPTION, x86.DB_VECTOR))

    def _hide_trap_flag(self, cpu: Processor, touches: Touches) -> None:
        """PUSHF stored the TF of the step: it is bit 0 of the second byte on the stack."""
        assert touches.instruction is not None
        at = next(iter(operands(cpu, touches.instruction))).gva + 1
        assert stack_width(cpu, touches.instruction) > 1
        gpa = translate(cpu, self._view, at, Access(write=True, user=cpu.cpl == 3))
        if gpa is not None:
            # Rights have changed since, and it cannot be seen; or the stack is a device's, which has it by now.
            with contextlib.suppress(AccessInterceptedError, GuestMemoryError):
                flags = self._memory.read(gpa, 1)[0]
                self._memory.write(gpa, bytes([flags & ~(r.RFLAGS_TF >> 8)]))


def _enabled(dr6: int, dr7: int) -> int:
    """The breakpoints of DR6, if one of them is enabled."""
    hit = any(dr6 >> number & 1 and dr7 >> 2 * number & 3 for number in range(4))
    return dr6 & _BREAKPOINTS if hit else 0


def _base(raw: int) -> int:
    """Of a segment descriptor of eight bytes."""
    return raw >> 16 & 0xFF_FFFF | raw >> 32 & 0xFF00_0000
