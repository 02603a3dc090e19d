# SPDX-License-Identifier: Apache-2.0
"""Progress, table, JSON document, JUnit XML, logs."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from vmm.guesttest.guests import Guest
from vmm.guesttest.junit import junit_xml
from vmm.guesttest.report import LogFolder, Progress, json_text, log_text, safe_file_name, table
from vmm.guesttest.runner import GuestResult
from vmm.guesttest.verdict import Ending, Judgement, Verdict

EXIT_0 = Ending("debug-exit", 0, "debug exit with code 0")


def result(
    name: str, judgement: Judgement, *, console: bytes = b"", errors: bytes = b"", ran: bool = True
) -> GuestResult:
    command = ("vmm", "run", f"{name}.flat") if ran else ()
    return GuestResult(
        Guest(name, Path(f"x86/{name}.flat")), judgement, EXIT_0, 1.25, command, console, errors
    )


PASSED = result(
    "smptest", Judgement(Verdict.PASS, "", 1, has_summary=True), console=b"PASS: a\r\nSUMMARY: 1 tests"
)
FAILED = result("msr", Judgement(Verdict.FAIL, "", 1838, 6, skipped=2, has_summary=True), errors=b"oops\n")
BARE = result("vmexit", Judgement(Verdict.PASS, "no summary: judged by the exit code"))
SKIPPED = result("cet", Judgement(Verdict.SKIP, "i386 only"), ran=False)
BROKEN = result("ept", Judgement(Verdict.ERROR, "no CPU <model> & \x00"), console=b"\x1b[31m\x00\xff")
UNSUPPORTED = result("intel_iommu", Judgement(Verdict.UNSUPPORTED, "-M q35"), ran=False)
ALL = [PASSED, FAILED, BARE, SKIPPED, BROKEN, UNSUPPORTED]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_table_has_a_line_per_guest_and_the_sums() -> None:
    lines = table(ALL[:4]).splitlines()
    assert lines[0].split() == ["name", "verdict", "tests", "failed", "skipped", "seconds", "reason"]
    assert lines[1].split() == ["smptest", "PASS", "1", "0", "0", "1.2"]
    assert lines[2].split() == ["msr", "FAIL", "1838", "6", "2", "1.2"]
    assert lines[3].split()[:6] == ["vmexit", "PASS", "-", "-", "-", "1.2"]
    assert lines[4].split() == ["cet", "SKIP", "-", "-", "-", "-", "i386", "only"]
    assert lines[-1] == "4 guests: 2 PASS, 1 FAIL, 1 SKIP"


def test_columns_of_the_table_are_aligned_with_and_without_colour() -> None:
    plain, coloured = table(ALL), table(ALL, colour=True)
    assert "\x1b[32mPASS" in coloured
    for code in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain
    assert (
        len(
            {
                line.index(reason)
                for line, reason in zip(plain.splitlines()[3:5], ("no summary", "i386"), strict=True)
            }
        )
        == 1
    )


def test_progress_without_a_terminal_is_a_line_per_finished_guest() -> None:
    stream = io.StringIO()
    progress = Progress(stream, total=2)
    progress.started(PASSED.guest)
    progress.tick()
    progress.finished(PASSED)
    progress.finished(FAILED)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "[1/2] PASS smptest | 1 tests, 0 failed | 1.2 s",
        "[2/2] FAIL msr | 1838 tests, 6 failed | 1.2 s",
    ]


def test_progress_on_a_terminal_is_one_line_that_fits() -> None:
    stream = Terminal()
    progress = Progress(stream, total=3, width=40, clock=lambda: 5.0)
    progress.started(PASSED.guest)
    progress.started(FAILED.guest)
    updates = stream.getvalue().split("\r\x1b[K")
    assert "\n" not in stream.getvalue()
    assert updates[-1] == "[0/3] 0 not passed; running: smptest 0 s, msr 0 s"[:39]


def test_progress_on_a_terminal_keeps_a_line_of_what_did_not_pass() -> None:
    stream = Terminal()
    progress = Progress(stream, total=2)
    progress.finished(PASSED)
    progress.finished(FAILED)
    progress.close()
    (kept,) = [line for line in stream.getvalue().splitlines() if "msr" in line]
    assert "FAIL" in kept
    assert stream.getvalue().endswith("\r\x1b[K")


def test_json_document_has_all_numbers() -> None:
    document = json.loads(json_text(ALL, False, {FAILED.guest: Path("logs/msr.log")}))
    assert (document["passed"], document["counts"]["PASS"], len(document["guests"])) == (False, 2, 6)
    assert document["guests"][1] == {
        "name": "msr",
        "file": "x86/msr.flat",
        "groups": [],
        "verdict": "FAIL",
        "reason": "",
        "tests": 1838,
        "failures": 6,
        "known_failures": 0,
        "expected_failures": 0,
        "skipped": 2,
        "summary": True,
        "seconds": 1.25,
        "outcome": "debug-exit",
        "exit_code": 0,
        "command": ["vmm", "run", "msr.flat"],
        "log": "logs/msr.log",
    }
    assert document["guests"][2]["tests"] is None


@pytest.mark.parametrize(("allow", "errors", "skipped"), [(False, 2, 1), (True, 1, 2)])
def test_junit_counts_match_its_cases(allow: bool, errors: int, skipped: int) -> None:
    suite = ElementTree.fromstring(junit_xml(ALL, allow_unsupported=allow))[0]
    counts = [int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == [6, 1, errors, skipped]
    assert [len(suite.findall(f".//{tag}")) for tag in ("testcase", "failure", "error", "skipped")] == counts


def test_junit_carries_output_and_survives_what_xml_cannot() -> None:
    suite = ElementTree.fromstring(junit_xml(ALL, allow_unsupported=False))[0]
    assert suite[0].findtext("system-out") == "PASS: a\nSUMMARY: 1 tests"
    assert suite[1].findtext("system-err") == "oops\n"
    assert suite[4].findtext("system-out") == "\ufffd[31m\ufffd\ufffd"
    assert suite[4].find("error") is not None
    assert suite[0].attrib == {"classname": "x86", "name": "smptest", "time": "1.250"}


def test_logs_are_written_for_guests_that_ran(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path / "new" / "logs")
    folder.finished(PASSED)
    folder.finished(SKIPPED)
    assert folder.logs == {PASSED.guest: tmp_path / "new" / "logs" / "smptest.log"}
    assert folder.logs[PASSED.guest].read_bytes() == log_text(PASSED)


@pytest.mark.parametrize("names", [("a:b", "a_b"), (".x", "x"), ("a:b", "a_b", "a/b", "a_b~2")])
def test_each_guest_has_a_log_of_its_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    results = [result(name, Judgement(Verdict.PASS), console=name.encode()) for name in names]
    folder = LogFolder(tmp_path)

    for each in results:
        folder.finished(each)

    assert [folder.logs[each.guest].read_bytes() for each in results] == [log_text(each) for each in results]
    assert {path.parent for path in folder.logs.values()} == {tmp_path}


def test_log_shows_command_console_errors_and_verdict() -> None:
    both = result("a", Judgement(Verdict.PASS), console=b"x", errors=b"y\n")
    assert log_text(both).decode().splitlines() == [
        "$ vmm run a.flat",
        "x",
        "--- standard error ---",
        "y",
        "--- PASS a | 1.2 s (debug-exit: debug exit with code 0) ---",
    ]


@pytest.mark.parametrize(("name", "file"), [("a~2", "a~2"), ("../x", "_x"), ("", "_"), ("a b/c", "a_b_c")])
def test_log_names_stay_in_their_folder(name: str, file: str) -> None:
    assert safe_file_name(name) == file
