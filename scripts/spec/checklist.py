# SPDX-License-Identifier: Apache-2.0
"""The items of the checklist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from scripts.spec.classes import Class, class_of

ROOT = Path(__file__).resolve().parents[2]
CHECKLIST = ROOT / "tests/data/tlfs-vsm-checklist.md"
ITEM_COUNT = 315

ITEM_ID = r"[A-Z]+-\d{3}"
_ITEM = re.compile(rf"^- \*\*({ITEM_ID})((?: ?\[[MBD]\])*)\*\* (.*)$", re.MULTILINE)


class Item(NamedTuple):
    """One requirement."""

    id: str
    strength: str
    """Letters: M stated by the TLFS, B behaviour of real implementations, D sources disagree; empty for advice."""
    statement: str
    """Its first sentence."""
    shelf: Class | None
    """Why it cannot be shown, where that is so."""

    @property
    def group(self) -> str:
        """The part of the id before the number."""
        return self.id.partition("-")[0]


def _item(found: re.Match[str]) -> Item:
    item_id, strength, body = found.groups()
    statement = re.split(r"`[NST]:`", body)[0].strip()
    sentence = re.match(r".*?[.](?= [A-Z0-9`]|$)", statement)
    return Item(
        item_id,
        "".join(re.findall("[MBD]", strength)),
        sentence[0] if sentence else statement,
        class_of(item_id),
    )


def read_checklist(path: Path = CHECKLIST) -> list[Item]:
    """All items in the checklist's order. `ValueError` when an id appears twice or their number is not 315."""
    items = [_item(found) for found in _ITEM.finditer(path.read_text(encoding="utf-8"))]
    if len(items) != ITEM_COUNT or len({item.id for item in items}) != ITEM_COUNT:
        raise ValueError(
            f"{path} has {len(items)} items, {len({i.id for i in items})} different: expected {ITEM_COUNT}"
        )
    return items
