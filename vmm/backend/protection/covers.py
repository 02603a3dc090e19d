# SPDX-License-Identifier: Apache-2.0
"""Pages of one VTL that an overlay of its own hides.

The rights that a higher VTL gave are those to the page of RAM. An overlay in its place is another page, the VTL's own:
it can use it, and what lies below is neither seen nor changed by that. So nothing is enforced on a covered page; its
rights come into force when it is seen again.

Implements: MISC-008, VSM-068
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmm.vsm.outside import RightsChange


class Covers(set[int]):
    """Page numbers of covered pages. Not thread-safe: its owner has a lock."""

    def seen(self, changes: Sequence[RightsChange]) -> Iterator[RightsChange]:
        """The runs of `changes` that no overlay hides."""
        for change in changes:
            gpn, end = change.gpn, change.gpn + change.pages
            for hidden in sorted(page for page in self if gpn <= page < end):
                if gpn < hidden:
                    yield RightsChange(gpn, hidden - gpn, change.rights)
                gpn = hidden + 1
            if gpn < end:
                yield RightsChange(gpn, end - gpn, change.rights)
