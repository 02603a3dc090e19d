# SPDX-License-Identifier: Apache-2.0
"""What a kernel log says about trouble. Pure text, no files, no processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

REPORT_LINES = 60
"""Longest excerpt in a report; a stack dump with registers takes about 45 lines."""

PANIC_WITHIN_LINES = 25
"""An oops prints its registers once more before the panic it leads to."""

TAIL_LINES = 12
"""Last lines shown when a log shows no trouble of its own."""

TIMESTAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\] ?")

PANIC = re.compile(r"Kernel panic - not syncing: (?P<why>.*)")
OWN_LINE = re.compile(r"^lab: (?P<why>.*)")
TROUBLE = re.compile(
    r"^(?P<why>BUG: .*|\[ BUG: .*\]|kernel BUG at .*|Oops: .*|general protection fault.*|"
    r"watchdog: BUG: .*|INFO: task .* blocked for more than .*|rcu: INFO: .* detected .*stall.*|"
    r"unchecked MSR access error: .*|UBSAN: .*|(?:=+ )?WARNING: .*|KASAN: .*|"
    r"Out of memory: Killed process .*)"
)
BLOCK_END = re.compile(r"---\[ end (?:trace|Kernel panic)")

ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Unable to mount root fs|Cannot open root device|Mounted root \((?!9p )"),
        "the kernel cannot mount the lab's root, a 9p file system over virtio on PCI: it needs, built in and not as "
        "modules, the options of kernel/config under 'the lab's devices'",
    ),
    (
        re.compile(r"No working init found|Requested init .* failed"),
        "the kernel mounted its root but cannot run the lab's process 1: it needs CONFIG_BINFMT_ELF=y, and the "
        "checkout has to be readable by the user who runs QEMU",
    ),
    (
        re.compile(r"Out of memory|System is deadlocked on memory"),
        "the lab has too little memory: --memory gives it more",
    ),
)


@dataclass(frozen=True)
class Trouble:
    """One complaint of the kernel: its headline, and the log from there to its end."""

    headline: str
    excerpt: tuple[str, ...]
    is_panic: bool


def strip_timestamps(log: str) -> list[str]:
    """The log's lines without carriage returns and `[ 1.234567]`."""
    return [TIMESTAMP.sub("", line.rstrip("\r")) for line in log.splitlines()]


def find_trouble(log: str) -> list[Trouble]:
    """Panics, oopses and warnings, in the log's order. An oops and the panic it leads to are one."""
    lines = strip_timestamps(log)
    found: list[Trouble] = []
    at = 0
    while at < len(lines):
        panic, other = PANIC.search(lines[at]), TROUBLE.match(lines[at])
        if panic is None and other is None:
            at += 1
            continue
        end = _block_end(lines, at)
        block = lines[at:end]
        panics = panic is not None or any(PANIC.search(line) for line in block)
        match = other or panic
        assert match is not None
        found.append(Trouble(match["why"].strip(), tuple(block), panics))
        at = end
    return found


def _block_end(lines: Sequence[str], start: int) -> int:
    """One past the last line of the complaint at `start`: through its end mark, and the panic right behind it."""
    limit = min(len(lines), start + REPORT_LINES)
    end = limit
    for at in range(start, limit):
        if BLOCK_END.search(lines[at]):
            end = at + 1
            break
    else:
        # A one-line complaint: what follows is something else, but a few lines tell where it happened.
        if not any("Call Trace" in line for line in lines[start:limit]):
            end = min(start + 4, limit)
    for at in range(end, min(end + PANIC_WITHIN_LINES, len(lines))):
        if PANIC.search(lines[at]):
            return min(at + 2, len(lines))
    return end


def own_complaint(log: str) -> str | None:
    """What the lab's process 1 wrote into the log before it gave up, or None."""
    complaints = [match["why"] for line in strip_timestamps(log) if (match := OWN_LINE.match(line))]
    return complaints[-1] if complaints else None


def advice(log: str) -> list[str]:
    """What to do, for the failures whose cause is known."""
    return [text for pattern, text in ADVICE if pattern.search(log)]


def tail(log: str, count: int = TAIL_LINES) -> list[str]:
    lines = [line for line in strip_timestamps(log) if line]
    return lines[-count:]


def failure_report(what: str, log: str, details: Sequence[str] = ()) -> str:
    """Several lines for a person: what happened, the kernel's own words, what to do.

    `what` is the first line; `details` are findings from outside the log, such as where the processors stand.
    """
    troubles = find_trouble(log)
    panics = [trouble for trouble in troubles if trouble.is_panic]
    lines = [what]
    complaint = own_complaint(log)
    if complaint:
        lines.append(f"process 1 of the lab says: {complaint}")
    lines += details
    shown = panics[:1] or troubles[:1]
    for trouble in shown:
        lines.append("the kernel says:" if trouble.is_panic else "the kernel complained before:")
        lines += [f"    {line}" for line in trouble.excerpt]
    if not shown:
        last = tail(log)
        lines.append("the kernel's last words:" if last else "the kernel wrote nothing at all")
        lines += [f"    {line}" for line in last]
    lines += [f"advice: {text}" for text in advice(log)]
    return "\n".join(lines)


def panic_headline(log: str) -> str | None:
    """Why the kernel panicked, or None when it did not. An oops is named in preference to the panic it caused."""
    for trouble in find_trouble(log):
        if trouble.is_panic:
            return trouble.headline
    return None
