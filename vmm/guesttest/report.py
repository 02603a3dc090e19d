# SPDX-License-Identifier: Apache-2.0
"""What `vmm test` shows: progress while it runs, a table at the end, one JSON document for programs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from vmm.guesttest.guests import Guest
from vmm.guesttest.runner import GuestResult, Silent, summary_of
from vmm.guesttest.verdict import Verdict

JSON_SCHEMA = 1
# Verdict -> SGR colour on a terminal
COLOURS = {Verdict.PASS: "32", Verdict.SKIP: "33", Verdict.UNSUPPORTED: "33"}
FAILURE_COLOUR = "31"
NOT_FAILED = frozenset({Verdict.PASS, Verdict.SKIP})


class Progress:
    """Follows a run on `stream`: one updating line on a terminal, one line per finished guest elsewhere.

    A terminal also gets a lasting line for each guest that did not pass or skip.
    """

    def __init__(
        self, stream: TextIO, total: int, *, width: int = 80, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._total = total
        self._width = width
        self._clock = clock
        self._live = stream.isatty()
        self._done = 0
        self._failed = 0
        self._running: dict[Guest, float] = {}

    def started(self, guest: Guest) -> None:
        """`guest` runs now."""
        self._running[guest] = self._clock()
        self.tick()

    def finished(self, result: GuestResult) -> None:
        """A guest has its verdict."""
        self._running.pop(result.guest, None)
        self._done += 1
        self._failed += result.verdict not in NOT_FAILED
        if not self._live:
            self._print(f"[{self._done}/{self._total}] {_line(result)}\n")
        elif result.verdict not in NOT_FAILED:
            self._print(f"\r\x1b[K{_coloured(result.verdict)} {_line(result).partition(' ')[2].lstrip()}\n")
        self.tick()

    def tick(self) -> None:
        """Bring the updating line up to date."""
        if not self._live:
            return
        now = self._clock()
        running = ", ".join(f"{guest.name} {now - since:.0f} s" for guest, since in self._running.items())
        text = f"[{self._done}/{self._total}] {self._failed} not passed; running: {running or '-'}"
        self._print(f"\r\x1b[K{text[: self._width - 1]}")

    def close(self) -> None:
        """Take the updating line away."""
        if self._live:
            self._print("\r\x1b[K")

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class LogFolder(Silent):
    """Writes `NAME.log` for each guest as soon as it has its verdict: command, console, standard error, verdict.

    Of guests whose names are equal without what a file name should not have, those that end later get `NAME~2.log`,
    `NAME~3.log` ... logs: the files written. Errors of all methods: `OSError`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.logs: dict[Guest, Path] = {}

    def finished(self, result: GuestResult) -> None:
        """Write the log of a guest that ran."""
        if not result.command:
            return
        path = self._unused(safe_file_name(result.guest.name))
        path.write_bytes(log_text(result))
        self.logs[result.guest] = path

    def _unused(self, name: str) -> Path:
        """Where no other guest of this run has its log; that of an earlier run is replaced."""
        used = set(self.logs.values())
        path, number = self._folder / f"{name}.log", 1
        while path in used:
            number += 1
            path = self._folder / f"{name}~{number}.log"
        return path


def table(results: Sequence[GuestResult], *, colour: bool = False) -> str:
    """The results as a table, and a last line with the sums."""
    rows = [("name", "verdict", "tests", "failed", "skipped", "seconds", "reason")]
    rows += [
        (
            result.guest.name,
            result.verdict.value,
            _tests(result),
            str(result.judgement.failures) if result.judgement.tests is not None else "-",
            str(result.judgement.skipped) if result.judgement.tests is not None else "-",
            f"{result.seconds:.1f}" if result.command else "-",
            result.judgement.reason,
        )
        for result in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        if colour and number:
            cells[1] = _coloured(results[number - 1].verdict, widths[1])
        cells += [cell.rjust(width) for cell, width in zip(row[2:6], widths[2:6], strict=True)]
        lines.append("  ".join([*cells, row[6]]).rstrip())
    return "\n".join([*lines, "", totals(results)]) + "\n"


def totals(results: Sequence[GuestResult]) -> str:
    """`84 guests: 21 PASS, 34 SKIP, ...`"""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary_of(results).items())
    return f"{len(results)} guests: {counts}"


def document(results: Sequence[GuestResult], passed: bool, logs: dict[Guest, Path]) -> dict[str, Any]:
    """The results as one JSON-serialisable object.

    Per guest: name, file, groups, verdict, reason, tests (null: no report), failures, known_failures,
    expected_failures, skipped, summary (whether there was a SUMMARY line), seconds, outcome and exit_code
    (how the run ended; code null unless by debug exit), command, log.
    """
    return {
        "schema": JSON_SCHEMA,
        "passed": passed,
        "counts": {verdict.value: count for verdict, count in summary_of(results).items()},
        "guests": [_record(result, logs.get(result.guest)) for result in results],
    }


def json_text(results: Sequence[GuestResult], passed: bool, logs: dict[Guest, Path]) -> str:
    """`document` as text."""
    return json.dumps(document(results, passed, logs), indent=2) + "\n"


def log_text(result: GuestResult) -> bytes:
    """Everything that is known about one run."""
    parts = [f"$ {' '.join(result.command)}\n".encode(), result.console]
    if result.console and not result.console.endswith(b"\n"):
        parts.append(b"\n")
    if result.errors:
        parts += [b"--- standard error ---\n", result.errors.rstrip(b"\n"), b"\n"]
    parts.append(f"--- {_line(result)} ({result.ending.outcome}: {result.ending.detail}) ---\n".encode())
    return b"".join(parts)


def safe_file_name(name: str) -> str:
    """`name` without what a file name should not have."""
    return re.sub(r"[^A-Za-z0-9._~+-]", "_", name).lstrip(".") or "_"


def _record(result: GuestResult, log: Path | None) -> dict[str, Any]:
    judgement = result.judgement
    return {
        "name": result.guest.name,
        "file": str(result.guest.image),
        "groups": list(result.guest.groups),
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "tests": judgement.tests,
        "failures": judgement.failures,
        "known_failures": judgement.known_failures,
        "expected_failures": judgement.expected_failures,
        "skipped": judgement.skipped,
        "summary": judgement.has_summary,
        "seconds": round(result.seconds, 3),
        "outcome": result.ending.outcome,
        "exit_code": result.ending.code,
        "command": list(result.command),
        "log": str(log) if log else None,
    }


def _tests(result: GuestResult) -> str:
    return "-" if result.judgement.tests is None else str(result.judgement.tests)


def _line(result: GuestResult) -> str:
    parts = [f"{result.verdict} {result.guest.name}"]
    if result.judgement.tests is not None:
        parts.append(f"{result.judgement.tests} tests, {result.judgement.failures} failed")
    if result.command:
        parts.append(f"{result.seconds:.1f} s")
    if result.judgement.reason:
        parts.append(result.judgement.reason)
    return " | ".join(parts)


def _coloured(verdict: Verdict, width: int = 0) -> str:
    return f"\x1b[{COLOURS.get(verdict, FAILURE_COLOUR)}m{verdict.value.ljust(width)}\x1b[0m"
