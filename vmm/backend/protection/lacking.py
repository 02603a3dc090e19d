# SPDX-License-Identifier: Apache-2.0
"""What a VTL's mapping has to be given for one instruction, or for the delivery of one event."""

from __future__ import annotations

from collections.abc import Callable

from vmm.backend.protection.touches import Touch, Touches
from vmm.backend.protection.view import ProtectedView
from vmm.vsm.rights import READ, WRITE


def lacking(
    view: ProtectedView, touches: Touches, page_of: Callable[[Touch], int], *, hardware: bool
) -> tuple[dict[int, int], frozenset[int]]:
    """Pages that may be used and are not in the mapping, and page tables that cannot be written there.

    page_of: the page of RAM of a touch. AMD's processors walk page tables with the right to write them, whatever is to
    be changed there.
    """
    pages: dict[int, int] = {}
    walked = set()
    for touch in touches.touches:
        page = page_of(touch)
        if view.lacks(page, touch.wanted):
            pages[page] = max(pages.get(page, READ), WRITE if touch.wanted == WRITE else READ)
        if touch.page_walk and hardware and view.restrained(page):
            walked.add(page)
    return pages, frozenset(walked)
