# SPDX-License-Identifier: Apache-2.0
"""The VTL scheduler of one VP: what its thread runs next, as the state machine `vmm.vsm.vp` says.

Everything here happens on the VP's own thread, which owns the vCPUs of all its VTLs: no other thread has to be waited
for, and no two of them run at once. Others only `kick` the VP; the thread then asks anew (`attend`).

| what makes a higher VTL run | how it is noticed |
|---|---|
| VTL call, return | the hypercall's exit: `switch` |
| an interrupt that the VMM makes (SynIC, synthetic timer, MSI, PV IPI) | whoever makes it kicks the VP |
| the timer of its local APIC | its registers tell when it runs out, and a timer of ours kicks the VP then |
| an IPI from the same VTL on another VP, straight through the local APICs | `waits` |

Each VTL has a local APIC, timers and an activity state of its own, those of its vCPU. A lower VTL that sleeps in HLT
sleeps on when it runs again, unless something has come for it. What comes for it before that waits in its local APIC,
devices' interrupts included, which reach VTL0's VM only. An NMI is its sender's VTL's, and enters it as an interrupt
does.

Implements: IMP-003, TMR-016, VSM-059, VSM-123, VSM-130, VSM-131
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.vp import Handler, VirtualProcessor
from vmm.backend.vsm import readiness
from vmm.backend.vsm.apic_timer import ApicTimer
from vmm.backend.vsm.poke import poke
from vmm.backend.vsm.port_exits import VtlPorts
from vmm.backend.vsm.shared_state import SharedState
from vmm.backend.vsm.waits import VtlWaits
from vmm.vsm.actions import (
    RaiseVina,
    ReturnRegisters,
    Run,
    SwitchVtl,
    WaitForStartup,
    WaitForTlbLock,
)
from vmm.vsm.vp import VsmVp

_RFLAGS_IF = 1 << 9
# In kvm_run, as they were at the exit.
_EVENTS = run_page.SYNC_REGS + x86.kvm_sync_regs.events.offset
_INTERRUPT_INJECTED = (
    _EVENTS + x86.kvm_vcpu_events.interrupt.offset + x86.kvm_vcpu_events_interrupt.injected.offset
)
_INTERRUPT_SOFT = _EVENTS + x86.kvm_vcpu_events.interrupt.offset + x86.kvm_vcpu_events_interrupt.soft.offset
_NMI_INJECTED = _EVENTS + x86.kvm_vcpu_events.nmi.offset + x86.kvm_vcpu_events_nmi.injected.offset
_NMI_PENDING = _EVENTS + x86.kvm_vcpu_events.nmi.offset + x86.kvm_vcpu_events_nmi.pending.offset


class VtlVcpu(NamedTuple):
    """What one VTL of one VP has in KVM, and where its exits lead."""

    vtl: int
    vcpu: Vcpu
    handlers: dict[int, Handler]
    emulator: Emulator | None
    timer: ApicTimer
    ports: VtlPorts


class Around(Protocol):
    """What the scheduler of a VP needs beside its vCPUs."""

    def raise_vina(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """A fixed, edge-triggered interrupt for the local APIC of `vtl`, which is about to run."""

    def store_return_registers(self, vp: int, vtl: int, rax: int, rcx: int) -> None:
        """Into the VP assist page of `vtl`."""

    def runs(self, vp: int, vtl: int) -> None:
        """The VP runs `vtl` from now on."""


class SwitchCounts(Protocol):
    """Who counts (`vmm.backend.stats.counts.VpCounts`)."""

    def switched(self, switch: SwitchVtl) -> None:
        """It was carried out."""

    def vina(self) -> None:
        """VINA was raised."""

    def intercepted(self, vtl: int, cause: str) -> None:
        """An access or instruction of `vtl` was intercepted for a higher VTL."""


class VpScheduler:
    """One VP's."""

    def __init__(
        self,
        processor: VirtualProcessor,
        vp: VsmVp,
        shared: SharedState,
        vtl0: VtlVcpu,
        around: Around,
        waits: VtlWaits,
    ) -> None:
        self.vp = vp
        self._just_stopped: int | None = None
        self.counts: SwitchCounts | None = None  # nobody counts
        self._processor = processor
        self.shared = shared
        self._around = around
        self._waits = waits
        self._events = 0
        """Bit N: VTL N has had an event since the last `attend`."""
        self.vtls: dict[int, VtlVcpu] = {0: vtl0}
        processor.ports = vtl0.ports

    def add(self, vtl: VtlVcpu) -> None:
        """A VTL that has just been made; it does not run by this."""
        self.vtls = {**self.vtls, vtl.vtl: vtl}  # its VP may be reading it
        self._processor.add_vcpu(vtl.vcpu)

    def drop_all(self) -> None:
        """Only VTL0 is left (reset). The VP is frozen; the vCPUs are the caller's to close."""
        vtl0 = self.vtls[0]
        dropped = [vtl for number, vtl in self.vtls.items() if number]
        self.vtls = {0: vtl0}
        self._processor.run_vtl(vtl0.vcpu, vtl0.handlers, vtl0.emulator, vtl0.ports)
        self._waits.forget(self.vp.index)
        self._events = 0
        for each in dropped:
            each.timer.close()
            self.shared.forget(each.vcpu)
            self._processor.remove_vcpu(each.vcpu)
        self.shared.forget(vtl0.vcpu)

    # ---- on the VP's thread --------------------------------------------------------------------------

    def switch(self, switch: SwitchVtl) -> None:
        """A VTL call or return. Errors: `KvmError`."""
        self._carry_out(switch)
        highest = self.vp.enabled.bit_length() - 1
        if switch.target < highest:  # a VTL above may have an interrupt waiting (VSM-055)
            self._just_stopped = switch.source
            self._settle()

    def attend(self) -> None:
        """Something may have changed: do what is to be done until a VTL runs, or nothing can. Errors: `KvmError`."""
        vp = self.vp
        if vp.enabled == 1:
            self._processor.held = self._processor.held and not vp.started
            return
        self.recall()
        events, self._events = self._events >> vp.active + 1 << vp.active + 1, 0
        for number, vtl in self.vtls.items():
            if events >> number & 1 and not self._wants(vtl):
                poke(vtl.vcpu)  # a timer, whose interrupt is not in IRR yet
        self._settle()
        active = vp.active
        if left := events >> active + 1 << active + 1:
            self._waits.false_alarm(vp.index, left)
        if not self._processor.held:
            above = {number: vtl.vcpu for number, vtl in self.vtls.items() if number > active}
            self._waits.post(vp.index, above)

    def recall(self) -> None:
        """Have all vCPUs at hand. Errors: `KvmError`."""
        self._events |= self._waits.recall(self.vp.index)

    def _settle(self) -> None:
        vp = self.vp
        while True:
            step = vp.next_step(self._entering(), self._taking())
            match step:
                case SwitchVtl():
                    self._carry_out(step)
                case RaiseVina(vtl=vtl, vector=vector, auto_eoi=auto_eoi):
                    self._around.raise_vina(vp.index, vtl, vector, auto_eoi)
                    if self.counts is not None:
                        self.counts.vina()
                case WaitForTlbLock() | WaitForStartup():
                    if not self._processor.held:
                        self._processor.held = True
                        self._processor.kick()  # if this is the end of a hypercall: do not enter the guest
                    return
                case Run(vtl=number):
                    self._processor.held = False
                    chosen = self.vtls[number]
                    if chosen.vcpu is not self._processor.vcpu:  # just been started, in a higher VTL
                        self._take_up(chosen)
                    return

    def _entering(self) -> int:
        """VTLs above the active one whose local APIC has something for the VP."""
        active, found = self.vp.active, 0
        just_stopped, self._just_stopped = self._just_stopped, None
        for number, vtl in self.vtls.items():
            if number > active and (_wanted(vtl) if number == just_stopped else self._wants(vtl)):
                found |= 1 << number
        return found

    def _wants(self, vtl: VtlVcpu) -> bool:
        vtl.timer.look()
        return readiness.requests(vtl.timer.lapic) or _in_flight(vtl.vcpu)

    def _taking(self) -> int:
        """VTLs below the active one that would take an interrupt at once; asked only where VINA is to tell of it."""
        active, found = self.vp.active, 0
        if not active or not self.vp.vtls[active].vina_enabled:
            return 0
        for number, vtl in self.vtls.items():
            if number < active and vtl.vcpu.run.regs.rflags & _RFLAGS_IF and self._wants(vtl):
                found |= 1 << number
        return found

    def _carry_out(self, switch: SwitchVtl) -> None:
        """Stop one vCPU, give the other what they share, and run it (RIP of the first has moved: `hyperv.caller`).

        Implements: IMP-001, IMP-002
        """
        source, target = self.vtls[switch.source], self.vtls[switch.target]
        index = self.vp.index
        self.recall()
        if switch.store_registers:
            regs = source.vcpu.run.regs
            self._around.store_return_registers(index, switch.target, regs.rax, regs.rcx)
        self.shared.carry(source.vcpu, target.vcpu)
        if switch.registers is not None:
            _load(target.vcpu.run.regs, switch.registers)
        # Behind the copy: what follows looks at what the VTL has become.
        if switch.target < switch.source or self.vp.vtls[switch.target].vina_enabled:
            source.timer.stopped()
        else:
            source.timer.left()
        target.timer.runs()
        self._take_up(target)
        if self.counts is not None:
            self.counts.switched(switch)

    def _take_up(self, vtl: VtlVcpu) -> None:
        self._processor.run_vtl(vtl.vcpu, vtl.handlers, vtl.emulator, vtl.ports)
        self._around.runs(self.vp.index, vtl.vtl)


def _load(regs: x86.kvm_regs, values: ReturnRegisters) -> None:
    regs.rax, regs.rcx = values.rax, values.rcx
    if values.rdx is not None:
        regs.rdx = values.rdx


def _wanted(vtl: VtlVcpu) -> bool:
    """As `_wants`, of a VTL that has just stopped: its local APIC was read then, and its events came with the exit."""
    u8 = vtl.vcpu.run.u8
    if u8[_NMI_PENDING] or u8[_NMI_INJECTED] or (u8[_INTERRUPT_INJECTED] and not u8[_INTERRUPT_SOFT]):
        return True
    return readiness.requests(vtl.timer.lapic)


def _in_flight(vcpu: Vcpu) -> bool:
    """Whether an NMI, or an interrupt that is no longer in IRR, is on its way into the vCPU."""
    events = vcpu.get_vcpu_events()
    return bool(
        events.nmi.pending or events.nmi.injected or (events.interrupt.injected and not events.interrupt.soft)
    )
