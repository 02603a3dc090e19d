# SPDX-License-Identifier: Apache-2.0
"""A partition whose calls are made as a guest makes them: through the dispatcher, from memory and registers."""

from __future__ import annotations

from dataclasses import dataclass

from tests.pure.hypercall.fakes import OUTPUT, Caller, Context, control
from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hvcalls.handlers import handlers
from vmm.hvcalls.outside import MessageInterrupt, TlbFlush
from vmm.synic.connections import Connections
from vmm.synic.synic import Synic

SELF = 0xFFFF_FFFF_FFFF_FFFF
VPS = 70  # more than one bank of 64
VTL1_VPS = 0b11  # VTL1 is enabled on VPs 0 and 1
SIMP_PAGE, SIEFP_PAGE, SINT = 5, 6, 2


@dataclass
class VpContext(Context):
    vp: int = 0


class Rig(FakePartition):
    """70 VPs, VTL1 on two of them, one SynIC in VP 1's VTL0, calls by VP 0's VTL0 unless a test says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes: list[tuple[int, TlbFlush]] = []
        self.locked = False
        self.spins: list[tuple[int, int]] = []
        self.messages: list[tuple[int, MessageInterrupt]] = []
        self.synic = Synic(1, 0, self.overlays, self.services)
        self.synic.write_simp(SIMP_PAGE * PAGE | 1)
        self.synic.write_siefp(SIEFP_PAGE * PAGE | 1)
        self.synic.write_sint(SINT, 0x40)
        self.connections = Connections(self.find_synic)
        self.caller = Caller(handlers(self.connections, self.find_synic, self, self))
        self.context = VpContext()
        self.caller.context = self.context

    def find_synic(self, vp: int, vtl: int) -> Synic | None:
        return self.synic if (vp, vtl) == (1, 0) else None

    # `Processors` and `Tlbs`

    def vp_mask(self, vtl: int) -> int:
        return {0: (1 << VPS) - 1, 1: VTL1_VPS}.get(vtl, 0)

    def vp_of_apic_id(self, apic_id: int) -> int | None:
        return apic_id // 2 if apic_id % 2 == 0 and apic_id // 2 < VPS else None

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        self.services.request_interrupt(vp, vtl, vector, auto_eoi)

    def message_interrupt(self, vtl: int, interrupt: MessageInterrupt) -> None:
        self.messages.append((vtl, interrupt))

    def spin_wait(self, vp: int, spins: int) -> None:
        self.spins.append((vp, spins))

    def flush(self, vp: int, request: TlbFlush) -> bool:
        self.flushes.append((vp, request))
        return not self.locked

    # A guest

    def slow(self, code: int, data: bytes, **fields: int) -> int:
        """The status of a call whose input lies in memory."""
        self.caller.put(data)
        return self.caller.status(control(code, **fields))

    def fast(self, code: int, first: int, second: int = 0) -> int:
        """The status of a call whose input is in registers."""
        return self.caller.status(control(code, IsFast=1), first, second)

    def output(self, size: int) -> bytes:
        return self.context.memory.read(OUTPUT, size)
