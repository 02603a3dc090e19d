# SPDX-License-Identifier: Apache-2.0
"""One SynIC with a guest that uses it."""

from __future__ import annotations

from collections.abc import Callable

from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hv.status import HvStatus
from vmm.overlay.copying import CopyingBackend
from vmm.overlay.pages import OverlayMap
from vmm.synic.messages import PostedMessage
from vmm.synic.synic import Synic

VP, VTL = 3, 1
SIMP_PAGE, SIEFP_PAGE = 5, 6
SINT, VECTOR = 2, 0xB3
ENABLE = 1
MASKED, AUTO_EOI, POLLING = 1 << 16, 1 << 17, 1 << 18
TYPE = 0x12345678


class Rig(FakePartition):
    """A SynIC with both pages in place and SINT 2 unmasked."""

    def __init__(self) -> None:
        super().__init__()
        self.race: Callable[[], None] | None = None  # what the guest does just before a flag is set
        self.overlays = OverlayMap(CopyingBackend(self.memory, self.fetch_or))
        self.synic = Synic(VP, VTL, self.overlays, self.services)
        self.synic.write_scontrol(ENABLE)
        self.synic.write_simp(SIMP_PAGE * PAGE | ENABLE)
        self.synic.write_siefp(SIEFP_PAGE * PAGE | ENABLE)
        self.synic.write_sint(SINT, VECTOR)

    def fetch_or(self, gpa: int, mask: int) -> int:
        if self.race is not None:
            self.race()
        before = self.memory.ram[gpa]
        self.memory.ram[gpa] |= mask
        return before

    def post(self, payload: bytes = b"", sint: int = SINT) -> HvStatus:
        return self.synic.post(sint, PostedMessage(TYPE, payload, 7))

    def take(self, sint: int = SINT) -> bytes | None:
        """What a guest does: read the slot, empty it, write EOM if asked to. None for an empty slot."""
        message = self.message(SIMP_PAGE, sint)
        if message.MessageType == 0:
            return None
        self.empty_slot(SIMP_PAGE, sint)
        if message.MessageFlags.MessagePending:
            self.synic.write_eom(0)
        return message.Payload[: message.PayloadSize]


class OwnBuffer:
    """A sender's message with a buffer of its own, as a timer's."""

    has_own_buffer = True

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.deliveries = 0

    def compose(self) -> bytes:
        return PostedMessage(0x80000010, self.payload).compose()

    def delivered(self) -> None:
        self.deliveries += 1
