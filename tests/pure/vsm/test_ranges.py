# SPDX-License-Identifier: Apache-2.0
"""The range map against a list of one number per page."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vmm.vsm.ranges import END, RangeMap, runs_of

PAGES = 24
FAR = END - PAGES  # the same pages at the very end


@given(
    changes=st.lists(st.tuples(st.frozensets(st.integers(0, PAGES - 1), min_size=1), st.integers(0, 2))),
    base=st.sampled_from([0, FAR]),
)
def test_as_a_number_per_page(changes: list[tuple[frozenset[int], int]], base: int) -> None:
    model = [1] * PAGES
    found = RangeMap(1)

    for pages, value in changes:
        before = list(found.items())
        unchanged = found
        found = found.changed(runs_of(base + page for page in pages), value)
        for page in pages:
            model[page] = value
        assert list(unchanged.items()) == before

    assert [found.get(base + page) for page in range(PAGES)] == model
    items = list(found.items())
    assert len(items) == len(found)
    assert items[0][0] == 0 and items[-1][0] + items[-1][1] == END
    assert all(
        first + pages == following and value != other
        for (first, pages, value), (following, _, other) in pairwise(items)
    )
    assert all(
        found.run(page) == (value, first + pages)
        for first, pages, value in items
        for page in (first, first + pages - 1)
    )


@given(st.lists(st.integers(0, 40)))
def test_runs_hold_each_page_once(pages: list[int]) -> None:
    runs = runs_of(pages)

    assert [page for first, count in runs for page in range(first, first + count)] == sorted(set(pages))
    assert all(first + count < following for (first, count), (following, _) in pairwise(runs))


def test_a_big_range_costs_what_a_small_one_does() -> None:
    everything = RangeMap(7).changed([(0, 1 << 24)], 3)

    assert len(everything) == 2
    assert len(everything.changed([(5, 1)], 7)) == 4
