# SPDX-License-Identifier: Apache-2.0
"""Writes to two pages, one or both refused: by emulated ring 0 one may be written before anybody is told."""

from __future__ import annotations

import pytest

from tests.host.protection.test_random_sequences import Access, Change, run
from vmm.vsm.rights import NONE, READ

pytestmark = [pytest.mark.host, pytest.mark.timeout(100)]

PAGE = 4096


@pytest.mark.tlfs("VSM-077", "VSM-080")
@pytest.mark.parametrize("opened", [False, True], ids=["refused", "granted"])
@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("kind", ["store", "add", "xadd", "push"])
@pytest.mark.parametrize("first", [7, 6, 4, 1], ids=lambda first: f"{first} bytes on the first")
@pytest.mark.parametrize(
    "changes",
    [[Change(0, READ)], [Change(1, READ)], [Change(0, READ), Change(1, READ)], [Change(0, NONE)]],
    ids=["first page", "second page", "both pages", "first page without read"],
)
def test_nothing_is_done_by_half_or_twice(
    changes: list[Change], first: int, kind: str, ring: int, opened: bool
) -> None:
    run([*changes, Access(kind, ring, PAGE - first, 8, opened)])
