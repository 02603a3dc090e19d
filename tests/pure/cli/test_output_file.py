# SPDX-License-Identifier: Apache-2.0
"""Whether a file can be written, asked beforehand."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm.cli import output_file
from vmm.cli.errors import UserError
from vmm.cli.output_file import check_writable, write_text


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


def outcome(work: Callable[[], None]) -> str | None:
    """What `work` says, "" when it is content; None while it waits."""
    told: list[str] = []

    def run() -> None:
        try:
            work()
        except UserError as error:
            told.append(str(error))
        else:
            told.append("")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    return told[0] if told else None


def test_text_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("results of yesterday, a long text")

    write_text("--result", str(tmp_path / "old"), "tod\u00e4y\n")
    write_text("--result", str(tmp_path / "new"), "")

    assert (tmp_path / "old").read_bytes() == "tod\u00e4y\n".encode()
    assert (tmp_path / "new").read_bytes() == b""


@pytest.mark.parametrize(("name", "why"), [("/no/such/file", "No such file"), ("/dev/full", "No space left")])
def test_what_goes_wrong_is_one_line(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"^--result {name}: {why}"):
        write_text("--result", name, "text")


def test_nobody_is_waited_for_who_might_read_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    assert (
        outcome(lambda: write_text("--result", str(fifo), "text"))
        == f"--result {fifo}: nobody reads this FIFO"
    )


def test_a_reader_that_is_there_gets_all_of_a_long_text(tmp_path: Path) -> None:
    fifo, text = tmp_path / "fifo", "0123456789abcdef" * 0x10000  # 1 MiB, more than a FIFO holds
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # so that somebody reads before the thread comes to it
    reader.start()

    told = outcome(lambda: write_text("--result", str(fifo), text))

    reader.join(5)
    os.close(held)
    assert (told, read) == ("", [text])


def test_a_reader_that_reads_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "PATIENCE_S", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    told = outcome(lambda: write_text("--result", str(fifo), "x" * 0x10_0000))

    os.close(held)
    assert told == f"--result {fifo}: its reader does not read"
