# SPDX-License-Identifier: Apache-2.0
"""What a host can tell of a refused access is said once."""

from __future__ import annotations

from pathlib import Path

from vmm.backend.protection.exactness import TABLE, Exactness, markdown, rows

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "vsm.md"


def test_the_document_has_the_table() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert [line for line in markdown() if line not in lines] == []


def test_a_processor_tells_everything() -> None:
    assert {level for _, *levels in rows(hardware=True) for level in levels} == {Exactness.EXACT}


def test_an_emulator_does_not() -> None:
    assert len(rows(hardware=False)) == len(TABLE)
    assert Exactness.NOT_TOLD in {level for _, *levels in rows(hardware=False) for level in levels}
