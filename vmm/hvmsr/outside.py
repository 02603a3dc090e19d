# SPDX-License-Identifier: Apache-2.0
"""What the Hyper-V state needs of the rest of the VMM, as small protocols. All of it is called without a lock."""

from __future__ import annotations

from typing import Protocol

from vmm.hvmsr.crash import CrashReport


class LocalApic(Protocol):
    """The local APIC of one VTL of one VP, as the APIC MSRs need it. Called on that VP's thread."""

    def end_of_interrupt(self) -> int | None:
        """EOI. The vector that was in service, None when there was none or it is not known."""

    def read_icr(self) -> int:
        """ICR: low half in bits 31:0, high half in 63:32, as the xAPIC has them (destination in 63:56)."""

    def write_icr(self, value: int) -> bool:
        """Send an IPI, delivered before the next instruction if it is to the VP itself (APIC-003).

        False for what the APIC refuses (#GP).
        """

    def read_tpr(self) -> int:
        """Task priority, 8 bits."""

    def write_tpr(self, value: int) -> None:
        """Set the task priority; 8 bits. The VTL has just left the guest and goes on there."""

    def put_tpr(self, value: int) -> None:
        """The same of any VTL, whichever runs next."""


class PartitionServices(Protocol):
    """What happens outside the Hyper-V state when a guest asks for it. Thread-safe."""

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """See `vmm.synic.interrupts.InterruptSink`."""

    def local_apic(self, vp: int, vtl: int) -> LocalApic:
        """The local APIC behind EOI, ICR and TPR. Asked for once per VP and VTL."""

    def hypercall_page(self, vtl: int) -> bytes:
        """The code of the hypercall page, at most 4096 bytes. The same each time: guests hash it (WIN-014)."""

    def vp_runtime_100ns(self, vp: int) -> int:
        """How long VP `vp` has run, in 100 ns."""

    def guest_idle(self, vp: int, vtl: int) -> None:
        """The guest read GUEST_IDLE: its VP sleeps until an interrupt, whatever RFLAGS.IF says (MISC-003).

        Does not wait itself: it sees to it that the VP does not run on before.
        """

    def reset_partition(self) -> None:
        """The guest wrote the reset MSR. Returns at once."""

    def guest_crashed(self, report: CrashReport) -> None:
        """The guest reported a crash. It goes on running."""
