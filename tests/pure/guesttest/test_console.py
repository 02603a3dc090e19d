# SPDX-License-Identifier: Apache-2.0
"""Reading a guest's console: report lines, summary, and a bounded copy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.guesttest.console import MAX_LINE_BYTES, BoundedLog, Console, Summary


def read(text: str) -> Console:
    console = Console()
    console.feed(text.encode())
    console.finish()
    return console


def test_report_lines_are_counted_by_label() -> None:
    console = read("PASS: a\r\nFAIL: b\r\nXPASS: c\nXFAIL: d\nKFAIL: e\nSKIP: f\nABORT: g\nINFO: h\n")
    assert list(console.counts.values()) == [1, 1, 1, 1, 1, 1, 1]
    assert (console.success_lines, console.failure_lines, console.report_lines) == (3, 2, 6)


@pytest.mark.parametrize(
    "line", [" PASS", "PASS", "PASSED: x", "x PASS: y", "PASS (4)", "pass: x", "FAILED: x"]
)
def test_other_lines_are_no_report(line: str) -> None:
    assert read(line).report_lines == 0


@pytest.mark.parametrize(
    ("line", "summary"),
    [
        ("SUMMARY: 4 tests", Summary(4)),
        ("SUMMARY: 0 tests", Summary(0)),
        ("SUMMARY: 1838 tests, 6 unexpected failures", Summary(1838, failures=6)),
        ("SUMMARY: 1 tests, 1 skipped", Summary(1, skipped=1)),
        (
            "SUMMARY: 9 tests, 1 unexpected failures, 2 known failures, 3 expected failures, 4 skipped",
            Summary(9, 1, 2, 3, 4),
        ),
        ("SUMMARY: 5 tests, 2 expected failures\r", Summary(5, expected_failures=2)),
    ],
)
def test_summary_in_every_form_of_the_library(line: str, summary: Summary) -> None:
    console = read(line + "\n")
    assert console.summary == summary
    assert console.bad_summary is None


@pytest.mark.parametrize(
    "line",
    [
        "SUMMARY: tests",
        "SUMMARY: 4 tests,",
        "SUMMARY: 4 tests, 1 skipped, 1 unexpected failures",
        "SUMMARY: 99999999999 tests",
    ],
)
def test_something_like_a_summary_is_remembered_as_bad(line: str) -> None:
    console = read(line)
    assert console.summary is None
    assert console.bad_summary == line


def test_last_summary_counts() -> None:
    assert read("SUMMARY: 1 tests\nSUMMARY: 2 tests\n").summary == Summary(2)


def test_summary_prints_like_the_library() -> None:
    text = "9 tests, 1 unexpected failures, 4 skipped"
    assert str(Summary(9, failures=1, skipped=4)) == text


def test_done_line_gives_the_exit_code() -> None:
    assert read("--- DONE: 38 ---\r\n").done_code == 38


@pytest.mark.parametrize(
    "line",
    [
        "Unhandled exception 6 #UD at ip 0000000000400c6b",
        "x86/vmexit.c:12: assert failed: x == y",
        "ABORT: no SynIC",
    ],
)
def test_line_of_a_guest_that_gives_up_is_kept(line: str) -> None:
    assert read(f"a\n{line}\nb").crash == line


def test_last_line_needs_no_line_end() -> None:
    assert read("SUMMARY: 3 tests").summary == Summary(3)


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert (
        read("\x00PASS: a\n\x80\udfff".encode("utf-8", "surrogatepass").decode("latin-1")).counts["PASS"] == 1
    )


def test_overlong_line_is_looked_at_only_at_its_start() -> None:
    console = read("x" * MAX_LINE_BYTES * 2 + "\nPASS: " + "y" * MAX_LINE_BYTES * 2 + "\nPASS: z")
    assert console.counts["PASS"] == 2


@given(st.integers(1, 7))
def test_pieces_of_any_size_give_the_same_counts(size: int) -> None:
    text = b"PASS: a\r\nFAIL: b\r\nSUMMARY: 2 tests, 1 unexpected failures\r\n--- DONE: 1 ---"
    console = Console()
    for start in range(0, len(text), size):
        console.feed(text[start : start + size])
    console.finish()
    assert (console.counts["PASS"], console.counts["FAIL"], console.done_code) == (1, 1, 1)
    assert console.summary == Summary(2, failures=1)
    assert console.log.content() == text


@given(st.lists(st.binary(max_size=40)), st.integers(0, 20), st.integers(1, 20))
def test_log_keeps_the_beginning_and_the_end(pieces: list[bytes], head: int, tail: int) -> None:
    log = BoundedLog(head, tail)
    for piece in pieces:
        log.feed(piece)
    whole = b"".join(pieces)
    content = log.content()
    if len(whole) <= head + tail:
        assert content == whole
    else:
        gap = f"\n[... {len(whole) - head - tail} bytes left out ...]\n".encode()
        assert content == whole[:head] + gap + whole[-tail:]
