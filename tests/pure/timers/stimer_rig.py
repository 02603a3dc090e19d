# SPDX-License-Identifier: Apache-2.0
"""Synthetic timers of one VP with a SynIC of their own, and a clock that the test moves."""

from __future__ import annotations

from tests.pure.synic.partition import PAGE, FakePartition, FakeTsc
from vmm.hv.messages import HV_TIMER_MESSAGE_PAYLOAD, HvMessageType
from vmm.synic.synic import Synic
from vmm.timers.reference import ReferenceTime
from vmm.timers.stimer import SyntheticTimers

VP, VTL = 1, 0
SIMP_PAGE, SINT, SINT_VECTOR = 5, 2, 0xF1
MS = 10_000  # in 100 ns units
MS_NS = 1_000_000
DIRECT_VECTOR = 0xF3
ENABLED, PERIODIC, LAZY, AUTO_ENABLE, DIRECT = 1, 2, 4, 8, 1 << 12
MESSAGE = SINT << 16
DIRECT_CONFIG = DIRECT | DIRECT_VECTOR << 4
INTERRUPT = (VP, VTL, SINT_VECTOR, False)
DIRECT_INTERRUPT = (VP, VTL, DIRECT_VECTOR, False)


class Rig(FakePartition):
    def __init__(self, tsc: bool = False, direct_mode: bool = True) -> None:
        super().__init__()
        self.reference = ReferenceTime(self.clock, FakeTsc(self.clock) if tsc else None)
        self.reference.resume()
        self.synic = Synic(VP, VTL, self.overlays, self.services)
        self.synic.write_scontrol(1)
        self.synic.write_simp(SIMP_PAGE * PAGE | 1)
        self.synic.write_sint(SINT, SINT_VECTOR)
        self.timers = SyntheticTimers(
            self.synic, self.reference, self.clock, self.services, direct_mode=direct_mode
        )

    def start(self, config: int, count: int, index: int = 0) -> None:
        """Count first, then config with Enabled, as Linux and kvm-unit-tests do it."""
        assert self.timers.write_count(index, count)
        assert self.timers.write_config(index, config | ENABLED)

    def enabled(self, index: int = 0) -> bool:
        return bool(self.timers.read_config(index) & ENABLED)

    def advance(self, units: int) -> None:
        self.clock.advance(units * 100)

    def take(self) -> HV_TIMER_MESSAGE_PAYLOAD | None:
        """Read the timer message in the slot, empty the slot, write EOM if asked to."""
        message = self.message(SIMP_PAGE, SINT)
        if message.MessageType == 0:
            return None
        assert message.MessageType == HvMessageType.HvMessageTypeTimerExpired
        assert message.PayloadSize == HV_TIMER_MESSAGE_PAYLOAD.SIZE
        self.empty_slot(SIMP_PAGE, SINT)
        if message.MessageFlags.MessagePending:
            self.synic.write_eom(0)
        return HV_TIMER_MESSAGE_PAYLOAD.unpack(message.Payload)
