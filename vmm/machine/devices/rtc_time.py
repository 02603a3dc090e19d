# SPDX-License-Identifier: Apache-2.0
"""How an MC146818 shows a time in its registers, and when its alarm matches. Pure arithmetic.

Source: Motorola MC146818A data sheet, "Address map", "Time, calendar and alarm locations". Times are whole
seconds since 1970-01-01 00:00 of the clock's own time zone. A guest may write any byte: months past December
and the like carry over, as they do in C's mktime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = 0, 1, 2, 3, 4, 5
WEEKDAY, DAY, MONTH, YEAR = 6, 7, 8, 9
CENTURY = 0x32
"""CMOS byte of the century; no part of the chip, but of every PC. The FADT tells the guest its index."""

TIME_REGISTERS = frozenset({SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY})
ALARM_REGISTERS = frozenset({SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM})

_SECONDS_PER_DAY = 86400
_ALARM_ANY = 0xC0  # an alarm byte with both top bits set matches always
_PM = 0x80


class Format(NamedTuple):
    """Register B's DM and 24/12 bits: how numbers and hours are written."""

    binary: bool
    hours_24: bool

    def encode(self, number: int) -> int:
        """0..99 as a register byte."""
        return number if self.binary else number // 10 << 4 | number % 10

    def decode(self, byte: int) -> int:
        """The number that a register byte stands for (0..165: BCD digits may be out of range)."""
        return byte if self.binary else (byte >> 4) * 10 + (byte & 0x0F)

    def encode_hour(self, hour: int) -> int:
        """0..23 as a register byte; with 12 hours 1..12 and bit 7 for PM."""
        if self.hours_24:
            return self.encode(hour)
        return self.encode(hour % 12 or 12) | (_PM if hour >= 12 else 0)

    def decode_hour(self, byte: int) -> int:
        """The hour that a register byte stands for."""
        if self.hours_24:
            return self.decode(byte)
        return self.decode(byte & ~_PM) % 12 + (12 if byte & _PM else 0)


def registers_at(seconds: int, fmt: Format) -> dict[int, int]:
    """All time registers at the time `seconds`."""
    days, second_of_day = divmod(seconds, _SECONDS_PER_DAY)
    year, month, day = _civil_from_days(days)
    return {
        SECONDS: fmt.encode(second_of_day % 60),
        MINUTES: fmt.encode(second_of_day // 60 % 60),
        HOURS: fmt.encode_hour(second_of_day // 3600),
        WEEKDAY: fmt.encode((days + 4) % 7 + 1),  # 1970-01-01 was a Thursday; 1 is Sunday
        DAY: fmt.encode(day),
        MONTH: fmt.encode(month),
        YEAR: fmt.encode(year % 100),
        CENTURY: fmt.encode(year // 100 % 100),
    }


def seconds_from(registers: Sequence[int], fmt: Format) -> int:
    """The time that the time registers stand for; the day of the week is not looked at."""
    year = fmt.decode(registers[CENTURY]) * 100 + fmt.decode(registers[YEAR])
    days = _days_from_civil(year, fmt.decode(registers[MONTH]), fmt.decode(registers[DAY]))
    hour, minute = fmt.decode_hour(registers[HOURS]), fmt.decode(registers[MINUTES])
    return days * _SECONDS_PER_DAY + hour * 3600 + minute * 60 + fmt.decode(registers[SECONDS])


def next_alarm(after: int, registers: Sequence[int], fmt: Format) -> int | None:
    """The first second later than `after` at which the alarm registers match; None when they never do."""

    def matching(register: int, encoded: list[int]) -> set[int]:
        byte = registers[register]
        return {value for value, code in enumerate(encoded) if byte in (code, byte | _ALARM_ANY)}

    sixty = [fmt.encode(value) for value in range(60)]
    seconds = matching(SECONDS_ALARM, sixty)
    minutes = matching(MINUTES_ALARM, sixty)
    hours = matching(HOURS_ALARM, [fmt.encode_hour(hour) for hour in range(24)])
    if not (seconds and minutes and hours):
        return None
    time = after + 1
    while True:  # at most a day's hours, an hour's minutes and a minute's seconds
        second_of_day = time % _SECONDS_PER_DAY
        if second_of_day // 3600 not in hours:
            time += 3600 - second_of_day % 3600
        elif second_of_day // 60 % 60 not in minutes:
            time += 60 - second_of_day % 60
        elif second_of_day % 60 not in seconds:
            time += 1
        else:
            return time


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date of the Gregorian calendar; months and days out of range carry over."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    # Years counted from March put the leap day at the year's end, which makes month lengths regular.
    shifted_year, shifted_month = (year - 1, month + 9) if month <= 2 else (year, month - 3)
    leap_days = shifted_year // 4 - shifted_year // 100 + shifted_year // 400
    return shifted_year * 365 + leap_days + (153 * shifted_month + 2) // 5 + day - 1 - _DAYS_TO_1970


_DAYS_TO_1970 = 719468  # from 0000-03-01


def _civil_from_days(days: int) -> tuple[int, int, int]:
    """`(year, month, day)` of a day counted from 1970-01-01."""
    days += _DAYS_TO_1970
    era, day_of_era = divmod(days, 146097)  # 400 years repeat
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    return era * 400 + year_of_era + (1 if month <= 2 else 0), month, day
