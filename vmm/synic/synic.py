# SPDX-License-Identifier: Apache-2.0
"""The SynIC of one VTL of one VP: registers, message slots with their queues, event flags (TLFS chapter 11).

A message goes into its source's slot if that is empty, and the source's interrupt is requested; else it waits in
the source's queue and the message in the slot is marked pending, which makes the guest write EOM when it is done.
EOM, EOI, and a new message look at the queues again. Order per source is kept.

| state | a message | an event |
|---|---|---|
| SynIC or page disabled | INVALID_SYNIC_STATE; a timer's waits | INVALID_SYNIC_STATE |
| source masked | stored, no interrupt | INVALID_SYNIC_STATE |
| source polling | stored, no interrupt | set, no interrupt |
| queue full | INSUFFICIENT_BUFFERS | |

Implements: SYN-001, SYN-002, SYN-003, SYN-004, SYN-005, SYN-006, SYN-020, SYN-021, SYN-022, SYN-023, SYN-025,
SYN-026
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from vmm.hv.constants import (
    HV_MESSAGE_SIZE,
    HV_SYNIC_EVENT_FLAGS_COUNT,
    HV_SYNIC_SINT_COUNT,
)
from vmm.hv.msr_bits import HV_X64_MSR_SINT_CONTENTS
from vmm.hv.status import HvStatus
from vmm.overlay.pages import OverlayMap
from vmm.synic.interrupts import FIRST_VECTOR, InterruptSink
from vmm.synic.messages import (
    FLAGS_OFFSET,
    MESSAGE_PENDING,
    MESSAGE_TYPE_NONE,
    TYPE_OFFSET,
    Message,
)

SINT_QUEUE_MESSAGES: Final = 16
"""Messages that may wait for one source, as many as the TLFS gives a port (11.3). A guest that reads none of them
holds 4 KiB per source and no more."""

SYNIC_VERSION: Final = 1
SCONTROL_RESET: Final = 1
"""Hyper-V's successor code and KVM start enabled, the TLFS says 0 (DIS-24). A guest that counts on 1 works, one
that counts on 0 is not known."""
SINT_RESET: Final = HV_X64_MSR_SINT_CONTENTS.Masked.mask

_ENABLE: Final = 1
_FLAGS_BYTES: Final = HV_SYNIC_EVENT_FLAGS_COUNT // 8  # per source, so 16 of them fill the page
_VECTOR: Final = HV_X64_MSR_SINT_CONTENTS.Vector.mask  # plain numbers: this runs for every message
_MASKED: Final = HV_X64_MSR_SINT_CONTENTS.Masked.mask
_AUTO_EOI: Final = HV_X64_MSR_SINT_CONTENTS.AutoEoi.mask
_POLLING: Final = HV_X64_MSR_SINT_CONTENTS.Polling.mask
_NO_INTERRUPT: Final = _MASKED | _POLLING
_U32: Final = 4

Delivery = tuple[Message, int]  # what went into a slot, and the source's SINT value at that time


class Synic:
    """One SynIC. Thread-safe; see the package for locks."""

    def __init__(self, vp: int, vtl: int, overlays: OverlayMap, interrupts: InterruptSink) -> None:
        self.vp = vp
        self.vtl = vtl
        self._lock = threading.Lock()
        self._interrupts = interrupts
        self._messages = overlays.page(vtl, f"SIMP of VP {vp}, VTL {vtl}")
        self._events = overlays.page(vtl, f"SIEFP of VP {vp}, VTL {vtl}")
        self._scontrol = SCONTROL_RESET
        self._simp = 0
        self._siefp = 0
        self._sirbp = 0
        self._sints = [SINT_RESET] * HV_SYNIC_SINT_COUNT
        self._queues: list[deque[Message]] = [deque() for _ in range(HV_SYNIC_SINT_COUNT)]
        self._waiting = 0  # bit n: queue n is not empty

    def reset(self) -> None:
        """The state after power-on: pages zero and off, sources masked, queues empty.

        Reset the timers first: theirs are dropped too.
        """
        with self._lock:
            self._scontrol = SCONTROL_RESET
            self._simp = self._siefp = self._sirbp = 0
            self._sints = [SINT_RESET] * HV_SYNIC_SINT_COUNT
            self._messages.reset()
            self._events.reset()
            for queue in self._queues:
                queue.clear()
            self._waiting = 0

    # MSRs. A read gives the value; a write says whether the value is acceptable, else the guest gets #GP.

    def read_scontrol(self) -> int:
        """HV_X64_MSR_SCONTROL."""
        return self._scontrol

    def write_scontrol(self, value: int) -> bool:
        """Bit 0 enables the SynIC. What waits is delivered when it is enabled."""
        with self._lock:
            self._scontrol = value
        self._look_again()
        return True

    def read_sversion(self) -> int:
        """HV_X64_MSR_SVERSION, read only."""
        return SYNIC_VERSION

    def read_siefp(self) -> int:
        """HV_X64_MSR_SIEFP."""
        return self._siefp

    def write_siefp(self, value: int) -> bool:
        """Place the event flags page, or take it away. Never faults: a page out of reach is just not seen."""
        with self._lock:
            self._siefp = value
            self._events.follow(value)
        return True

    def read_simp(self) -> int:
        """HV_X64_MSR_SIMP."""
        return self._simp

    def write_simp(self, value: int) -> bool:
        """Place the message page, or take it away. What waits is delivered when it is placed."""
        with self._lock:
            self._simp = value
            self._messages.follow(value)
        self._look_again()
        return True

    def read_sirbp(self) -> int:
        """HV_X64_MSR_SIRBP: a value without effect."""
        return self._sirbp

    def write_sirbp(self, value: int) -> bool:
        """Keep it."""
        self._sirbp = value
        return True

    def read_eom(self) -> int:
        """HV_X64_MSR_EOM reads zero."""
        return 0

    def write_eom(self, value: int) -> bool:
        """The guest emptied slots: look at the queues. The value does not matter."""
        self._look_again()
        return True

    def read_sint(self, sint: int) -> int:
        """HV_X64_MSR_SINT0 + `sint`."""
        return self._sints[sint]

    def write_sint(self, sint: int, value: int) -> bool:
        """Refused: a vector below 16 in a source that would interrupt with it."""
        if value & _VECTOR < FIRST_VECTOR and not value & _NO_INTERRUPT:
            return False
        with self._lock:
            self._sints[sint] = value
        return True

    # The rest of the VMM.

    def post(self, sint: int, message: Message) -> HvStatus:
        """Hand over a message for source `sint` (0 to 15): delivered now, or when the slot gets empty.

        Errors: INVALID_SYNIC_STATE, INSUFFICIENT_BUFFERS. Neither for a message with a buffer of its own, which
        waits for as long as it takes.
        """
        with self._lock:
            if not message.has_own_buffer:
                if not self._messages_on():
                    return HvStatus.INVALID_SYNIC_STATE
                if sum(not other.has_own_buffer for other in self._queues[sint]) >= SINT_QUEUE_MESSAGES:
                    return HvStatus.INSUFFICIENT_BUFFERS
            self._queues[sint].append(message)
            self._waiting |= 1 << sint
            delivery = self._deliver_next(sint)
        if delivery is not None:
            self._tell(delivery)
        return HvStatus.SUCCESS

    def deliver_now(self, sint: int, message: Message) -> bool:
        """Hand over a message that is worth something at once only: False, and forgotten, unless its slot is empty
        and nothing waits for it."""
        with self._lock:
            if self._queues[sint] or not self._messages_on():
                return False
            if self._messages.read_u32(sint * HV_MESSAGE_SIZE + TYPE_OFFSET) != MESSAGE_TYPE_NONE:
                return False
            # The slot is ours from this one look on. A guest that writes to its type itself loses what it wrote.
            delivery = self._fill(sint, message)
        self._tell(delivery)
        return True

    def withdraw(self, sint: int, message: Message) -> None:
        """Forget a message that still waits. Harmless when it is in its slot already."""
        with self._lock:
            queue = self._queues[sint]
            if message in queue:
                queue.remove(message)
                if not queue:
                    self._waiting &= ~(1 << sint)

    def signal_event(self, sint: int, flag: int) -> tuple[HvStatus, bool]:
        """Set event flag `flag` of source `sint`: (status, whether it was clear before).

        The interrupt comes only when it was clear. Errors: INVALID_PARAMETER for a flag beyond 2047,
        INVALID_SYNIC_STATE.
        """
        if not 0 <= flag < HV_SYNIC_EVENT_FLAGS_COUNT:
            return HvStatus.INVALID_PARAMETER, False
        with self._lock:
            value = self._sints[sint]
            if not self._scontrol & self._siefp & _ENABLE or value & _MASKED:
                return HvStatus.INVALID_SYNIC_STATE, False
            mask = 1 << flag % 8
            newly = not self._events.fetch_or(sint * _FLAGS_BYTES + flag // 8, mask) & mask
        if newly:
            self._interrupt(value)
        return HvStatus.SUCCESS, newly

    def assert_sint(self, sint: int) -> bool:
        """Request the interrupt of source `sint` without message or event. Whether it was requested."""
        value = self._sints[sint]
        if not self._scontrol & _ENABLE or value & _NO_INTERRUPT:
            return False
        self._interrupt(value)
        return True

    def end_of_interrupt(self, vector: int) -> None:
        """The guest ended `vector` in its local APIC: look at the queues of the sources that use it."""
        waiting = self._waiting
        for sint in range(HV_SYNIC_SINT_COUNT if waiting else 0):
            if waiting >> sint & 1 and self._sints[sint] & _VECTOR == vector:
                self._look_at(sint)

    def waiting(self, sint: int) -> int:
        """How many messages wait for the slot of `sint`."""
        return len(self._queues[sint])

    # Deliveries.

    def _messages_on(self) -> bool:
        return self._scontrol & self._simp & _ENABLE != 0

    def _look_again(self) -> None:
        waiting = self._waiting
        for sint in range(HV_SYNIC_SINT_COUNT if waiting else 0):
            if waiting >> sint & 1:
                self._look_at(sint)

    def _look_at(self, sint: int) -> None:
        with self._lock:
            delivery = self._deliver_next(sint)
        if delivery is not None:
            self._tell(delivery)

    def _deliver_next(self, sint: int) -> Delivery | None:
        """Fill the slot if it is empty and something waits. With the lock held."""
        queue = self._queues[sint]
        if not queue or not self._messages_on():
            return None
        page, slot = self._messages, sint * HV_MESSAGE_SIZE
        if page.read_u32(slot + TYPE_OFFSET) != MESSAGE_TYPE_NONE:
            page.fetch_or(slot + FLAGS_OFFSET, MESSAGE_PENDING)
            # The guest clears the type first and looks at the flag then. If it did the first in between, it may
            # have missed the flag and will not write EOM: then the slot is ours now.
            if page.read_u32(slot + TYPE_OFFSET) != MESSAGE_TYPE_NONE:
                return None
        message = queue.popleft()
        if not queue:
            self._waiting &= ~(1 << sint)
        return self._fill(sint, message)

    def _fill(self, sint: int, message: Message) -> Delivery:
        """Put a message into its slot, marked where more wait. With the lock held."""
        page, slot = self._messages, sint * HV_MESSAGE_SIZE
        data = bytearray(message.compose())
        if self._queues[sint]:
            data[FLAGS_OFFSET] |= MESSAGE_PENDING
        # The type last: it is what tells a polling guest that the message is there.
        page.write(slot + _U32, bytes(data[_U32:]))
        page.write(slot + TYPE_OFFSET, bytes(data[:_U32]))
        return message, self._sints[sint]

    def _tell(self, delivery: Delivery) -> None:
        message, value = delivery
        if not value & _NO_INTERRUPT:
            self._interrupt(value)
        message.delivered()

    def _interrupt(self, value: int) -> None:
        """Request a source's interrupt, without the lock. A polling source has none."""
        if not value & _NO_INTERRUPT:
            self._interrupts.request_interrupt(self.vp, self.vtl, value & _VECTOR, value & _AUTO_EOI != 0)
