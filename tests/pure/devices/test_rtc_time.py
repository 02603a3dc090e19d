# SPDX-License-Identifier: Apache-2.0
"""The RTC's calendar against Python's, its formats, and alarm matching against a second-by-second search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.machine.devices.rtc_time import (
    CENTURY,
    DAY,
    HOURS,
    HOURS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    MONTH,
    SECONDS,
    SECONDS_ALARM,
    WEEKDAY,
    YEAR,
    Format,
    next_alarm,
    registers_at,
    seconds_from,
)

BCD_24 = Format(binary=False, hours_24=True)
BINARY_24 = Format(binary=True, hours_24=True)
BCD_12 = Format(binary=False, hours_24=False)
BINARY_12 = Format(binary=True, hours_24=False)
FORMATS = st.sampled_from([BCD_24, BINARY_24, BCD_12, BINARY_12])

DAY_SECONDS = 86400
FIRST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def as_list(registers: dict[int, int]) -> list[int]:
    return [registers.get(index, 0) for index in range(CENTURY + 1)]


@given(st.integers(FIRST, LAST))
def test_registers_agree_with_pythons_calendar(seconds: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)

    assert registers_at(seconds, BINARY_24) == {
        SECONDS: expected.second,
        MINUTES: expected.minute,
        HOURS: expected.hour,
        WEEKDAY: expected.isoweekday() % 7 + 1,
        DAY: expected.day,
        MONTH: expected.month,
        YEAR: expected.year % 100,
        CENTURY: expected.year // 100,
    }


@given(st.integers(FIRST, LAST), FORMATS)
def test_reading_back_what_was_shown_gives_the_same_time(seconds: int, fmt: Format) -> None:
    assert seconds_from(as_list(registers_at(seconds, fmt)), fmt) == seconds


@given(st.lists(st.integers(0, 255), min_size=CENTURY + 1, max_size=CENTURY + 1), FORMATS)
def test_any_bytes_stand_for_some_time_that_can_be_shown(registers: list[int], fmt: Format) -> None:
    shown = registers_at(seconds_from(registers, fmt), fmt)

    assert all(0 <= byte <= 255 for byte in shown.values())


@pytest.mark.parametrize(
    ("hour", "fmt", "byte"),
    [
        (0, BCD_24, 0x00),
        (23, BCD_24, 0x23),
        (23, BINARY_24, 23),
        (0, BCD_12, 0x12),  # 12 AM
        (11, BCD_12, 0x11),
        (12, BCD_12, 0x92),  # 12 PM
        (23, BCD_12, 0x91),
        (13, BINARY_12, 0x81),
    ],
)
def test_hours_in_each_format(hour: int, fmt: Format, byte: int) -> None:
    assert fmt.encode_hour(hour) == byte
    assert fmt.decode_hour(byte) == hour


def test_a_date_past_the_months_end_carries_over() -> None:
    registers = as_list(registers_at(0, BINARY_24))
    registers[MONTH], registers[DAY] = 14, 32  # 1970-14-32 is 1971-02-32, 1971-03-04

    assert seconds_from(registers, BINARY_24) == int(datetime(1971, 3, 4, tzinfo=UTC).timestamp())


def alarm(hour: int, minute: int, second: int) -> list[int]:
    registers = [0] * (CENTURY + 1)
    registers[HOURS_ALARM], registers[MINUTES_ALARM], registers[SECONDS_ALARM] = hour, minute, second
    return registers


@pytest.mark.parametrize(
    ("registers", "after", "expected"),
    [
        (alarm(0xC0, 0xC0, 0xC0), 5, 6),
        (alarm(0xFF, 0xC0, 0xDE), 5, 6),
        (alarm(0xC0, 0xC0, 0x30), 30, 90),
        (alarm(0xC0, 0x10, 0x00), 600, 3600 + 600),
        (alarm(0x01, 0x02, 0x03), 0, 3723),
        (alarm(0x01, 0x02, 0x03), 3723, 3723 + DAY_SECONDS),
        (alarm(0x23, 0xC0, 0xC0), 0, 23 * 3600),
    ],
)
def test_alarms(registers: list[int], after: int, expected: int) -> None:
    assert next_alarm(after, registers, BCD_24) == expected


@pytest.mark.parametrize(
    "registers", [alarm(0x24, 0, 0), alarm(0, 0x60, 0), alarm(0, 0, 0x5A), alarm(0x80, 0, 0)]
)
def test_an_alarm_that_no_time_shows_never_comes(registers: list[int]) -> None:
    assert next_alarm(0, registers, BCD_24) is None


def test_an_alarm_with_12_hours() -> None:
    assert next_alarm(0, alarm(0x91, 0, 0), BCD_12) == 23 * 3600


@given(
    st.sampled_from([0xC0, 0x00, 0x07, 0x12, 0x23]),
    st.sampled_from([0xC0, 0x00, 0x30, 0x59]),
    st.sampled_from([0xC0, 0x00, 0x01, 0x59]),
    st.integers(0, 2 * DAY_SECONDS),
)
def test_the_next_alarm_is_the_first_second_that_matches(
    hour: int, minute: int, second: int, after: int
) -> None:
    registers = alarm(hour, minute, second)

    found = next_alarm(after, registers, BCD_24)

    def matches(time: int) -> bool:
        shown = registers_at(time, BCD_24)
        wanted = ((HOURS, hour), (MINUTES, minute), (SECONDS, second))
        return all(byte == 0xC0 or shown[register] == byte for register, byte in wanted)

    assert found is not None
    assert matches(found)
    before = range(max(after + 1, found - 2000), found)  # as far back as a test's time allows
    assert not any(matches(time) for time in before)
