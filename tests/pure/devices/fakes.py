# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what `vmm.outside` hands to a device: time moves when a test says so, calls are recorded."""

from __future__ import annotations

from collections.abc import Callable

from vmm.outside import Buffer, GuestMemoryError

SECOND_NS = 1_000_000_000


class FakeTimer:
    def __init__(self, clock: FakeClock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.callback = callback
        self.deadline_ns: int | None = None

    def arm(self, deadline_ns: int) -> None:
        self._clock.arms += 1
        self.deadline_ns = deadline_ns

    def cancel(self) -> None:
        self.deadline_ns = None


class FakeClock:
    """Guest time starts at 0, the wall clock at `wall_ns`; both move together through `advance`."""

    def __init__(self, wall_ns: int = 0) -> None:
        self.time_ns = 0
        self.wall_start_ns = wall_ns
        self.timers: list[FakeTimer] = []
        self.arms = 0

    def now_ns(self) -> int:
        return self.time_ns

    def wall_time_ns(self) -> int:
        return self.wall_start_ns + self.time_ns

    def timer(self, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self, callback)
        self.timers.append(timer)
        return timer

    def next_deadline_ns(self) -> int | None:
        return min(
            (timer.deadline_ns for timer in self.timers if timer.deadline_ns is not None), default=None
        )

    def advance(self, duration_ns: int) -> None:
        """Let time pass; timers fire in order, each at its deadline."""
        end_ns = self.time_ns + duration_ns
        while (deadline_ns := self.next_deadline_ns()) is not None and deadline_ns <= end_ns:
            self.time_ns = max(self.time_ns, deadline_ns)
            timer = next(timer for timer in self.timers if timer.deadline_ns == deadline_ns)
            timer.deadline_ns = None
            timer.callback()
        self.time_ns = end_ns


class FakeLine:
    """Records the level, and how often it rose."""

    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def set_level(self, level: bool) -> None:
        self.rises += level and not self.level
        self.level = level

    def pulse(self) -> None:
        self.set_level(True)
        self.set_level(False)


class FakeControl:
    """Records requests as ("name", argument) in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def debug_exit(self, code: int) -> None:
        self.calls.append(("debug_exit", code))

    def power_off(self) -> None:
        self.calls.append(("power_off", 0))

    def reset(self) -> None:
        self.calls.append(("reset", 0))

    def suspend(self) -> None:
        self.calls.append(("suspend", 0))

    def wake(self) -> None:
        self.calls.append(("wake", 0))


class FakeMemory:
    """One block of RAM at 0, filled with 0xcc so that a byte nobody wrote is seen."""

    def __init__(self, size: int) -> None:
        self.ram = bytearray(b"\xcc" * size)

    def _check(self, gpa: int, size: int) -> None:
        if gpa < 0 or size < 0 or gpa + size > len(self.ram):
            raise GuestMemoryError(f"[{gpa:#x}, {gpa + size:#x}) is outside RAM [0, {len(self.ram):#x})")

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.ram[gpa : gpa + size])

    def write(self, gpa: int, data: Buffer) -> None:
        self._check(gpa, len(data))
        self.ram[gpa : gpa + len(data)] = data

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        self._check(gpa, size)
        self.ram[gpa : gpa + size] = bytes([value]) * size

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, len(self.ram))]
