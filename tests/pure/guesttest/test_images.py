# SPDX-License-Identifier: Apache-2.0
"""What a guest's file says about its reporting; the files are made by gcc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vmm.guesttest.images import GuestImage

LIBRARY = "int report(int ok) { return ok; } int report_summary(void) { return 0; }"
OWN = "static __attribute__((used)) int report(int ok) { return ok; }"


@pytest.mark.parametrize(
    ("content", "summarise", "fail"),
    [
        (b"", False, False),
        (b"PASS: ", False, False),
        (b"..FAIL: ..", False, True),
        (b"..SUMMARY: %d tests..FAIL", True, True),
        (b"\x7fELF damaged", True, False),
    ],
)
def test_texts_in_the_file(tmp_path: Path, content: bytes, summarise: bool, fail: bool) -> None:
    path = tmp_path / "guest.flat"
    path.write_bytes(content)
    assert (GuestImage(path).can_summarise, GuestImage(path).can_fail) == (summarise, fail)


@pytest.mark.parametrize(
    ("source", "strip", "summarise"),
    [
        (LIBRARY, False, True),
        ("int report_pass(void) { return 1; }", False, True),
        (OWN, False, False),
        ("int reporter(void) { return 1; }", False, False),
        (LIBRARY, True, False),
    ],
)
def test_report_functions_among_the_symbols(
    tmp_path: Path, source: str, strip: bool, summarise: bool
) -> None:
    code, image = tmp_path / "guest.c", tmp_path / "guest.flat"
    code.write_text(source + " int _start(void) { return 0; }")
    options = ["-nostdlib", "-static", "-ffreestanding", *(["-s"] if strip else [])]
    subprocess.run(["gcc", *options, str(code), "-o", str(image)], check=True, capture_output=True)
    assert GuestImage(image).can_summarise is summarise


def test_missing_file_says_nothing(tmp_path: Path) -> None:
    image = GuestImage(tmp_path / "none.flat")
    assert (image.can_summarise, image.can_fail) == (False, False)
