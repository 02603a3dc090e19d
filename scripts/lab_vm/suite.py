# SPDX-License-Identifier: Apache-2.0
"""`scripts/lab test`: the host ring on each of several kernels, side by side; what came out, as JUnit XML.

Per kernel, under the results directory: JUnit files `<kernel>/*.xml`, `<kernel>/kernel.log`, `<kernel>/output.txt`, and
`<kernel>/spec` (`VMM_SPEC_DIR=<kernel>/spec make spec` tells what of the checklist was proven there).
"""

from __future__ import annotations

import os
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.forwarding import forward_signals
from scripts.lab_vm.lab import Lab, LabResult, Outcome
from scripts.lab_vm.places import CHECKOUT
from scripts.lab_vm.progress import Progress, duration

HOST_RING = "scripts/test_host_ring.sh"
RING_MEMORY = "6G"
"""Room for a guest with memory above 4 GiB; what it does not touch costs nothing. HOST_RING says the same."""
JUNIT_DIR = "VMM_JUNIT_DIR"
"""The variable that tells tests where to put their JUnit files."""
LOG, OUTPUT, SPEC = "kernel.log", "output.txt", "spec"


@dataclass(frozen=True)
class Counts:
    """What a JUnit XML file says."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def are_good(self) -> bool:
        """Something ran, and all of it passed."""
        return self.tests > self.skipped and not self.failures and not self.errors

    def __str__(self) -> str:
        passed = self.tests - self.failures - self.errors - self.skipped
        parts = [("failed", self.failures), ("errors", self.errors), ("skipped", self.skipped)]
        return ", ".join([f"{passed} passed", *(f"{count} {what}" for what, count in parts if count)])


def read_counts(folder: Path) -> Counts:
    """The sums over all JUnit files of a folder; LabError when there is none, or a damaged one."""
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise LabError(f"no test results in {folder}")
    try:
        suites = [suite for file in files for suite in ElementTree.parse(file).getroot().iter("testsuite")]
        sums = [
            sum(int(suite.get(name, "0")) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise LabError(f"damaged test results in {folder}: {error}") from error
    return Counts(*sums)


def verdict(result: LabResult, folder: Path) -> tuple[bool, str]:
    """Whether a kernel passed, and that in words."""
    if result.outcome is not Outcome.EXITED:
        return False, result.report
    try:
        counts = read_counts(folder)
    except LabError as error:
        return False, f"status {result.exit_status}, {error}"
    words = [str(counts)]
    if result.exit_status:
        words.append(f"status {result.exit_status}")
    if result.warnings:
        words.append(f"the kernel complained: {'; '.join(trouble.headline for trouble in result.warnings)}")
    return counts.are_good and not result.exit_status and not result.warnings, ", ".join(words)


class Tagged:
    """Whole lines to our standard output, each with its kernel's name; all of it to a file as well."""

    _writing = threading.Lock()

    def __init__(self, name: str, file: Path) -> None:
        self._tag = f"{name}: ".encode()
        self._file = file.open("wb", buffering=0)
        self._line = b""

    def stdout(self, data: bytes) -> None:
        self._file.write(data)
        *lines, self._line = (self._line + data).split(b"\n")
        self._print(lines)

    stderr = stdout

    def close(self) -> None:
        self._file.close()
        if self._line:
            self._print([self._line])

    def _print(self, lines: Sequence[bytes]) -> None:
        with self._writing:
            for line in lines:
                os.write(1, self._tag + line + b"\n")


def run_on_kernels(
    kernels: Sequence[str],
    results: Path,
    time_limit: float,
    cpus: int,
    memory: str,
    command: Sequence[str],
    progress: Progress,
) -> int:
    """Build what has to be built, then run `command` on all kernels at once; it puts JUnit files into `JUNIT_DIR`.

    Returns the exit status: 0 when tests ran on every kernel, all passed and no kernel complained.
    """
    names = [Path(kernel).name for kernel in kernels]
    if len(set(names)) < len(names):
        raise LabError(f"the results of {', '.join(kernels)} would go to the same folder; rename one file")
    labs = [
        Lab(
            kernel,
            cpus=cpus,
            memory=memory,
            time_limit=time_limit,
            results=results / Path(kernel).name,
            log=results / Path(kernel).name / LOG,
        )
        for kernel in kernels
    ]
    # One after the other: the second finds in the compiler's cache what the first compiled.
    for lab in labs:
        lab.progress = progress
        lab.image()
        lab.progress = Progress(quiet=True)
    print(f"lab: {' and '.join(kernels)}: booting; results go to {results}", file=sys.stderr, flush=True)
    started = time.monotonic()
    runs = [_Testing(lab, command) for lab in labs]
    forward_signals([testing.run for testing in runs])
    threads = [threading.Thread(target=testing.finish) for testing in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"lab: after {duration(time.monotonic() - started)}:", file=sys.stderr)
    for testing in runs:
        mark = "passed" if testing.passed else "FAILED"
        print(f"lab:   {testing.name}: {mark}: {testing.words}", file=sys.stderr)
    return int(not all(testing.passed for testing in runs))


class _Testing:
    """One kernel's tests, which run from now on."""

    def __init__(self, lab: Lab, command: Sequence[str]) -> None:
        assert lab.results is not None
        lab.results.mkdir(parents=True, exist_ok=True)
        self.name = lab.kernel
        self.passed, self.words = False, "its run ended unexpectedly"
        self._results = lab.results
        # Those of the last run are no results of this one.
        for old in self._results.glob("*.xml"):
            old.unlink()
        self._output = Tagged(lab.kernel, lab.results / OUTPUT)
        self.run = lab.start(
            command,
            directory=CHECKOUT,
            # What `make spec` reads: the checkout cannot be written to.
            environment={
                JUNIT_DIR: str(lab.results),
                "VMM_SPEC_DIR": str(lab.results / SPEC),
                "VMM_SPEC_HOST": f"lab, {lab.results.name}",
            },
            output=self._output,
        )

    def finish(self) -> None:
        try:
            self.passed, self.words = verdict(self.run.finish(), self._results)
        finally:
            self._output.close()
