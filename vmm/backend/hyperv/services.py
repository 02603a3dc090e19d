# SPDX-License-Identifier: Apache-2.0
"""What the Hyper-V state and the hypercalls ask of the machine: `PartitionServices` and `Processors` on KVM."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kvmapi import Vm
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.auto_eoi import AutoEoi
from vmm.backend.hyperv.idle import IdleSleep
from vmm.backend.hyperv.local_apic import KvmLocalApic, msi_address, msi_data, signal
from vmm.backend.vp import VirtualProcessor
from vmm.hvcalls.outside import MessageInterrupt
from vmm.hvmsr.crash import CrashReport
from vmm.hvmsr.outside import LocalApic
from vmm.outside import Clock, MachineControl

_VTL0: Final = 0
_SPIN_YIELD_S: Final = 0.0


class HigherVtls(Protocol):
    """The VTLs above 0 (`vmm.backend.vsm.vtls`)."""

    def vp_mask(self, vtl: int) -> int:
        """Bit n: VP n has `vtl`."""

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> bool:
        """A fixed, edge-triggered interrupt. False: no local APIC takes it."""

    def message_interrupt(self, vtl: int, address: int, data: int) -> None:
        """A message for the local APICs of a VTL above 0."""

    def lower_interrupt(self, vp: int) -> None:
        """VTL0's local APIC has got an interrupt."""

    def local_apic(self, vp: int, vtl: int) -> LocalApic:
        """The local APIC of a VTL that is being enabled."""


class KvmServices:
    """One machine's. Thread-safe but for what belongs to a VP's thread; see the package."""

    def __init__(
        self,
        vm: Vm,
        processors: Sequence[VirtualProcessor],
        apic_ids: Sequence[int],
        clock: Clock,
        control: MachineControl,
        notice: Callable[[str], None],
    ) -> None:
        """apic_ids: by VP index. notice: a line for the user."""
        self.page = page_code.CODE
        """The hypercall page's code."""
        self._vm = vm
        self._processors = processors
        self._control = control
        self._notice = notice
        self._addresses = [msi_address(apic_id) for apic_id in apic_ids]
        self._vp_of = {apic_id: vp for vp, apic_id in enumerate(apic_ids)}
        self.vtls: HigherVtls | None = None
        self._all = (1 << len(processors)) - 1
        self._apics = [KvmLocalApic(vm, processor.vcpu, apic_ids) for processor in processors]
        self.auto_eois = [
            AutoEoi(processor, apic, clock) for processor, apic in zip(processors, self._apics, strict=True)
        ]
        self.idle_sleeps = [IdleSleep(processor, clock) for processor in processors]

    # ---- interrupts ----------------------------------------------------------------------------------

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """A fixed, edge-triggered interrupt; lost where the VP does not exist or its APIC is disabled."""
        if not 0 <= vp < len(self._addresses):
            return
        if vtl != _VTL0:
            if self.vtls is not None:
                self.vtls.request_interrupt(vp, vtl, vector, auto_eoi)
            return
        if signal(self._vm, self._addresses[vp], vector):
            if auto_eoi:
                self.auto_eois[vp].requested(vector)
            if self.vtls is not None:
                self.vtls.lower_interrupt(vp)

    def message_interrupt(self, vtl: int, interrupt: MessageInterrupt) -> None:
        """An interrupt by message; lost where no local APIC of the VTL takes it."""
        address, data = msi_address(interrupt.destination, interrupt.logical), msi_data(interrupt)
        if vtl != _VTL0:
            if self.vtls is not None:
                self.vtls.message_interrupt(vtl, address, data)
        elif signal(self._vm, address, data) and self.vtls is not None:
            for vp in range(len(self._processors)):  # KVM does not tell who has taken it
                self.vtls.lower_interrupt(vp)

    def local_apic(self, vp: int, vtl: int) -> LocalApic:
        """That of the VTL's vCPU."""
        if vtl == _VTL0 or self.vtls is None:
            return self._apics[vp]
        return self.vtls.local_apic(vp, vtl)

    # ---- processors ----------------------------------------------------------------------------------

    def vp_mask(self, vtl: int) -> int:
        """All VPs have VTL0."""
        if vtl == _VTL0:
            return self._all
        return 0 if self.vtls is None else self.vtls.vp_mask(vtl)

    def vp_of_apic_id(self, apic_id: int) -> int | None:
        """VP index of a local APIC id."""
        return self._vp_of.get(apic_id)

    def spin_wait(self, vp: int, spins: int) -> None:
        """Let other threads of the host run; whoever holds the lock may be one of them."""
        time.sleep(_SPIN_YIELD_S)

    def vp_runtime_100ns(self, vp: int) -> int:
        """Processor time of the VP's thread, the VMM's part of it included.

        Implements: MISC-005
        """
        return self._processors[vp].run_time_ns() // 100

    def guest_idle(self, vp: int, vtl: int) -> None:
        """Halt the VP until an interrupt comes."""
        self.idle_sleeps[vp].sleep()

    # ---- the partition -------------------------------------------------------------------------------

    def hypercall_page(self, vtl: int) -> bytes:
        """The hypercall page's code."""
        return self.page

    def reset_partition(self) -> None:
        """The guest wrote the reset MSR.

        Implements: MISC-004
        """
        self._control.reset()

    def guest_crashed(self, report: CrashReport) -> None:
        """Tell the user; a guest's text is shown with its lines, and without what a terminal would obey."""
        self._notice(str(report))
        if report.message_error is not None:
            self._notice(report.message_error)
        for line in (report.message or b"").split(b"\0")[0].splitlines():
            text = line.decode("utf-8", "replace")
            self._notice("  " + "".join(c if c.isprintable() or c == "\t" else "?" for c in text))
