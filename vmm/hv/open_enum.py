# SPDX-License-Identifier: Apache-2.0
"""Integer enums whose set of names is closed and whose set of values is open.

A guest may send any number. Such a number stays an `int`; it prints its name when it has one. `Enum(number)`
would raise for the others, so what comes from a guest goes through `of` or `describe`.
"""

from __future__ import annotations

import enum
from typing import Self


class OpenIntEnum(enum.IntEnum):
    """An `IntEnum` that knows what to do with a number it has no name for.

    >>> class Colour(OpenIntEnum):
    ...     RED = 1
    >>> Colour.of(1), Colour.of(7)
    (<Colour.RED: 1>, 7)
    >>> Colour.describe(1), Colour.describe(7)
    ('RED (0x1)', '0x7')
    """

    @classmethod
    def of(cls, value: int) -> Self | int:
        """The member with this value, else `value` itself. Never raises; one dictionary look-up."""
        member = cls._value2member_map_.get(value)
        return value if member is None else member  # type: ignore[return-value]  # the map is typed Enum

    @classmethod
    def describe(cls, value: int) -> str:
        """The name and the number, or the number alone: for logs, traces and error messages."""
        member = cls._value2member_map_.get(value)
        return f"{value:#x}" if member is None else f"{member.name} ({value:#x})"

    @classmethod
    def name_of(cls, value: int) -> str | None:
        """The number's name, if it has one."""
        member = cls._value2member_map_.get(value)
        return None if member is None else member.name
