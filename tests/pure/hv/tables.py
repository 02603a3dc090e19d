# SPDX-License-Identifier: Apache-2.0
"""The reference tables of tests/data: numbers collected from the TLFS, hvdef and Linux, with their sources."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"

Row = dict[str, str]


def rows(name: str) -> list[Row]:
    """A table's rows, by column name."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> int | None:
    """`0x12` or an empty cell."""
    return int(text, 16) if text else None


def compare(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    """Every difference between two tables, as lines for people; empty when they are equal."""
    differences = [f"{name}: only in our table" for name in ours.keys() - theirs.keys()]
    differences += [f"{name}: missing from our table" for name in theirs.keys() - ours.keys()]
    differences += [
        f"{name}: ours {ours[name]!r}, expected {theirs[name]!r}"
        for name in ours.keys() & theirs.keys()
        if ours[name] != theirs[name]
    ]
    return sorted(differences)


Announce = Callable[[str], None]
