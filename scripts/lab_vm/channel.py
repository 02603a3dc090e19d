# SPDX-License-Identifier: Apache-2.0
"""The link between the host and the lab's process 1: frames over a virtio-serial port.

A frame is `u8 type, 3 zero bytes, u32 length, payload`, little endian. The other end is `guest/init.c`.

The console is not used for a command's output: it changes line ends, mixes in the kernel's log and knows no exit
status. One port carries everything, so that the exit status cannot overtake the output.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

PORT_NAME = "lab.channel"
"""The virtio-serial port's name, by which process 1 finds it."""

HEADER = struct.Struct("<B3xI")
CHUNK_BYTES = 32768
"""Longest payload of a frame, except a job: what the guest's virtio port takes in one write."""

JOB_MAX_BYTES = 1 << 20
"""Longest job: arguments and environment. Linux itself allows about 2 MiB."""


class FrameType(IntEnum):
    """Types are ASCII letters, so that a dump of the channel can be read."""

    READY = ord("R")
    """Guest: process 1 is up. Payload: the kernel's release."""
    STDOUT = ord("O")
    STDERR = ord("E")
    ALIVE = ord("A")
    """Guest: nothing to say for a second."""
    EXIT = ord("X")
    """Guest: the command ended. Payload: i32, the status as wait(2) gives it."""
    FAILED = ord("F")
    """Guest: the command cannot be run. Payload: why."""
    JOB = ord("J")
    STDIN = ord("I")
    SIGNAL = ord("S")
    """Host: u32, a signal for the command's process group."""
    WINDOW = ord("W")
    """Host: u16 rows, u16 columns."""


class JobFlag(IntFlag):
    NONE = 0
    TERMINAL = 1 << 0
    """The command gets a terminal of its own; its output is one stream."""
    RESULTS = 1 << 1
    """Mount the writable 9p export on `results`."""


@dataclass(frozen=True)
class Job:
    """A command for the lab. All paths are absolute; every string is NUL-free."""

    arguments: Sequence[str]
    directory: str
    environment: Mapping[str, str]
    flags: JobFlag = JobFlag.NONE
    results: str = ""
    keep: Sequence[str] = ()
    """Directories below /tmp, /run or /var/tmp that stay visible under the lab's own tmpfs there."""

    def encode(self) -> bytes:
        """The JOB frame's payload: u32 flags and counts of `keep`, arguments and environment; then NUL-ended
        strings: directory, results, and the three lists.

        Raises ValueError for a NUL inside a string and for a job longer than `JOB_MAX_BYTES`.
        """
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        strings = [self.directory, self.results, *self.keep, *self.arguments, *environment]
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        if any(b"\0" in text for text in encoded):
            raise ValueError("a command, path or variable for the lab contains a NUL byte")
        counts = struct.pack("<4I", self.flags, len(self.keep), len(self.arguments), len(environment))
        payload = counts + b"".join(text + b"\0" for text in encoded)
        if len(payload) > JOB_MAX_BYTES:
            raise ValueError(
                f"command and environment take {len(payload)} bytes, the lab takes {JOB_MAX_BYTES}"
            )
        return payload


def encode_frame(kind: FrameType, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield `(type, payload)` of every frame that `data` completes.

        Raises ValueError for a length no frame can have: the other end is not the lab's process 1.
        """
        self._pending += data
        while len(self._pending) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._pending)
            if length > CHUNK_BYTES:
                raise ValueError(f"frame 0x{kind:02x} of {length} bytes, at most {CHUNK_BYTES} are allowed")
            end = HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[HEADER.size : end])
            del self._pending[:end]
            yield kind, payload


def exit_status(wait_status: int) -> int:
    """A shell's view of a status of wait(2): the exit code, or 128 plus the signal's number."""
    signal_number = wait_status & 0x7F
    return 128 + signal_number if signal_number else (wait_status >> 8) & 0xFF
