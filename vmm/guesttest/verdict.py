# SPDX-License-Identifier: Apache-2.0
"""From how a guest ended and what it printed to one word: the rule of `vmm test`.

kvm-unit-tests' own runner looks at the exit code only. Here the guest's report must agree with it, because a
guest that lost half of its tests can still write 0 to the debug-exit port. No guest is known by name.

1.  Only a guest that ends itself through debug exit (or says `--- DONE: CODE ---`, having no such device) can
    pass. Stopping in any other way is TIMEOUT, INTERR (KVM gave up), RESET (triple fault or reset), FAIL
    (power-off) or ERROR (our side failed).
2.  The code says: 0 pass, 38 everything skipped (status 77), 63 abort (status 127), all others failure.
    Codes 63 and "failure" need no second witness: ABORT, FAIL.
3.  A guest with a summary: code 0 needs no unexpected failures, at least one test that was not skipped, no
    FAIL/XPASS line, and no more success lines than tests. Code 38 needs that all tests were skipped (none at
    all counts as well). A contradiction is ERROR, never PASS.
4.  A guest without a summary that printed report lines (PASS, FAIL, SKIP ...) has either broken off or does its
    own reporting (as kvm-unit-tests' `realmode` does, 16-bit code without the library). With code 0 or 38 it
    is ERROR unless everything speaks for the latter: its image is not linked with report functions, whose
    protocol ends with a summary (`images.GuestImage.can_summarise`); it printed no FAIL line, yet its image
    contains the text `FAIL`, for success that could never have been a failure proves nothing; and it printed
    more than one result, for a single PASS is how a report begins.
5.  A guest that prints neither summary nor report lines (`vmexit` prints cycles, `sieve` numbers, `s3`
    addresses) has one witness, its exit code, and is judged by that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vmm.guesttest.console import Console, Summary

CODE_PASS = 0
CODE_SKIP = 38  # 77 >> 1: automake's "skipped", through debug exit's (code << 1) | 1
CODE_ABORT = 63  # 127 >> 1: abort()
MIN_RESULTS_WITHOUT_SUMMARY = 2


class Verdict(StrEnum):
    """What a guest's run came to."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    ABORT = "ABORT"
    TIMEOUT = "TIMEOUT"
    INTERR = "INTERR"
    RESET = "RESET"
    UNSUPPORTED = "UNSUPPORTED"
    ERROR = "ERROR"


VERDICT_MEANINGS = {
    Verdict.PASS: "exit code 0, and the report agrees",
    Verdict.FAIL: "the guest reports a failure, or ended without debug exit",
    Verdict.SKIP: "the guest, or its entry in unittests.cfg, says that there is nothing to test here",
    Verdict.ABORT: "the guest gave up: failed assertion or unhandled exception",
    Verdict.TIMEOUT: "no end within the time limit",
    Verdict.INTERR: "KVM could not go on: emulation failure or internal error",
    Verdict.RESET: "triple fault or reset",
    Verdict.UNSUPPORTED: "the entry asks for something `vmm run` does not have",
    Verdict.ERROR: "report and exit code contradict each other, or the run itself failed",
}


@dataclass(frozen=True)
class Ending:
    """How a run ended, in the words of `vmm run --result`.

    outcome: "debug-exit", "power-off", "time-limit" ... code: what the guest wrote to the debug-exit port
    (None for all other outcomes). detail: one line for people.
    """

    outcome: str
    code: int | None = None
    detail: str = ""


DEBUG_EXIT = "debug-exit"
DONE_LINE = "done-line"
TIME_LIMIT = "time-limit"
INTERRUPTED = "interrupted"
HOST_ERROR = "error"
VERDICT_OF_OUTCOME = {
    TIME_LIMIT: Verdict.TIMEOUT,
    "emulation-failure": Verdict.INTERR,
    "internal-error": Verdict.INTERR,
    "entry-failure": Verdict.INTERR,
    "triple-fault": Verdict.RESET,
    "reset": Verdict.RESET,
    "power-off": Verdict.FAIL,
    "hung": Verdict.FAIL,
    INTERRUPTED: Verdict.ERROR,
    "output-closed": Verdict.ERROR,
    HOST_ERROR: Verdict.ERROR,
}


class Image(Protocol):
    """What is to be known of a guest's file (`images.GuestImage`)."""

    @property
    def can_summarise(self) -> bool:
        """Whether it is linked with report functions, or contains the text of a summary."""

    @property
    def can_fail(self) -> bool:
        """Whether it contains the text of a failure."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason (empty for a plain PASS) and the numbers behind it.

    tests: what the summary says, without one the number of report lines; None when there were none.
    """

    verdict: Verdict
    reason: str = ""
    tests: int | None = None
    failures: int = 0
    known_failures: int = 0
    expected_failures: int = 0
    skipped: int = 0
    has_summary: bool = False


def judge(ending: Ending, console: Console, image: Image) -> Judgement:
    """The verdict on a run, by the rule above. `console` must be finished."""
    verdict, reason = _verdict(ending, console, image)
    summary = console.summary
    if summary is None:
        return Judgement(
            verdict,
            reason,
            tests=console.report_lines or None,
            failures=console.failure_lines,
            known_failures=console.counts["KFAIL"],
            expected_failures=console.counts["XFAIL"],
            skipped=console.counts["SKIP"],
        )
    return Judgement(
        verdict,
        reason,
        summary.tests,
        summary.failures,
        summary.known_failures,
        summary.expected_failures,
        summary.skipped,
        has_summary=True,
    )


def _verdict(ending: Ending, console: Console, image: Image) -> tuple[Verdict, str]:
    if ending.outcome not in (DEBUG_EXIT, DONE_LINE) or ending.code is None:
        verdict = VERDICT_OF_OUTCOME.get(ending.outcome, Verdict.ERROR)
        return verdict, _with_progress(ending.detail or ending.outcome, console)
    if ending.code == CODE_ABORT:
        return Verdict.ABORT, console.crash or "the guest aborted without a message"
    if ending.code not in (CODE_PASS, CODE_SKIP):
        return Verdict.FAIL, _failure_reason(ending.code, console)
    doubt = _contradiction(ending.code, console, image)
    if doubt:
        return Verdict.ERROR, f"exit code {ending.code}, but {doubt}"
    if ending.code == CODE_SKIP:
        return Verdict.SKIP, "nothing to test" if not console.report_lines else "all tests skipped"
    return Verdict.PASS, "" if console.summary else "no summary: judged by the exit code"


def _with_progress(detail: str, console: Console) -> str:
    if console.summary:
        return f"{detail}; after a summary of {console.summary}"
    if not console.report_lines:
        return detail
    return f"{detail}; {console.success_lines} ok and {console.failure_lines} failed so far"


def _failure_reason(code: int, console: Console) -> str:
    if console.summary is None:
        return f"exit code {code} without a summary"
    if console.summary.failures == 0:
        return f"exit code {code}, although the summary has no unexpected failure"
    return ""


def _contradiction(code: int, console: Console, image: Image) -> str:
    """What speaks against an exit code that claims success or skip; empty if nothing does."""
    if console.bad_summary is not None:
        return f"this is no summary: {console.bad_summary!r}"
    if console.counts["ABORT"]:
        return "it printed an ABORT line"
    if console.failure_lines:
        return f"it printed {console.failure_lines} FAIL lines"
    if console.summary is not None:
        return _summary_contradiction(code, console.summary, console)
    if not console.report_lines:
        return ""
    if image.can_summarise:
        return f"no summary follows its {console.report_lines} report lines"
    if code == CODE_PASS and console.success_lines < MIN_RESULTS_WITHOUT_SUMMARY:
        return f"{console.success_lines} PASS lines without a summary are no report"
    if code == CODE_PASS and not image.can_fail:
        return f"no summary, and no FAIL text that could have stood for its {console.success_lines} PASS"
    return ""


def _summary_contradiction(code: int, summary: Summary, console: Console) -> str:
    all_skipped = summary.tests == summary.skipped
    if summary.failures:
        return f"the summary has {summary.failures} unexpected failures"
    if code == CODE_SKIP and not all_skipped:
        return f"the summary says {summary}"
    if code == CODE_PASS and all_skipped:
        return f"no test was run ({summary})"
    if console.success_lines > summary.tests - summary.skipped:
        return f"it printed {console.success_lines} results and the summary says {summary}"
    return ""
