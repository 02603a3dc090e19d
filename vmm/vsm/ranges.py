# SPDX-License-Identifier: Apache-2.0
"""`RangeMap`: a small number for every guest page, kept as ranges of pages with equal numbers.

It is never changed: `changed` makes another one, so that whoever reads needs no lock, and a change that turns out to
be impossible was none. A range costs 9 bytes, whatever its size: rights to 64 GiB of RAM are one range, and alternating
rights on each page of it would be 16 Mi. A change copies the table, which is 100 microseconds for each MiB of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

END: Final = 1 << 52
"""Page numbers are below it."""

Run = tuple[int, int]
"""`(first page, pages)`"""


class RangeMap:
    """See the module. Numbers are 0 to 255."""

    __slots__ = ("_starts", "_values")

    def __init__(self, value: int) -> None:
        """All pages have `value`."""
        # Range i is from _starts[i] to the next start, or END; neighbours have different values.
        self._starts = array("Q", (0,))
        self._values = bytearray((value,))

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._values)

    def get(self, page: int) -> int:
        """The number of a page."""
        return self._values[bisect_right(self._starts, page) - 1]

    def run(self, page: int) -> tuple[int, int]:
        """The number of a page, and the first page behind it that has another one (or END)."""
        index = bisect_right(self._starts, page)
        return self._values[index - 1], self._starts[index] if index < len(self._values) else END

    def items(self) -> Iterator[tuple[int, int, int]]:
        """`(first page, pages, number)` of each range, in order."""
        last = len(self._values) - 1
        for index, value in enumerate(self._values):
            start = self._starts[index]
            yield start, (self._starts[index + 1] if index < last else END) - start, value

    def changed(self, runs: Sequence[Run], value: int) -> RangeMap:
        """The map in which these pages have `value`. `runs`: sorted, none of them empty, none overlaps another."""
        old_starts, old_values = self._starts, self._values
        starts, values = array("Q"), bytearray()
        done = 0  # ranges of the old map that are in the new one, or hidden by it

        def begin(page: int, value: int) -> None:
            if not values or values[-1] != value:
                starts.append(page)
                values.append(value)

        for first, pages in runs:
            end = first + pages
            before = bisect_left(old_starts, first, done)
            starts.extend(old_starts[done:before])
            values.extend(old_values[done:before])
            begin(first, value)
            done = bisect_right(old_starts, end, before)
            if end < END:
                begin(end, old_values[done - 1])
        starts.extend(old_starts[done:])
        values.extend(old_values[done:])
        made = RangeMap.__new__(RangeMap)
        made._starts, made._values = starts, values
        return made


def runs_of(pages: Iterable[int]) -> list[Run]:
    """Pages in any order, also twice, as the fewest runs that hold them."""
    runs: list[Run] = []
    first = end = -1
    for page in sorted(pages):
        if page > end:
            if end >= 0:
                runs.append((first, end - first))
            first = page
        end = max(end, page + 1)
    if end >= 0:
        runs.append((first, end - first))
    return runs
