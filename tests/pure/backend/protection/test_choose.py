# SPDX-License-Identifier: Apache-2.0
"""Which way of enforcing rights a machine takes."""

from __future__ import annotations

import pytest

from kvmapi.vsm_support import ORIGINAL_FEATURES, VsmSeries, VsmSupport
from vmm.backend.protection.choose import AUTO, ProtectionError, Way, choose

PATCHED = VsmSupport(VsmSeries.OURS, ORIGINAL_FEATURES)
PLAIN = VsmSupport(VsmSeries.NONE, 0)


@pytest.mark.parametrize(
    ("wanted", "vsm", "huge_pages", "way"),
    [
        (AUTO, PATCHED, False, Way.ATTRIBUTES),
        (AUTO, PLAIN, False, Way.MAPPING),
        (Way.ATTRIBUTES, PATCHED, False, Way.ATTRIBUTES),
        (Way.MAPPING, PATCHED, False, Way.MAPPING),
        (Way.MAPPING, PLAIN, False, Way.MAPPING),
        (AUTO, PATCHED, True, None),
        (AUTO, PLAIN, True, None),
    ],
)
def test_the_best_that_there_is_or_what_was_asked_for(
    wanted: str, vsm: VsmSupport, huge_pages: bool, way: Way | None
) -> None:
    assert choose(wanted, vsm, huge_pages=huge_pages) is way


@pytest.mark.parametrize(
    ("wanted", "vsm", "huge_pages", "words"),
    [
        (Way.ATTRIBUTES, PLAIN, False, "R/W/X memory attributes"),
        (Way.ATTRIBUTES, PATCHED, True, "hugepages=on"),
        (Way.MAPPING, PATCHED, True, "hugepages=on"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_to_do(
    wanted: str, vsm: VsmSupport, huge_pages: bool, words: str
) -> None:
    with pytest.raises(ProtectionError, match=words):
        choose(wanted, vsm, huge_pages=huge_pages)
