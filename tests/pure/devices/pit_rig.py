# SPDX-License-Identifier: Apache-2.0
"""Counters of an i8254."""

from __future__ import annotations

from vmm.machine.devices.pit_counter import PitCounter

LOW_ONLY, HIGH_ONLY, LOW_HIGH = 0x10, 0x20, 0x30


def write(made: PitCounter, count: int) -> None:
    made.write(count & 0xFF)
    made.write(count >> 8)


def value(made: PitCounter) -> int:
    made.latch_count()
    return made.read() | made.read() << 8


def values(made: PitCounter, ticks: int) -> list[int]:
    found = []
    for tick in range(made.tick + 1, made.tick + 1 + ticks):
        made.advance(tick)
        found.append(value(made))
    return found
