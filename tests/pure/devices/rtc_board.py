# SPDX-License-Identifier: Apache-2.0
"""An RTC with fakes around it, and a guest's way of using it."""

from __future__ import annotations

from datetime import UTC, datetime

from vmm.machine.devices.rtc import Rtc

from .fakes import SECOND_NS, FakeClock, FakeLine

GIB, MIB = 1 << 30, 1 << 20

# Sunday, 2024-02-25 13:14:15 UTC
START = int(datetime(2024, 2, 25, 13, 14, 15, tzinfo=UTC).timestamp())
START_BCD = {0: 0x15, 2: 0x14, 4: 0x13, 6: 0x01, 7: 0x25, 8: 0x02, 9: 0x24, 0x32: 0x20}

DONT_CARE = 0xC0


class Board:
    def __init__(self, low: int = 3 * GIB, high: int = 2 * GIB) -> None:
        self.clock = FakeClock(wall_ns=START * SECOND_NS)
        self.line = FakeLine()
        self.alarms = 0
        self.device = Rtc(self.line, self.clock, low, high, self._alarm)
        self.device.reset()

    def _alarm(self) -> None:
        self.alarms += 1

    def read(self, index: int) -> int:
        self.device.write(0, 1, index)
        return self.device.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.device.write(0, 1, index)
        self.device.write(1, 1, value)

    def time(self) -> tuple[int, int, int]:
        return self.read(4), self.read(2), self.read(0)

    def alarm_at(self, hour: int, minute: int, second: int) -> None:
        for index, value in ((1, second), (3, minute), (5, hour)):
            self.write(index, value)
