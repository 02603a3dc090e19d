# SPDX-License-Identifier: Apache-2.0
"""What memory protections cost, on this host's way of enforcing them (`vmm doctor` names it).

`firmware/guests/protectbench.c` measures with its TSC. Hypercalls are made in VTL1, so no VTL switch is in their
figures.

| figure | says |
|---|---|
| protect-page, unprotect-page | rights of one page, against a hypercall that does nothing |
| protect-scattered, unprotect-scattered | 1,000 pages that are no neighbours, per page, against one page by itself |
| protect-gib, unprotect-gib | 1 GiB page by page (514 calls), per page, likewise |
| intercept-turn | a page is taken away, missed, VTL1 gives it back, it is read: against a C program that does so |
| intercept-open, intercept-skip | the access alone, VTL1's handler in it, against a hypercall that does nothing |
| execute-beside | a call into a page, its neighbour without execute, against one without that |
| load-without-execute | a load from a page without execute, against one from an open page |
| default-mask-time, default-mask-memory | EnableVtlProtection with a default mask, 64 GiB against 4 GiB |
"""

from __future__ import annotations

import re
import subprocess
import sys

from bench import default_mask
from bench.build import ROOT, BenchError, c_program, guest, run_program
from bench.figure import Figure, Side
from kvmapi import Kvm, KvmError

ROUNDS = 200
TURNS = 2000
SCATTERED = 1000
LARGE_MIB = 1024
PAGES_PER_MIB = 256
WATCHDOG_S = 600
_LINE = re.compile(r"^([a-z-]+): (\d+) cycles\r?$", re.MULTILINE)
_WANTED = {
    "null", "protect-page", "unprotect-page", "protect-scattered", "unprotect-scattered", "protect-gib",
    "unprotect-gib", "open-turn", "open", "skip", "load", "execute-open",
}  # fmt: skip


def guest_sample() -> dict[str, float]:
    """Cycles by name, of one run."""
    command = [sys.executable, "-m", "vmm", "run", str(guest("protectbench.flat")), "--machine", "vsm=on"]
    command += [
        "--memory",
        "3G",
        "--append",
        f"rounds={ROUNDS} mib={LARGE_MIB}",
        "--time-limit",
        str(WATCHDOG_S),
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S + 30
    )
    cycles = {name: float(count) for name, count in _LINE.findall(result.stdout)}
    if not cycles.keys() >= _WANTED:
        raise BenchError(f"the guest measured nothing: {(result.stdout + result.stderr).strip()}")
    for name, pages in (("scattered", SCATTERED), ("gib", LARGE_MIB * PAGES_PER_MIB)):
        cycles[f"protect-{name}"] /= pages
        cycles[f"unprotect-{name}"] /= pages
    return cycles


def c_sample() -> float:
    """Cycles per turn of the C program."""
    result = run_program([str(c_program("fault_loop")), str(TURNS)], WATCHDOG_S)
    if result.returncode:
        raise BenchError(f"the C loop failed: {result.stderr.decode(errors='replace').strip()}")
    return float(result.stdout)


def run(runs: int) -> list[Figure]:
    """The figures of the module's text; those of execute are left out where VTL0 cannot be kept from it."""
    samples = [(guest_sample(), c_sample()) for _ in range(runs)]
    cycles = [ours for ours, _ in samples]

    def figure(name: str, ours: str, reference: str) -> Figure:
        return Figure(
            name=name,
            unit="cycles",
            better="lower",
            ours=Side(ours, [sample[ours] for sample in cycles]),
            reference=Side(reference, [sample[reference] for sample in cycles]),
        )

    figures = [
        figure("protect-page", "protect-page", "null"),
        figure("unprotect-page", "unprotect-page", "null"),
        *(
            figure(f"{change}-{what}", f"{change}-{what}", f"{change}-page")
            for what in ("scattered", "gib")
            for change in ("protect", "unprotect")
        ),
        Figure(
            name="intercept-turn",
            unit="cycles",
            better="lower",
            ours=Side("open-turn", [sample["open-turn"] for sample in cycles]),
            reference=Side("c-loop", [reference for _, reference in samples]),
        ),
        figure("intercept-open", "open", "null"),
        figure("intercept-skip", "skip", "null"),
    ]
    if all("execute-beside" in sample for sample in cycles):
        figures.append(figure("execute-beside", "execute-beside", "execute-open"))
        figures.append(figure("load-without-execute", "load-from-data", "load"))
    return figures + _default_mask(runs)


def _default_mask(runs: int) -> list[Figure]:
    try:
        with Kvm.open() as kvm:
            samples = [
                (default_mask.measure(kvm, default_mask.LARGE), default_mask.measure(kvm, default_mask.SMALL))
                for _ in range(runs)
            ]
    except (KvmError, OSError) as error:
        raise BenchError(str(error)) from error
    return [
        Figure(
            name=f"default-mask-{what}",
            unit=unit,
            better="lower",
            ours=Side("64-gib", [float(large[at]) for large, _ in samples]),
            reference=Side("4-gib", [float(small[at]) for _, small in samples]),
        )
        for at, (what, unit) in enumerate((("time", "s"), ("memory", "bytes")))
    ]
