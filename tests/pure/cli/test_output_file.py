# SPDX-License-Identifier: Apache-2.0
"""Whether a file can be written, asked beforehand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.cli.errors import UserError
from vmm.cli.output_file import check_writable


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "expected the name of a file"),
        (".", "Is a directory"),
        ("/no/such/file", "No such file or directory"),
        ("a\0b", "null byte"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"^--result .*{why}"):
        check_writable("--result", name)


def test_asking_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("results of yesterday")

    check_writable("--result", str(tmp_path / "old"))
    check_writable("--result", str(tmp_path / "new"))

    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "results of yesterday"


def test_a_fifo_without_a_reader_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    check_writable("--result", str(tmp_path / "fifo"))
