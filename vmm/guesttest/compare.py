# SPDX-License-Identifier: Apache-2.0
"""The same unittests.cfg under QEMU and under `vmm run`, side by side: `python -m vmm.guesttest.compare`.

Both sides run the same guests with the same options, one guest at a time unless told otherwise, and are judged
by the same rule (`verdict`). The result is a Markdown table; the exit status is 0 only if we are nowhere worse:
every guest that passes under QEMU passes here with the same number of tests, and none fails with more failures.
A guest that is unsupported here and passes under QEMU counts as worse unless --allow-unsupported is given.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from vmm.guesttest.config import ConfigError, parse_duration
from vmm.guesttest.guests import Collection, Guest, Selection, SelectionError, collect, find_guests
from vmm.guesttest.report import Progress, document
from vmm.guesttest.runner import Runner
from vmm.guesttest.targets import QemuTarget, Target, VmmTarget
from vmm.guesttest.verdict import Verdict

Record = Mapping[str, Any]  # one guest of `report.document`

KEYS_COMPARED = frozenset(
    ("name", "verdict", "tests", "failures", "skipped", "summary", "seconds", "command", "reason")
)
STATUS_NOWHERE_WORSE = 0
STATUS_WORSE = 1
STATUS_BAD_INPUT = 2
EPILOG = """\
With --ours FILE or --qemu FILE a side's results are taken from FILE where it exists (`vmm test --json` writes the
same format) and are written to it otherwise.

example:
  python -m vmm.guesttest.compare x86/unittests.cfg --qemu-cpu-suffix arch-capabilities=off --markdown table.md
"""


class Relation(StrEnum):
    """How our result for a guest compares with QEMU's."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    UNSUPPORTED = "unsupported"  # it passes under QEMU, and `vmm run` has nothing for one of its options
    DIFFERENT = "different"


def relation(ours: Record, qemu: Record) -> Relation:
    """Compare two results for one guest."""
    ours_passed, qemu_passed = (record["verdict"] == Verdict.PASS for record in (ours, qemu))
    if ours_passed and qemu_passed:
        return Relation.SAME if ours["tests"] == qemu["tests"] else Relation.WORSE
    if qemu_passed and ours["verdict"] == Verdict.UNSUPPORTED:
        return Relation.UNSUPPORTED
    if ours_passed or qemu_passed:
        return Relation.BETTER if ours_passed else Relation.WORSE
    if ours["failures"] > qemu["failures"]:
        return Relation.WORSE
    if ours["verdict"] != qemu["verdict"]:
        return Relation.DIFFERENT
    return Relation.SAME if ours["failures"] == qemu["failures"] else Relation.BETTER


def pairs(ours: Record, qemu: Record) -> list[tuple[Record, Record]]:
    """The results of both documents by guest, in our order. Errors: `SelectionError` if the guests differ."""
    theirs = {record["name"]: record for record in qemu["guests"]}
    names = [record["name"] for record in ours["guests"]]
    odd = sorted(set(names) ^ set(theirs))
    if odd:
        raise SelectionError(f"the two sides hold results for different guests: {', '.join(odd[:5])}")
    return [(record, theirs[record["name"]]) for record in ours["guests"]]


def markdown(both: Sequence[tuple[Record, Record]], qemu_name: str) -> str:
    """The table: per guest verdict, tests and seconds of both sides, how they compare, and our reason if any.

    Guests that both sides skip for the same reason share one line at the end.
    """
    lines = [f"| guest | {qemu_name} | vmm | compared | remark |", "|---|---|---|---|---|"]
    skipped: dict[str, list[str]] = {}
    for ours, qemu in both:
        if ours["verdict"] == qemu["verdict"] == Verdict.SKIP and ours["reason"] == qemu["reason"]:
            skipped.setdefault(ours["reason"], []).append(ours["name"])
            continue
        remark = "" if ours["verdict"] == Verdict.PASS else str(ours["reason"])
        cells = [ours["name"], _cell(qemu), _cell(ours), relation(ours, qemu).value, remark]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    lines += ["", *_sums(both), ""]
    lines += [f"Skipped on both sides ({reason}): {', '.join(names)}.\n" for reason, names in skipped.items()]
    return "\n".join(lines)


def _sums(both: Sequence[tuple[Record, Record]]) -> list[str]:
    relations = [relation(ours, qemu) for ours, qemu in both]
    passes = [sum(record["verdict"] == Verdict.PASS for record in side) for side in zip(*both, strict=True)]
    counts = ", ".join(f"{relations.count(kind)} {kind}" for kind in Relation)
    return [f"{len(both)} entries: vmm passes {passes[0]}, QEMU {passes[1]}; {counts}."]


def _cell(record: Record) -> str:
    parts = [str(record["verdict"])]
    if record["tests"] is not None:
        parts.append(f"{record['tests']} tests" + ("" if record["summary"] else " so far"))
        if record["summary"] is False and record["verdict"] == Verdict.PASS:
            parts[-1] = f"{record['tests']} lines"
    for key, what in (("failures", "failed"), ("skipped", "skipped")):
        if record[key]:
            parts.append(f"{record[key]} {what}")
    if record["command"]:
        parts.append(f"{record['seconds']:.1f} s")
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; the process status."""
    args = _parser().parse_args(argv)
    selection = Selection(tuple(args.only), "", args.all)
    try:
        limit_s = parse_duration(args.timeout) if args.timeout else None
        guests = find_guests([args.config], selection)
        collection = collect(guests, selection)
        qemu_target = QemuTarget(args.qemu_program, "kvm", args.qemu_cpu_suffix)
        # What `vmm run` has nothing for is no reason for QEMU not to run it.
        qemu_collection = Collection(collection.guests, collection.cpus, collection.skipped)
        ours = _side(args.ours, VmmTarget(), collection, args.jobs, limit_s)
        qemu = _side(args.qemu, qemu_target, qemu_collection, args.jobs, limit_s) if ours else None
        if ours is None or qemu is None:
            return 128 + 2
        both = pairs(ours, qemu)
        version = _version(args.qemu_program)
        text = f"{version}, Linux {platform.release()}, one machine, one rule.\n\n{markdown(both, 'QEMU')}"
        if args.markdown:
            args.markdown.write_text(text)
        else:
            sys.stdout.write(text)
    except (ConfigError, SelectionError, OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return STATUS_BAD_INPUT
    bad = {Relation.WORSE} if args.allow_unsupported else {Relation.WORSE, Relation.UNSUPPORTED}
    worse = any(relation(*pair) in bad for pair in both)
    return STATUS_WORSE if worse else STATUS_NOWHERE_WORSE


def _side(
    path: Path | None, target: Target, collection: Collection, jobs: int, limit_s: float | None
) -> dict[str, Any] | None:
    """The results of one side, from `path` or by running the guests; None when a signal ended the run."""
    if path is not None and path.exists():
        return _loaded(path)
    print(f"compare: {len(collection.guests)} guests under {target.name}", file=sys.stderr)
    progress = Progress(sys.stderr, len(collection.guests))
    runner = Runner(target, jobs=jobs, timeout_s=limit_s, observer=progress)
    try:
        results = runner.run(collection)
    finally:
        progress.close()
    if runner.stopped_by is not None:
        return None
    no_logs: dict[Guest, Path] = {}
    side = document(results, False, no_logs)
    if path is not None:
        path.write_text(json.dumps(side, indent=2) + "\n")
    return side


def _loaded(path: Path) -> dict[str, Any]:
    """The results in a file. Errors: `SelectionError` when it holds something else."""
    try:
        loaded = json.loads(path.read_text())
        if all(record.keys() >= KEYS_COMPARED for record in loaded["guests"]):
            return dict(loaded)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SelectionError(f"{path}: expected what `vmm test --json` writes: {error!r}") from error
    raise SelectionError(f"{path}: expected what `vmm test --json` writes: a guest lacks some of its values")


def _version(program: str) -> str:
    completed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return (completed.stdout.splitlines() or [program])[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vmm.guesttest.compare",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="UNITTESTS_CFG", type=Path, help="the entries to run")
    parser.add_argument("--ours", metavar="FILE", type=Path, help="results of `vmm run`")
    parser.add_argument("--qemu", metavar="FILE", type=Path, help="results of QEMU")
    parser.add_argument("--qemu-program", default="qemu-system-x86_64", help="default: %(default)s")
    parser.add_argument(
        "--qemu-cpu-suffix",
        default="",
        help="appended to `-cpu host` and `-cpu max` for QEMU only, where it needs that",
    )
    parser.add_argument(
        "-k", "--only", metavar="NAME", action="append", default=[], help="only these entries; patterns"
    )
    parser.add_argument("-a", "--all", action="store_true", help="entries of the group 'nodefault' too")
    parser.add_argument(
        "--allow-unsupported", action="store_true", help="accept what `vmm run` has nothing for"
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="guests at a time (default: 1)")
    parser.add_argument("--timeout", metavar="DURATION", help="limit for each guest")
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write the table there, not to standard output"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
