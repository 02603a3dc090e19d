# SPDX-License-Identifier: Apache-2.0
"""`MappingFaults`: accesses that a VTL's mapping of memory refuses, on any KVM.

How such an access comes to the VMM:

| who carries the instruction out | exit |
|---|---|
| a processor | KVM_RUN fails with EFAULT, without an address; nothing has happened |
| KVM's emulator, a read | KVM_EXIT_MMIO with the address; RIP is at the instruction, which is half done |
| KVM's emulator, a write | KVM_EXIT_MMIO with address and data; RIP is behind the instruction |
| KVM's emulator, a fetch, or a LOCKed access to a page that can only be read | KVM_EXIT_INTERNAL_ERROR |
| KVM's emulator, delivery of an event | KVM_EXIT_SHUTDOWN; registers are as before it |

For each of them: what is refused goes to the VTL that refuses it, with all registers as before the instruction; what
is allowed, and only not in the mapping because the mapping cannot deny execute, is carried out here; everything else
goes where it went before. Without an address the access is found by decoding (`touches`). The emulator's writes are
`mmio_writes`' business.

`vmm.backend.protection.mapping_host.MappingProtection` attaches it. It has to come over `RefusedWrites`, which takes an
EFAULT without an address for a write to an overlay.

Implements: VSM-080, IMP-007
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.emulation import interrupt
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.backend.emulation.registers import RFLAGS_RF
from vmm.backend.protection import by_hand, mmio_exit
from vmm.backend.protection.decoded import Decoded
from vmm.backend.protection.events import Event, Kind, in_delivery, keep, lost_in_delivery
from vmm.backend.protection.faults import Alias, ram_gpa_of
from vmm.backend.protection.lacking import lacking
from vmm.backend.protection.mmio_writes import MmioWrites, Rights
from vmm.backend.protection.repeats import Repeats
from vmm.backend.protection.stepping import Stepper
from vmm.backend.protection.touches import Touch, Touches, of_event, of_instruction, tables_of_exception
from vmm.backend.protection.unfinished import put_registers, take_back
from vmm.backend.protection.vector_operands import has_mask
from vmm.backend.protection.view import PAGE_SHIFT, ProtectedView
from vmm.backend.vp import AFTER_KICK, REFUSED_ACCESS, VirtualProcessor
from vmm.hypercall.outside import AccessInterceptedError, ProcessorMemory
from vmm.vsm.outside import MemoryAccess, MemoryIntercepts
from vmm.vsm.rights import EXECUTE, READ, WRITE

_IMMEDIATE_EXIT: Final = 1
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8

_USER: Final = 3
_INVALID_OPCODE: Final = Event(Kind.EXCEPTION, x86.UD_VECTOR)

REPEATS: Final = 1000
"""Exits at one instruction, one after the other and with all registers the same, for which there is no reason. Rights
that change give a few."""


class MappingFaults:
    """Those of one VTL of one VP. `attach` puts the handlers in place; they run on the VP's thread."""

    def __init__(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        view: ProtectedView,
        memory: ProcessorMemory,
        protections: Rights,
        intercepts: MemoryIntercepts,
        stepper: Stepper,
        aliases: Sequence[Alias] = (),
        *,
        hardware: bool,
    ) -> None:
        """memory: with the VTL's rights. hardware: whether guests run on VT-x or SVM (`KvmModules.hardware`)."""
        self._processor = processor
        self._vcpu = vcpu
        self._vtl = vtl
        self._view = view
        self._memory = memory
        self._protections = protections
        self._intercepts = intercepts
        self._stepper = stepper
        self._aliases = aliases
        self._hardware = hardware
        self._cpuid: Cpuid | None = None
        self._others: dict[int, Callable[[], None]] = {}
        self._writes = MmioWrites(vcpu, vtl, view, memory, protections, self._tell, aliases)
        self._look = False  # whether the VTL is stuck is to be looked up
        self._repeats = Repeats()
        self._failed = False  # the last one that was to be carried out could not be
        self._retries = False  # an instruction that KVM gave up is being tried with all pages that it may use

    def attach(self, handlers: dict[int, Callable[[], None]]) -> None:
        """handlers: those of the VTL, with everybody else's in it. The VP's thread does not run the VTL."""
        for key, handler in (
            (k.KVM_EXIT_MMIO, self.mmio),
            (REFUSED_ACCESS, self.fault),
            (k.KVM_EXIT_INTERNAL_ERROR, self.internal_error),
            (k.KVM_EXIT_SHUTDOWN, self.shutdown),
        ):
            self._others[key] = handlers.get(key) or (lambda: self._processor.run_failed(errno.EFAULT))
            handlers[key] = handler
        self._writes.attach(handlers, self._others[k.KVM_EXIT_MMIO])
        if not self._hardware:
            handlers[AFTER_KICK] = self._kicked

    def reset(self) -> None:
        """The VTL begins anew: what it was about to write is written no more. Its VP is frozen."""
        self._writes.drop()
        self._look = False

    @property
    def inexact(self) -> int:
        """Refused writes whose instruction was not found (`mmio_writes`)."""
        return self._writes.inexact

    def look(self) -> bool:
        """See `vmm.backend.protection.stuck.Stuck`."""
        self._look = self._processor.vcpu is self._vcpu and self._view.restricts()
        return self._look

    # ---- exits ---------------------------------------------------------------------------------------

    def mmio(self) -> None:
        """KVM_EXIT_MMIO."""
        if not self._answer_mmio():
            self._refused_mmio()

    def fault(self) -> None:
        """KVM_RUN failed with EFAULT."""
        cpu = self._processor_state()
        if not self._hardware:
            cpu.regs.rflags &= ~RFLAGS_RF  # set by the host's own fault in ring 3
        event = in_delivery(self._vcpu)
        if event is None:
            self._instruction(cpu, self._others[REFUSED_ACCESS])
        elif self._event(cpu, event, requeue=False):
            return
        elif self._writes_read_only(of_event(cpu, self._view, event.vector, event.error_code)):
            self._others[REFUSED_ACCESS]()
        else:
            self._repeat(cpu, self._others[REFUSED_ACCESS])

    def internal_error(self) -> None:
        """KVM_EXIT_INTERNAL_ERROR: maybe an instruction that KVM could not fetch or carry out for want of rights, or a
        LOCKed access to an overlay that may only be read."""
        if (self._view.restricts() or self._view.shows_read_only()) and not self._retries:
            cpu = self._processor_state()
            touches = of_instruction(cpu, self._view)
            if self._refuse(cpu, touches):
                return
            if self._writes_read_only(touches):
                put_registers(
                    self._vcpu, cpu.regs, cpu.sregs
                )  # takes back the #UD of an emulator that gave up
                self._others[REFUSED_ACCESS]()
                return
            self._retries = True
            try:
                if self._carry_out(cpu, touches, self._others[k.KVM_EXIT_INTERNAL_ERROR]):
                    return
            finally:
                self._retries = False
        self._others[k.KVM_EXIT_INTERNAL_ERROR]()

    def shutdown(self) -> None:
        """KVM_EXIT_SHUTDOWN: maybe an event that KVM's emulator could not deliver for want of rights."""
        if self._view.restricts() and not self._hardware:
            cpu = self._processor_state()
            event = lost_in_delivery(self._vcpu)
            if self._for_want_of_a_table(cpu, event):
                return
            if self._event(cpu, event, requeue=True):
                return
        self._others[k.KVM_EXIT_SHUTDOWN]()

    def _kicked(self) -> None:
        """The VTL is about to go on: if it is stuck, where it may not do what it is about to, that is refused."""
        if not self._look:
            return
        vcpu = self._vcpu
        self._look = False
        if vcpu.get_mp_state() != k.KVM_MP_STATE_RUNNABLE:
            return
        if vcpu.run.u64[_DIRTY_U64]:
            # What a VTL switch or another VP has just written is not in KVM yet: it takes that and comes back.
            self._look, vcpu.run.u8[_IMMEDIATE_EXIT] = True, 1
            return
        if in_delivery(vcpu) is not None:
            return
        cpu = self._processor_state()
        cpu.regs.rflags &= ~RFLAGS_RF  # see `fault`
        self._settled(cpu, of_instruction(cpu, self._view))

    # ---- an access whose address is known --------------------------------------------------------------

    def _answer_mmio(self) -> bool:
        """Do what KVM_EXIT_MMIO asks for, unless rights refuse it, or it has to be atomic."""
        gpa, size, is_write, data = mmio_exit.told(self._vcpu.run)
        if is_write:
            return self._writes.answer(gpa, data)
        ram_gpa = self._ram_gpa(gpa)
        if mmio_exit.is_elsewhere(self._view, gpa, ram_gpa, is_write=False):
            self._others[k.KVM_EXIT_MMIO]()
            return True
        cpu = self._processor_state()
        touches = of_instruction(cpu, self._view)
        hit = touches.operand_at(gpa)
        if hit is not None and hit.wanted == WRITE:
            locked = touches.instruction is not None and touches.instruction.locked
            if locked or not self._view.rights(ram_gpa >> PAGE_SHIFT) & WRITE:
                return False
        try:
            mmio_exit.answer(self._vcpu.run, self._memory.read(ram_gpa, size))
        except AccessInterceptedError:
            return False
        return True

    def _refused_mmio(self) -> None:
        """Take back the instruction at this KVM_EXIT_MMIO. Either somebody is told, or it is carried out otherwise."""
        gpa, size, is_write, data = mmio_exit.told(self._vcpu.run)
        cpu = self._processor_state()
        if is_write:
            self._writes.refuse(cpu, gpa, data)
            return
        touches = of_instruction(cpu, self._view)
        hit = touches.operand_at(gpa)
        instruction = touches.instruction
        self._take_back_read(cpu, touches)
        wanted = READ if hit is None else hit.wanted
        refused = self._protections.refusing(self._vtl, self._ram_gpa(gpa), size, wanted)
        if refused is not None:
            raw = instruction.raw if instruction else b""
            gva = None if hit is None else hit.gva + gpa - hit.gpa
            self._tell(refused.owner, MemoryAccess(gpa, wanted, gva, raw, len(raw)))
        elif hit is not None and instruction is not None and instruction.locked:
            if self._writes_read_only(touches):
                self._others[REFUSED_ACCESS]()
            else:
                self._carry_out(cpu, touches, self._others[REFUSED_ACCESS])

    def _take_back_read(self, cpu: Processor, touches: Touches) -> None:
        written = {
            self._ram_gpa(touch.gpa) >> PAGE_SHIFT
            for touch in touches.touches
            if touch.wanted == WRITE and not touch.page_walk
        }
        vector = touches.instruction is None or touches.instruction.vector
        with self._view.without([page for page in written if self._view.is_ram(page)]):
            take_back(self._vcpu, cpu, vector=vector)

    # ---- an access that has to be found ------------------------------------------------------------------

    def _instruction(self, cpu: Processor, otherwise: Callable[[], None]) -> None:
        touches = of_instruction(cpu, self._view)
        if self._settled(cpu, touches):
            return
        decoded = touches.instruction
        if decoded is not None and has_mask(decoded):
            touches = of_instruction(cpu, self._view, whole=True)
            if self._settled(cpu, touches):
                return
        if self._writes_read_only(touches):
            otherwise()
        elif decoded is None and touches.fault is not None:
            self._repeat(cpu, otherwise)
        else:
            self._repeat(cpu, partial(self._give_up, cpu, decoded))

    def _writes_read_only(self, touches: Touches) -> bool:
        """Whether an overlay is written that may only be read."""
        return any(
            touch.wanted == WRITE and self._view.read_only(self._page(touch)) for touch in touches.touches
        )

    def _settled(self, cpu: Processor, touches: Touches) -> bool:
        """Whether the touches were a reason for the exit: somebody is told, or the instruction is carried out."""
        return self._refuse(cpu, touches) or (self._carry_out(cpu, touches) and not self._failed)

    def _carry_out(
        self, cpu: Processor, touches: Touches, otherwise: Callable[[], None] | None = None
    ) -> bool:
        """Carry out the instruction if the mapping lacks something that it may use. otherwise: see `_repeat`, for one
        that needs more than that."""
        pages, walked = self._missing(touches)
        if not pages and not walked:
            return False
        decoded = touches.instruction
        if decoded is not None and by_hand.carry_out(
            self._processor_state(), decoded, hardware=self._hardware
        ):
            self._repeats.end()
            self._failed = False
            return True
        self._stepper.step(cpu, touches, pages, walked, self._answer_mmio)
        self._failed = self._stepper.failed
        if not self._failed:
            self._repeats.end()
        elif otherwise is not None:
            self._repeat(cpu, otherwise)
        raised = self._stepper.raised
        if raised is not None and not self._event(self._processor_state(), raised, requeue=True):
            keep(self._vcpu, raised)
        return True

    def _refuse(self, cpu: Processor, touches: Touches) -> bool:
        """Tell of the first touch that is refused, if one is."""
        for touch in touches.touches:
            page = self._page(touch)
            if self._view.rights(page) & touch.wanted or self._view.covered(page):
                continue
            refused = self._protections.refusing(
                self._vtl, self._ram_gpa(touch.gpa), touch.size, touch.wanted
            )
            if refused is None:
                continue
            put_registers(self._vcpu, cpu.regs, cpu.sregs)  # takes back the #UD of an emulator that gave up
            decoded = touches.instruction
            raw = b"" if decoded is None or touch.wanted == EXECUTE else decoded.raw
            gva = touch.gva
            self._tell(
                refused.owner, MemoryAccess(touch.gpa, touch.wanted, gva, raw, len(raw), touch.page_walk)
            )
            return True
        return False

    def _missing(self, touches: Touches) -> tuple[dict[int, int], frozenset[int]]:
        return lacking(self._view, touches, self._page, hardware=self._hardware)

    def _page(self, touch: Touch) -> int:
        return self._ram_gpa(touch.gpa) >> PAGE_SHIFT

    def _repeat(self, cpu: Processor, otherwise: Callable[[], None]) -> None:
        """The instruction should have worked: rights have changed since, or it is none of ours."""
        if not self._view.restricts():
            otherwise()
            return
        if self._repeats.count(bytes(cpu.regs)) > REPEATS:
            otherwise()

    def _give_up(self, cpu: Processor, decoded: Decoded | None) -> None:
        """Nobody knows why the instruction stops. In ring 3 it gets #UD: one process must not end the machine.

        So does one that nobody can decode, which none of the processors has that KVM shows to guests.
        """
        if decoded is None or cpu.cpl == _USER:
            keep(self._vcpu, _INVALID_OPCODE)
            return
        self._processor.run_failed(
            errno.EFAULT,
            f"VTL{self._vtl} stops at {cpu.regs.rip:#x}, {decoded.insn.mnemonic} {decoded.insn.op_str}".rstrip()
            + f" ({decoded.raw.hex()}): no page that it accesses is a reason in the rights that VTLs have given",
        )

    def _for_want_of_a_table(self, cpu: Processor, event: Event) -> bool:
        """Whether an exception came of a page table or descriptor that KVM's emulator could not read.

        Then the instruction is told of, or carried out. If it raises the exception with all pages that it may use,
        that is delivered.
        """
        pages = {self._page(touch) for touch in tables_of_exception(cpu, self._view, event)}
        if not any(self._view.unreadable(page) for page in pages):
            return False
        touches = of_instruction(cpu, self._view)
        return self._refuse(cpu, touches) or self._carry_out(cpu, touches, self._others[k.KVM_EXIT_SHUTDOWN])

    # ---- an event on its way into the guest --------------------------------------------------------------

    def _event(self, cpu: Processor, event: Event, *, requeue: bool) -> bool:
        """An event could not be delivered. False: rights have nothing to do with it.

        requeue: KVM does not have it any more. What it was to interrupt raises a fault again by itself.
        """
        touches = of_event(cpu, self._view, event.vector, event.error_code)
        if self._refuse(cpu, touches):
            if requeue and not event.comes_again:
                keep(self._vcpu, event)
            return True
        pages, walked = self._missing(touches)
        if not pages and not walked:
            return False
        try:
            interrupt.deliver(
                cpu, event.vector, software=False, fault=event.fault, error_code=event.error_code
            )
        except (DeclinedError, GuestFaultError, ProtectedError):
            if requeue:
                keep(self._vcpu, event)
            return False
        event.delivered(self._vcpu)
        cpu.retire(trap=False)
        return True

    # ---- around --------------------------------------------------------------------------------------

    def _processor_state(self) -> Processor:
        if self._cpuid is None:
            self._cpuid = Cpuid(self._vcpu.get_cpuid2())
        return Processor(self._vcpu, self._memory, self._cpuid)

    def _ram_gpa(self, gpa: int) -> int:
        return ram_gpa_of(gpa, self._aliases)

    def _tell(self, owner: int, access: MemoryAccess) -> None:
        self._repeats.end()
        self._intercepts.memory(self._processor.index, self._vtl, owner, access)
