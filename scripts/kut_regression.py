# SPDX-License-Identifier: Apache-2.0
"""kvm-unit-tests with QEMU on two kernels of the lab: whatever one says, the other has to say.

`python -m scripts.kut_regression DIR/x86/unittests.cfg` boots the unpatched and the patched kernel, one after the
other, and runs the same guests on the KVM of each. A guest's verdict, its number of tests and of failures must be
equal; a guest that fails on both is no regression. The exit status is 0 only then; it is 2 where no guest passes on
either kernel, for nothing was compared.

Guests about time fail now and then under emulation. What differs is therefore run again on both kernels, twice at
most; equal results then count, and the table shows those.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.lab_vm import Lab, LabError, Outcome
from scripts.lab_vm.places import CHECKOUT, LAB_RESULTS
from scripts.lab_vm.progress import Progress
from vmm.guesttest.config import ConfigError
from vmm.guesttest.guests import Selection, SelectionError, collect, find_guests
from vmm.guesttest.report import Progress as GuestProgress
from vmm.guesttest.report import document
from vmm.guesttest.runner import Runner
from vmm.guesttest.targets import QemuTarget
from vmm.guesttest.verdict import Verdict

Record = Mapping[str, Any]

KERNELS = ("upstream", "patched")
MEMORY = "6G"
TIME_LIMIT = 4 * 3600.0
GUEST_LIMIT = 120.0
"""Seconds; most guests take 5 to 15 in the lab."""

INDEPENDENT_OF_SVM = (
    *("access", "smap", "pku", "memory", "rmap_chain", "umip", "la57"),
    *("eventinj", "idt_test", "hypercall", "msr", "msr64", "realmode", "setjmp", "sieve", "syscall"),
    *("tsc", "tsc_adjust", "xsave", "cmpxchg8b", "pcid-*", "rdpru", "debug"),
    *("xapic", "ioapic", "smptest", "kvmclock_test", "asyncpf", "s3"),
    *("hyperv_synic", "hyperv_stimer", "hyperv_stimer_direct", "hyperv_clock"),
)
"""Guests about memory, the processor, interrupts and Hyper-V that make no VM of their own. Without `emulator`, which
ends the lab's QEMU 7.2 with an assertion, and what takes minutes under emulation."""

REPETITIONS = 2
COMPARED = ("verdict", "tests", "failures", "skipped")


def differences(one: Sequence[Record], other: Sequence[Record]) -> list[str]:
    """Names of the guests that do not say the same on both, or are on one side only."""
    sides = [{record["name"]: [record[key] for key in COMPARED] for record in side} for side in (one, other)]
    names = [record["name"] for record in one] + [
        record["name"] for record in other if record["name"] not in sides[0]
    ]
    return [name for name in names if sides[0].get(name) != sides[1].get(name)]


def passes_somewhere(sides: Mapping[str, Sequence[Record]]) -> bool:
    """Whether a guest passes on a kernel; else what was to be compared did not run."""
    return any(record["verdict"] == Verdict.PASS for side in sides.values() for record in side)


def replaced(before: Sequence[Record], again: Sequence[Record]) -> list[Record]:
    """`before`, with the records of those guests that ran again."""
    newer = {record["name"]: record for record in again}
    return [newer.get(record["name"], record) for record in before]


def table(sides: Mapping[str, Sequence[Record]]) -> str:
    """Markdown: a row per guest, a column per kernel."""
    kernels = list(sides)
    lines = [f"| guest | {' | '.join(kernels)} |", "|---" * (1 + len(kernels)) + "|"]
    names = [record["name"] for record in sides[kernels[0]]]
    for name in names:
        cells = [
            next((_cell(record) for record in side if record["name"] == name), "missing")
            for side in sides.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: Record) -> str:
    counts = [f"{record['tests']} tests"] if record["tests"] is not None else []
    counts += [
        f"{record[key]} {word}"
        for key, word in (("failures", "failed"), ("skipped", "skipped"))
        if record[key]
    ]
    return ", ".join([str(record["verdict"]), *counts])


def run_here(config: Path, only: Sequence[str], limit: float, result: Path) -> int:
    """Inside the lab: run the guests on this kernel's KVM."""
    selection = Selection(tuple(only), "", False)
    collection = collect(find_guests([config], selection), selection)
    progress = GuestProgress(sys.stderr, len(collection.guests))
    runner = Runner(QemuTarget(), jobs=1, timeout_s=limit, observer=progress)
    try:
        results = runner.run(collection)
    finally:
        progress.close()
    result.write_text(json.dumps(document(results, False, {}), indent=1) + "\n")
    return 0


class ToStandardError:
    """The lab's output, as it comes."""

    def stdout(self, data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()

    stderr = stdout


def run_in_lab(kernel: str, config: Path, only: Sequence[str], limit: float, results: Path) -> list[Record]:
    """The guests' records on one kernel; LabError when the lab failed, or the kernel complained."""
    result = results / f"kvm-unit-tests-{kernel}.json"
    result.unlink(missing_ok=True)
    lab = Lab(kernel, memory=MEMORY, time_limit=TIME_LIMIT, results=results, progress=Progress())
    command = [
        sys.executable,
        "-m",
        "scripts.kut_regression",
        str(config),
        "--inside",
        str(result),
        f"--timeout={limit}",
    ]
    ended = lab.run(
        [*command, *(f"-k={name}" for name in only)], directory=CHECKOUT, output=ToStandardError()
    )
    if ended.outcome is not Outcome.EXITED or ended.exit_status or not result.exists():
        raise LabError(f"{kernel}: {ended.report or f'status {ended.exit_status}'}")
    if ended.warnings:
        headlines = "; ".join(trouble.headline for trouble in ended.warnings)
        raise LabError(f"{kernel}: the kernel complained: {headlines} (log: {ended.log})")
    records: list[Record] = json.loads(result.read_text())["guests"]
    return records


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.kut_regression", description=__doc__)
    parser.add_argument("config", type=Path, metavar="UNITTESTS_CFG", help="of a built kvm-unit-tests")
    parser.add_argument(
        "-k",
        "--only",
        action="append",
        metavar="NAME",
        help="these guests; patterns (default: those without SVM)",
    )
    parser.add_argument(
        "--results", type=Path, default=LAB_RESULTS, metavar="DIR", help="default: build/lab-test"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=GUEST_LIMIT,
        metavar="S",
        help="seconds for each guest (default: %(default)s)",
    )
    parser.add_argument("--inside", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    only = arguments.only or INDEPENDENT_OF_SVM
    config = arguments.config.resolve()
    try:
        if arguments.inside:
            return run_here(config, only, arguments.timeout, arguments.inside)
        known = {guest.name for guest in find_guests([config], Selection((), "", True))}
        only = [name for name in only if "*" in name or name in known]
        results = arguments.results.resolve()
        sides = {kernel: run_in_lab(kernel, config, only, arguments.timeout, results) for kernel in KERNELS}
        if not passes_somewhere(sides):
            raise LabError(f"no guest passes on any kernel, nothing was compared:\n{table(sides)}")
        for _ in range(REPETITIONS):
            if again := differences(*sides.values()):
                print(f"once more, since they differ: {', '.join(again)}", file=sys.stderr)
                sides = {
                    kernel: replaced(side, run_in_lab(kernel, config, again, arguments.timeout, results))
                    for kernel, side in sides.items()
                }
    except (ConfigError, SelectionError, LabError, OSError) as error:
        print(f"kut_regression: {error}", file=sys.stderr)
        return 2
    print(table(sides))
    different = differences(*sides.values())
    print(
        f"\n{len(sides[KERNELS[0]])} guests, {len(different)} different"
        + "".join(f"\n  {n}" for n in different)
    )
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
