# SPDX-License-Identifier: Apache-2.0
"""Messages on their way to a guest (TLFS 11.7, `HV_MESSAGE`).

256 bytes: u32 MessageType @0 (0: the slot is empty), u8 PayloadSize @4, u8 MessageFlags @5 (bit 0
MessagePending), u16 reserved @6, u64 Sender or port @8, payload @16.

Implements: SYN-020
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from vmm.hv.constants import HV_MESSAGE_PAYLOAD_SIZE, HV_MESSAGE_SIZE

TYPE_OFFSET: Final = 0
FLAGS_OFFSET: Final = 5
MESSAGE_PENDING: Final = 1
MESSAGE_TYPE_NONE: Final = 0
MESSAGE_TYPE_HYPERVISOR: Final = 1 << 31
"""Types with this bit are the hypervisor's own; guests may not post them."""

_HEADER: Final = struct.Struct("<IBBHQ")


def compose(message_type: int, sender: int, payload: bytes) -> bytes:
    """The 256 bytes of a message with flags 0. payload: at most 240 bytes; `sender` fits 64 bits."""
    header = _HEADER.pack(message_type, len(payload), 0, 0, sender)
    return (header + payload).ljust(HV_MESSAGE_SIZE, b"\0")


class Message(Protocol):
    """Something to be put into a slot as soon as it is empty."""

    has_own_buffer: bool
    """Its sender keeps it and never has more than one: the queue's bound does not count it."""

    def compose(self) -> bytes:
        """The 256 bytes, asked for when they are delivered. Runs with the SynIC's lock held: no locks, no calls."""

    def delivered(self) -> None:
        """It is in the slot. Called without a lock, after the interrupt was requested."""


class PostedMessage:
    """A message whose bytes are known, copied from whoever posted it."""

    __slots__ = ("_data",)

    has_own_buffer = False

    def __init__(self, message_type: int, payload: bytes, sender: int = 0) -> None:
        """message_type: not 0, which would make the slot look empty. payload: at most 240 bytes.

        Errors: `ValueError` for either, so check what a guest gave before.
        """
        if message_type == MESSAGE_TYPE_NONE or len(payload) > HV_MESSAGE_PAYLOAD_SIZE:
            raise ValueError(
                f"message of type {message_type:#x} with {len(payload)} bytes: the type must not be 0, the payload "
                f"at most {HV_MESSAGE_PAYLOAD_SIZE} bytes"
            )
        self._data = compose(message_type, sender, payload)

    def compose(self) -> bytes:
        """The 256 bytes."""
        return self._data

    def delivered(self) -> None:
        """Nobody waits for it."""
