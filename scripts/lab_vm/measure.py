# SPDX-License-Identifier: Apache-2.0
"""`scripts/lab measure`: what a lab on this machine can do, as JSON."""

from __future__ import annotations

import json
import sys
import time

from scripts.lab_vm.guest_program import build_guest_program
from scripts.lab_vm.lab import Lab, LabResult, Outcome

EXITS = 100_000
PYTHON_LOOP = "import time; t = time.perf_counter(); sum(range(1_000_000)); print(time.perf_counter() - t)"


def _checked(result: LabResult) -> LabResult:
    if result.outcome is not Outcome.EXITED or result.exit_status != 0:
        print(f"lab: {result.report or result.stderr.decode(errors='replace')}", file=sys.stderr)
    return result


def measure(lab: Lab) -> int:
    """Print one JSON object; returns the exit status."""
    probe = build_guest_program("kvm_probe")
    started = time.monotonic()
    nothing = _checked(lab.run(["/bin/true"]))
    whole = time.monotonic() - started
    kvm = _checked(lab.run([str(probe), str(EXITS)]))
    python = _checked(lab.run([sys.executable, "-c", PYTHON_LOOP]))
    for result in (nothing, kvm, python):
        if result.exit_status != 0:
            return result.exit_status
    figures = {
        "boot_seconds": nothing.boot_seconds,
        "true_seconds": whole,
        "kvm": json.loads(kvm.stdout),
        "python_million_additions_seconds": float(python.stdout),
        "python_command_seconds": python.run_seconds,
    }
    print(json.dumps(figures, indent=1))
    return 0
