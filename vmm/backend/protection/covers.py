# SPDX-License-Identifier: Apache-2.0
"""Pages of one VTL that an overlay of its own hides: `Covers`, for memory attributes, and the runs between them.

The rights that a higher VTL gave are those to the page of RAM. An overlay in its place is another page, the VTL's own:
it can use it, and what lies below is neither seen nor changed by that. So nothing is enforced on a covered page; its
rights come into force when it is seen again. A page of a higher VTL that the VTL sees is no cover: the rights bind it.

Implements: MISC-008, VSM-068
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vmm.vsm.outside import RightsChange


class Covers(set[int]):
    """Page numbers of covered pages. Not thread-safe: its owner has a lock."""

    def seen(self, changes: Sequence[RightsChange]) -> Iterator[RightsChange]:
        """The runs of `changes` that no overlay hides."""
        for change in changes:
            for gpn, pages in runs_without(change.gpn, change.pages, self):
                yield RightsChange(gpn, pages, change.rights)


def runs_without(gpn: int, pages: int, hidden: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The runs of `pages` pages from `gpn` on between those that are hidden."""
    end = gpn + pages
    for page in sorted(page for page in hidden if gpn <= page < end):
        if gpn < page:
            yield gpn, page - gpn
        gpn = page + 1
    if gpn < end:
        yield gpn, end - gpn
