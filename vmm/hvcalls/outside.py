# SPDX-License-Identifier: Apache-2.0
"""What the handlers need of the rest of the VMM, as small protocols. All of it is called without a lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vmm.hypercall.outside import HypercallContext


class VpContext(HypercallContext, Protocol):
    """A caller that says which VP it is."""

    @property
    def vp(self) -> int:
        """Its VP index."""


class MessageInterrupt(NamedTuple):
    """An interrupt as a message (MSI) carries it to local APICs (SDM volume 3, 11.11)."""

    delivery_mode: int
    """0 fixed, 1 lowest priority, 4 NMI."""
    vector: int
    destination: int
    """An APIC id, or a logical destination; 32 bits."""
    logical: bool
    level: bool
    """Level-triggered, asserted."""


class Processors(Protocol):
    """The VPs of the partition. Thread-safe."""

    def vp_mask(self, vtl: int) -> int:
        """Bit n set: VP n exists and has `vtl` enabled. As many bits as there are VPs."""

    def vp_of_apic_id(self, apic_id: int) -> int | None:
        """The VP index of a local APIC id, None when there is none. The VP need not run."""

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """See `vmm.synic.interrupts.InterruptSink`."""

    def message_interrupt(self, vtl: int, interrupt: MessageInterrupt) -> None:
        """Send it to the local APICs of `vtl`, and wake whoever may have it. Lost where none takes it."""

    def spin_wait(self, vp: int, spins: int) -> None:
        """VP `vp` has spun `spins` times for a lock that another one holds: let others run for a moment."""


@dataclass(frozen=True, slots=True)
class TlbFlush:
    """What to drop from the TLBs of some VPs."""

    vtl: int
    vps: int
    """Bit n set: VP n's."""
    address_space: int | None
    """The CR3 whose translations go; None: those of all address spaces."""
    global_too: bool
    """Whether global translations go too."""
    ranges: tuple[tuple[int, int], ...] | None
    """`(GVA, number of 4 KiB pages)`; None: everything. Dropping more is allowed."""


class Tlbs(Protocol):
    """The TLBs of the partition. Thread-safe."""

    def flush(self, vp: int, request: TlbFlush) -> bool:
        """Carry out a flush that VP `vp` asked for; True once no VP can use a stale translation (TLB-003).

        A VP that does not run, or runs another VTL, counts too (TLB-004). False: not done, a target's TLB is locked by
        a higher VTL (VSM-140) or it takes longer; the caller asks again.
        """
