# SPDX-License-Identifier: Apache-2.0
"""The way from the SynIC and the synthetic timers to a VP's local APIC."""

from __future__ import annotations

from typing import Final, Protocol

FIRST_VECTOR: Final = 16
"""Local APICs refuse vectors 0 to 15 (SDM 3A 11.5.2)."""


class InterruptSink(Protocol):
    """Edge-triggered fixed interrupts for one VTL of one VP. Thread-safe; called with no lock of ours held."""

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """Make `vector` (16 to 255) pending in the local APIC of `vtl` on VP `vp`, and wake the VP if need be.

        auto_eoi: no in-service bit may stay set; the guest sends no EOI (SYN-024). Lost where the APIC is
        software disabled (SYN-021).
        """
