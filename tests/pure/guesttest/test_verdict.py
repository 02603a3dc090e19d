# SPDX-License-Identifier: Apache-2.0
"""The rule: exit and report must agree."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.guesttest.console import Console
from vmm.guesttest.verdict import (
    VERDICT_MEANINGS,
    VERDICT_OF_OUTCOME,
    Ending,
    Judgement,
    Verdict,
    judge,
)


@dataclass(frozen=True)
class FakeImage:
    can_summarise: bool
    can_fail: bool


LIBRARY = FakeImage(can_summarise=True, can_fail=True)  # linked with kvm-unit-tests' report functions
OWN_REPORT = FakeImage(can_summarise=False, can_fail=True)  # prints its own PASS and FAIL lines
NO_REPORT = FakeImage(can_summarise=False, can_fail=False)
PASSES = "PASS: a\r\nPASS: b\r\n"


def verdict(code: int, text: str, image: FakeImage = LIBRARY, outcome: str = "debug-exit") -> Judgement:
    console = Console()
    console.feed(text.encode())
    console.finish()
    return judge(Ending(outcome, code), console, image)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (0, PASSES + "SUMMARY: 2 tests\r\n", Verdict.PASS),
        (0, PASSES + "SUMMARY: 9 tests\n", Verdict.PASS),  # report_passed() counts without printing
        (0, "PASS: a\nSKIP: b\nSUMMARY: 2 tests, 1 skipped\n", Verdict.PASS),
        (0, "PASS: a\nXFAIL: b\nSUMMARY: 2 tests, 1 expected failures\n", Verdict.PASS),
        (0, "PASS: a\nKFAIL: b\nSUMMARY: 2 tests, 1 known failures\n", Verdict.PASS),
        (1, "FAIL: a\nSUMMARY: 1 tests, 1 unexpected failures\n", Verdict.FAIL),
        (1, "XPASS: a\nSUMMARY: 1 tests, 1 unexpected failures\n", Verdict.FAIL),
        (38, "SKIP: a\nSUMMARY: 1 tests, 1 skipped\n", Verdict.SKIP),
        (38, "SUMMARY: 0 tests\n", Verdict.SKIP),
        (63, "ABORT: b\nSUMMARY: 1 tests\n", Verdict.ABORT),
        (63, "", Verdict.ABORT),
    ],
)
def test_report_and_code_agree(code: int, text: str, expected: Verdict) -> None:
    assert verdict(code, text).verdict is expected


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (0, "PASS: a\n", "no summary follows its 1 report lines"),
        (0, PASSES + "SUMMARY: 2 tests, 1 unexpected failures\n", "1 unexpected failures"),
        (0, "FAIL: a\nPASS: b\nSUMMARY: 2 tests\n", "1 FAIL lines"),
        (0, "XPASS: a\nSUMMARY: 2 tests\n", "1 FAIL lines"),
        (0, PASSES + "SUMMARY: 1 tests\n", "printed 2 results and the summary says 1 tests"),
        (0, PASSES + "SKIP: c\nSUMMARY: 2 tests, 1 skipped\n", "printed 2 results"),
        (0, "SUMMARY: 0 tests\n", "no test was run"),
        (0, "SKIP: a\nSUMMARY: 1 tests, 1 skipped\n", "no test was run"),
        (0, "PASS: a\nSUMMARY: 1 te", "this is no summary: 'SUMMARY: 1 te'"),
        (0, "SUMMARY: 1 tests\nABORT: a\n", "ABORT"),
        (38, "PASS: a\nSKIP: b\nSUMMARY: 2 tests, 1 skipped\n", "summary says 2 tests, 1 skipped"),
        (38, "SKIP: a\n", "no summary follows"),
    ],
)
def test_contradiction_is_an_error_and_says_what(code: int, text: str, reason: str) -> None:
    judgement = verdict(code, text)
    assert judgement.verdict is Verdict.ERROR
    assert reason in judgement.reason
    assert judgement.reason.startswith(f"exit code {code}, but ")


@pytest.mark.parametrize("code", [1, 2, 37, 62, 64, 127, 128, 0x10000])
def test_other_codes_are_failures_whatever_was_printed(code: int) -> None:
    assert verdict(code, "PASS: a\nSUMMARY: 1 tests\n").verdict is Verdict.FAIL


@pytest.mark.parametrize("image", [LIBRARY, OWN_REPORT, NO_REPORT])
def test_guest_that_reports_nothing_is_judged_by_its_code(image: FakeImage) -> None:
    judgement = verdict(0, "cpuid 22509\n", image)
    assert (judgement.verdict, judgement.tests, judgement.has_summary) == (Verdict.PASS, None, False)


def test_own_reporting_without_summary_passes_with_its_lines_counted() -> None:
    judgement = verdict(0, PASSES, OWN_REPORT)
    assert (judgement.verdict, judgement.tests, judgement.has_summary) == (Verdict.PASS, 2, False)
    assert "no summary" in judgement.reason


def test_own_reporting_that_cannot_fail_is_no_pass() -> None:
    judgement = verdict(0, PASSES, NO_REPORT)
    assert judgement.verdict is Verdict.ERROR
    assert "no FAIL text" in judgement.reason


def test_single_pass_line_is_no_report() -> None:
    judgement = verdict(0, "PASS: a\n", OWN_REPORT)
    assert judgement.verdict is Verdict.ERROR
    assert "1 PASS lines without a summary are no report" in judgement.reason


def test_own_reporting_with_a_failure_is_no_pass() -> None:
    assert verdict(0, "PASS: a\nFAIL: b\n", OWN_REPORT).verdict is Verdict.ERROR


@pytest.mark.parametrize(("outcome", "expected"), VERDICT_OF_OUTCOME.items())
def test_nothing_but_debug_exit_can_pass(outcome: str, expected: Verdict) -> None:
    judgement = verdict(0, "PASS: a\nSUMMARY: 1 tests\n", outcome=outcome)
    assert judgement.verdict is expected
    assert expected not in (Verdict.PASS, Verdict.SKIP)


def test_unknown_outcome_is_an_error() -> None:
    assert verdict(0, "SUMMARY: 1 tests\n", outcome="something-new").verdict is Verdict.ERROR


def test_debug_exit_without_a_code_is_an_error() -> None:
    console = Console()
    assert judge(Ending("debug-exit"), console, LIBRARY).verdict is Verdict.ERROR


def test_done_line_counts_like_debug_exit() -> None:
    assert verdict(0, "PASS: a\nSUMMARY: 1 tests\n", outcome="done-line").verdict is Verdict.PASS


def test_numbers_are_those_of_the_summary() -> None:
    text = (
        "FAIL: a\nSUMMARY: 9 tests, 1 unexpected failures, 2 known failures, 3 expected failures, 1 skipped\n"
    )
    assert verdict(1, text) == Judgement(Verdict.FAIL, "", 9, 1, 2, 3, 1, has_summary=True)


def test_numbers_of_an_unfinished_run_are_those_of_its_lines() -> None:
    judgement = verdict(0, "PASS: a\nFAIL: b\nSKIP: c\nXFAIL: d\n", outcome="time-limit")
    assert judgement == Judgement(
        Verdict.TIMEOUT, "time-limit; 2 ok and 1 failed so far", 4, 1, expected_failures=1, skipped=1
    )


def test_crash_line_is_the_reason_of_an_abort() -> None:
    assert verdict(63, "Unhandled exception 6 #UD at ip 0\n").reason == "Unhandled exception 6 #UD at ip 0"


def test_every_verdict_is_explained() -> None:
    assert set(VERDICT_MEANINGS) == set(Verdict)


LINES = [
    "PASS: a",
    "FAIL: b",
    "SKIP: c",
    "XPASS: d",
    "ABORT: e",
    "SUMMARY: 1 tests",
    "SUMMARY: 2 tests, 1 skipped",
    "x",
]


# Most codes are failures whatever was printed.
CODES = st.sampled_from([0, 38, 63]) | st.integers(0, 70)


@given(st.lists(st.sampled_from(LINES), max_size=5), CODES, st.booleans(), st.booleans())
def test_no_failure_ever_becomes_a_pass(lines: list[str], code: int, summary: bool, failure: bool) -> None:
    judgement = verdict(code, "\n".join(lines), FakeImage(summary, failure))
    if judgement.verdict is Verdict.PASS:
        assert code == 0
        assert not {"FAIL: b", "XPASS: d", "ABORT: e"} & set(lines)
        assert any(line.startswith("SUMMARY") for line in lines) or not summary or set(lines) <= {"x"}
