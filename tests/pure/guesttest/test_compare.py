# SPDX-License-Identifier: Apache-2.0
"""Our results beside QEMU's: which is better, and the table."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from vmm.guesttest.compare import Relation, main, markdown, pairs, relation
from vmm.guesttest.guests import SelectionError


def record(verdict: str, tests: int | None = None, failures: int = 0, **rest: Any) -> dict[str, Any]:
    defaults = {"name": "a", "reason": "", "skipped": 0, "summary": True, "seconds": 1.0, "command": ["x"]}
    return {**defaults, "verdict": verdict, "tests": tests, "failures": failures, **rest}


@pytest.mark.parametrize(
    ("ours", "qemu", "expected"),
    [
        (record("PASS", 4), record("PASS", 4), Relation.SAME),
        (record("PASS"), record("PASS"), Relation.SAME),
        (record("PASS", 3), record("PASS", 4), Relation.WORSE),
        (record("FAIL", 4, 1), record("PASS", 4), Relation.WORSE),
        (record("UNSUPPORTED"), record("PASS", 11), Relation.UNSUPPORTED),
        (record("PASS", 4), record("INTERR"), Relation.BETTER),
        (record("FAIL", 9, 2), record("FAIL", 9, 1), Relation.WORSE),
        (record("FAIL", 9, 1), record("FAIL", 9, 2), Relation.BETTER),
        (record("FAIL", 9, 1), record("FAIL", 9, 1), Relation.SAME),
        (record("FAIL", 9, 1), record("TIMEOUT"), Relation.WORSE),
        (record("TIMEOUT"), record("FAIL", 9, 1), Relation.DIFFERENT),
        (record("UNSUPPORTED"), record("SKIP"), Relation.DIFFERENT),
        (record("SKIP"), record("SKIP"), Relation.SAME),
    ],
)
def test_relation(ours: dict[str, Any], qemu: dict[str, Any], expected: Relation) -> None:
    assert relation(ours, qemu) is expected


def test_table_has_a_row_per_guest_and_collects_equal_skips() -> None:
    both = [
        (record("PASS", 127, summary=False), record("PASS", 127, summary=False, seconds=11.6)),
        (record("FAIL", 9, 1, name="b", reason="a|b"), record("INTERR", 98, name="b", summary=False)),
        (record("SKIP", name="c", reason="i386 only"), record("SKIP", name="c", reason="i386 only")),
    ]
    lines = markdown(both, "QEMU 7.2").splitlines()
    assert lines[2:4] == [
        "| a | PASS, 127 lines, 11.6 s | PASS, 127 lines, 1.0 s | same |  |",
        "| b | INTERR, 98 tests so far, 1.0 s | FAIL, 9 tests, 1 failed, 1.0 s | worse | a\\|b |",
    ]
    assert "3 entries: vmm passes 1, QEMU 1; 2 same, 0 better, 1 worse, 0 unsupported, 0 different." in lines
    assert "Skipped on both sides (i386 only): c." in lines


def test_results_for_different_guests_cannot_be_compared() -> None:
    with pytest.raises(SelectionError, match="different guests: b"):
        pairs({"guests": [record("PASS")]}, {"guests": [record("PASS"), record("PASS", name="b")]})


@pytest.fixture
def fake_qemu(tmp_path: Path) -> Path:
    """A program that takes QEMU's options and ends as QEMU does after debug exit with code 0."""
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho 'SUMMARY: 1 tests'\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize(
    ("verdict", "options", "status"),
    [
        ("PASS", [], 0),
        ("FAIL", [], 1),
        ("UNSUPPORTED", [], 1),
        ("UNSUPPORTED", ["--allow-unsupported"], 0),
    ],
)
def test_command_runs_what_has_no_results_yet(
    tmp_path: Path, fake_qemu: Path, verdict: str, options: list[str], status: int
) -> None:
    (tmp_path / "a.flat").touch()
    config = tmp_path / "unittests.cfg"
    config.write_text("[a]\nfile = a.flat\n")
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps({"guests": [record(verdict, 1)]}))
    qemu, table = tmp_path / "qemu.json", tmp_path / "table.md"
    arguments = [str(config), *options, "--ours", str(ours), "--qemu", str(qemu), "--markdown", str(table)]
    assert main([*arguments, "--qemu-program", str(fake_qemu)]) == status
    assert json.loads(qemu.read_text())["guests"][0]["verdict"] == "PASS"
    assert "| a | PASS, 1 tests" in table.read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"guests": 3}', '{"guests": [3]}', '{"guests": [{"name": "a"}]}']
)
def test_a_file_that_holds_no_results_is_named(
    tmp_path: Path, fake_qemu: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "a.flat").touch()
    config = tmp_path / "unittests.cfg"
    config.write_text("[a]\nfile = a.flat\n")
    ours = tmp_path / "ours.json"
    ours.write_text(text)

    assert main([str(config), "--ours", str(ours), "--qemu-program", str(fake_qemu)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"compare: {ours}: ") and line.count("\n") == 1


def test_broken_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.cfg")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
