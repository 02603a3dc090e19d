# SPDX-License-Identifier: Apache-2.0
"""What a guest prints: kvm-unit-tests' report lines, read as they come, and a bounded copy for the log.

The format is that of kvm-unit-tests' lib/report.c: `PASS: text`, `FAIL:`, `XPASS:` (passed although it was
expected to fail: a failure), `XFAIL:`, `KFAIL:` (a known failure), `SKIP:`, `ABORT:`, and at the end
`SUMMARY: N tests[, N unexpected failures][, N known failures][, N expected failures][, N skipped]`.
A guest without a debug-exit device ends with `--- DONE: CODE ---` (lib/x86/io.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_BYTES = 256 << 10  # of a console, kept for the log: its beginning ...
TAIL_BYTES = 1 << 20  # ... and its end; a guest that prints for ever must not fill our memory
MAX_LINE_BYTES = 4096  # of a line are looked at; report lines are below 512

REPORT_LINE = re.compile(rb"(PASS|FAIL|XPASS|XFAIL|KFAIL|SKIP|ABORT):(?: |$)")
SUMMARY_PREFIX = b"SUMMARY: "
SUMMARY_LINE = re.compile(
    rb"SUMMARY: (?P<tests>\d{1,9}) tests"
    rb"(?:, (?P<failures>\d{1,9}) unexpected failures)?"
    rb"(?:, (?P<known_failures>\d{1,9}) known failures)?"
    rb"(?:, (?P<expected_failures>\d{1,9}) expected failures)?"
    rb"(?:, (?P<skipped>\d{1,9}) skipped)?\s*"
)
DONE_LINE = re.compile(rb"--- DONE: (\d{1,9}) ---\s*")
# What lib/x86 prints when it gives up: `Unhandled exception 6 #UD at ip ...`, `file.c:12: assert failed: ...`
CRASH_LINE = re.compile(rb"Unhandled .*exception|.*: assert failed: |ABORT: ")


@dataclass(frozen=True)
class Summary:
    """The numbers of one SUMMARY line. `failures` are the unexpected ones."""

    tests: int
    failures: int = 0
    known_failures: int = 0
    expected_failures: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        parts = [f"{self.tests} tests"]
        for count, what in (
            (self.failures, "unexpected failures"),
            (self.known_failures, "known failures"),
            (self.expected_failures, "expected failures"),
            (self.skipped, "skipped"),
        ):
            if count:
                parts.append(f"{count} {what}")
        return ", ".join(parts)


class BoundedLog:
    """The first `head_bytes` and the last `tail_bytes` of a byte stream."""

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Append `data`; what lies between head and tail is dropped."""
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        if len(self._tail) > 2 * self._tail_bytes:  # rarely, so that a byte is moved once on average
            self._trim()

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_bytes
        if excess > 0:
            self._dropped += excess
            del self._tail[:excess]

    def content(self) -> bytes:
        """The kept bytes, with a line in between that says how many are missing."""
        self._trim()
        gap = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


class Console:
    """Reads a guest's console as it arrives: `feed` bytes, then `finish`, then look at the results.

    counts: report lines by label. summary: the last SUMMARY line's numbers (None without one).
    bad_summary: a line that starts like a summary and is none. done_code: CODE of `--- DONE: CODE ---`.
    crash: the last line with which a guest says that it gives up.
    """

    def __init__(self) -> None:
        self.log = BoundedLog()
        self.counts = dict.fromkeys(("PASS", "FAIL", "XPASS", "XFAIL", "KFAIL", "SKIP", "ABORT"), 0)
        self.summary: Summary | None = None
        self.bad_summary: str | None = None
        self.done_code: int | None = None
        self.crash: str | None = None
        self._line = bytearray()

    def feed(self, data: bytes) -> None:
        """The guest printed `data`."""
        self.log.feed(data)
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._append(piece)
            self._take_line(bytes(self._line))
            self._line.clear()
        self._append(rest)

    def finish(self) -> None:
        """Nothing more comes: a last line without a line end counts too."""
        if self._line:
            self._take_line(bytes(self._line))
            self._line.clear()

    @property
    def failure_lines(self) -> int:
        """Lines that report a failure nobody expected."""
        return self.counts["FAIL"] + self.counts["XPASS"]

    @property
    def success_lines(self) -> int:
        """Lines that report a result which is no unexpected failure and no skip."""
        return self.counts["PASS"] + self.counts["XFAIL"] + self.counts["KFAIL"]

    @property
    def report_lines(self) -> int:
        """Lines that report the result of a test, a skip included."""
        return self.failure_lines + self.success_lines + self.counts["SKIP"]

    def _append(self, piece: bytes) -> None:
        self._line += piece[: MAX_LINE_BYTES - len(self._line)]

    def _take_line(self, line: bytes) -> None:
        line = line.strip(b"\r\0 ")
        report = REPORT_LINE.match(line)
        if report:
            self.counts[report[1].decode()] += 1
        elif line.startswith(SUMMARY_PREFIX):
            self._take_summary(line)
        elif done := DONE_LINE.fullmatch(line):
            self.done_code = int(done[1])
        if CRASH_LINE.match(line):
            self.crash = line.decode(errors="replace")

    def _take_summary(self, line: bytes) -> None:
        match = SUMMARY_LINE.fullmatch(line)
        if match is None:
            self.bad_summary = line.decode(errors="replace")
            return
        self.summary = Summary(**{name: int(digits or 0) for name, digits in match.groupdict().items()})
