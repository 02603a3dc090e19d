# SPDX-License-Identifier: Apache-2.0
"""What a device or a lower layer may know of the world around it, as small protocols.

A device never sees `/dev/kvm`, a thread or a file. It is handed these objects, so each device runs in a
unit test with fakes. The real ones live in `vmm.machine` (RAM, clock, control) and `vmm.backend` (lines).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class GuestMemoryError(Exception):
    """An access that is not wholly inside guest RAM. The message names the range and the nearest RAM."""


class GuestMemory(Protocol):
    """Guest physical RAM. Addresses are guest physical (`gpa`), sizes are bytes.

    Every method raises `GuestMemoryError` when any byte of the range is not RAM; nothing is then changed.
    A range may span the end of one RAM block only if the next block follows it without a hole.
    """

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        """Set `size` bytes at `gpa` to the byte `value`."""

    def ranges(self) -> list[tuple[int, int]]:
        """RAM as sorted `(gpa, size)` pairs."""


class ProcessorRam(GuestMemory, Protocol):
    """Guest physical RAM for what a processor does in it, and no device."""

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        """The 16 bytes at `gpa`, a multiple of 16; if they are `expected`, `new` takes their place. Atomic, whatever
        processors do meanwhile."""


class InterruptLine(Protocol):
    """One input pin of an interrupt controller. Thread-safe."""

    def set_level(self, level: bool) -> None:
        """Drive the pin high or low (level-triggered devices)."""

    def pulse(self) -> None:
        """Drive the pin high, then low (edge-triggered devices)."""


class Timer(Protocol):
    """A one-shot timer made by `Clock.timer`. Thread-safe."""

    def arm(self, deadline_ns: int) -> None:
        """Fire at guest time `deadline_ns`; replaces an earlier deadline; a past one fires at once."""

    def cancel(self) -> None:
        """Do not fire. Harmless when not armed; a callback already running is not waited for."""


class Clock(Protocol):
    """Guest time. It stands still while the machine is paused."""

    def now_ns(self) -> int:
        """Nanoseconds of guest time since the machine was made; never goes back."""

    def wall_time_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC, for the RTC."""

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer whose `callback` runs on the timer thread, never with a lock of the caller's held."""


class MachineControl(Protocol):
    """What a device may ask of the machine. Thread-safe, returns at once; the first request wins."""

    def debug_exit(self, code: int) -> None:
        """isa-debug-exit: end the run with process status `(code << 1 | 1) & 0xff`."""

    def power_off(self) -> None:
        """ACPI S5: end the run with status 0."""

    def reset(self) -> None:
        """A reset pin was pulled: reset all, or end the run where the user asked for no reboot."""

    def suspend(self) -> None:
        """ACPI S3: stop the processors until `wake`."""

    def wake(self) -> None:
        """A wake event: leave S3 through the FACS waking vector."""


class Region(Protocol):
    """A range of ports or of MMIO addresses that a device answers. One call per guest access.

    `offset` counts from the region's base; `size` is 1, 2, 4 or 8. `read` returns an unsigned integer of
    `size` bytes, `write` gets one. An access that a device does not decode reads as all ones and is
    ignored when written: neither method raises for anything a guest can do.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Device(Protocol):
    """A part of the board."""

    name: str

    def reset(self) -> None:
        """The state after power-on. Called once before the first instruction and at each machine reset."""
