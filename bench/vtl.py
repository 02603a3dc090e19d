# SPDX-License-Identifier: Apache-2.0
"""What Virtual Trust Levels cost: calls and returns against a C program, interrupts against those within one VTL.

The guest of both sides is `firmware/guests/vtlbench.c`, or has its instructions, and measures with its TSC.

| figure | ours | reference |
|---|---|---|
| round-trip | a VTL call and its return, one VP | the two-VM switch in C, same ioctls, same shared state |
| switches-N-vps | VTL switches per second of N VPs at once | N threads of that program |
| latency-SOURCE-WHILE | median from when an interrupt is due to VTL1's handler | to VTL0's, in a machine without VTLs |
| latency-SOURCE-WHILE-p99 | its 99th percentile | likewise |
| latency-ipi-...-kernel-wait | the same where KVM can wait for inactive VTLs, and does | likewise |

The C program is `bench/c/vtl_switch.c`. WHILE is what VTL0 does: `spin`, or `halt`: it sleeps in HLT. SOURCE is
`deadline` (the local APIC's timer: within one VTL KVM's alone), `stimer` (a synthetic timer: the VMM's everywhere) or
`ipi` (from the same VTL of another VP, through KVM's local APICs).
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass

from bench.build import ROOT, BenchError, c_program, guest, run_program
from bench.figure import Figure, Side
from kvmapi import Kvm
from kvmapi.vsm_support import vsm_support
from vmm.backend.vsm.waits import in_kernel

CALLS = 4_000  # of each VP and sample: a third of a second where a round trip takes 80 us
INTERRUPTS = 300  # in each sample; p99 is the fourth longest
WATCHDOG_S = 240
VPS = (1, 2, 4)
SOURCES = ("deadline", "stimer", "ipi")
ACTIVITIES = ("spin", "halt")
_ALL = re.compile(r"^all: (\d+) cycles for (\d+) round trips", re.MULTILINE)
_LATENCY = re.compile(r"^latency: median (\d+) p99 (\d+) ", re.MULTILINE)
_TSC = re.compile(r"^tsc: (\d+) Hz", re.MULTILINE)


def guest_output(words: str, cpus: int, machine: str) -> str:
    """What the guest prints. Errors: `BenchError` where it does not come to its end."""
    command = [sys.executable, "-m", "vmm", "run", str(guest("vtlbench.flat")), "--cpus", str(cpus)]
    command += ["--machine", machine]
    command += ["--append", words, "--time-limit", str(WATCHDOG_S)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S + 30
    )
    if result.returncode != 1:  # what a guest that passes ends with
        raise BenchError(f"the guest measured nothing: {(result.stdout + result.stderr).strip()}")
    return result.stdout


@dataclass(frozen=True)
class Trips:
    """Round trips of all VPs together."""

    cycles: int
    count: int

    @staticmethod
    def read(output: str) -> Trips:
        """From what the guest and the C program print. Errors: `BenchError`."""
        match = _ALL.search(output)
        if match is None:
            raise BenchError(f"no round trips were measured: {output.strip()}")
        return Trips(int(match[1]), int(match[2]))

    @property
    def each(self) -> float:
        return self.cycles / self.count

    def switches_per_second(self, tsc_hz: int) -> float:
        """A round trip is two."""
        return 2 * self.count * tsc_hz / self.cycles


def ours(vps: int) -> tuple[Trips, int]:
    """Round trips in our machine, and the TSC's frequency as the guest finds it."""
    output = guest_output(f"calls={CALLS}", vps, "vsm=on")
    tsc = _TSC.search(output)
    if tsc is None:
        raise BenchError(f"the guest does not tell its TSC's frequency: {output.strip()}")
    return Trips.read(output), int(tsc[1])


def reference(vps: int) -> Trips:
    """Those of the C program."""
    result = run_program([str(c_program("vtl_switch")), str(vps), str(CALLS)], WATCHDOG_S)
    if result.returncode:
        raise BenchError(f"the C program failed: {result.stderr.decode(errors='replace').strip()}")
    return Trips.read(result.stdout.decode())


def waits() -> list[str]:
    """How VTLs that do not run can be watched here (`vmm.backend.vsm.waits`), the portable way first."""
    with Kvm.open() as kvm:
        return ["tick", "kernel"] if in_kernel(vsm_support(kvm)) else ["tick"]


def latency(source: str, activity: str, wait: str | None) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds; to VTL1's handler with a way to watch, None: within one VTL."""
    words = f"interrupts={INTERRUPTS} source={source} while={activity} to={0 if wait is None else 1}"
    machine = "hyperv=on" if wait is None else f"vsm=on,vtl-wait={wait}"
    output = guest_output(words, 2 if source == "ipi" else 1, machine)
    match, tsc = _LATENCY.search(output), _TSC.search(output)
    if match is None or tsc is None:
        raise BenchError(f"no latency was measured: {output.strip()}")
    cycles_per_us = int(tsc[1]) / 1e6
    return int(match[1]) / cycles_per_us, int(match[2]) / cycles_per_us


def call_figures(runs: int) -> list[Figure]:
    """Round trips of one VP, and switches per second of several."""
    figures = []
    for vps in VPS:
        pairs = [(ours(vps), reference(vps)) for _ in range(runs)]
        if vps == 1:
            figures.append(
                Figure(
                    name="vtl-round-trip",
                    unit="cycles",
                    better="lower",
                    ours=Side("vmm", [trips.each for (trips, _), _ in pairs]),
                    reference=Side("c-program", [trips.each for _, trips in pairs]),
                )
            )
        figures.append(
            Figure(
                name=f"vtl-switches-{vps}-vp{'s' if vps > 1 else ''}",
                unit="switches/s",
                better="higher",
                ours=Side("vmm", [trips.switches_per_second(hz) for (trips, hz), _ in pairs]),
                reference=Side("c-program", [trips.switches_per_second(hz) for (_, hz), trips in pairs]),
            )
        )
    return figures


def latency_figures(runs: int) -> list[Figure]:
    """Median and p99 of each source, activity and way to watch."""
    figures = []
    for source, activity in itertools.product(SOURCES, ACTIVITIES):
        ways = waits() if source == "ipi" else ["tick"]  # of all else the VMM knows when it is due
        rounds = [[latency(source, activity, way) for way in (None, *ways)] for _ in range(runs)]
        for way, (number, suffix) in itertools.product(ways, enumerate(("", "-p99"))):
            figures.append(
                Figure(
                    name=f"vtl-latency-{source}-{activity}{suffix}{'-kernel-wait' if way == 'kernel' else ''}",
                    unit="us",
                    better="lower",
                    ours=Side("to-vtl1", [each[1 + ways.index(way)][number] for each in rounds]),
                    reference=Side("within-one-vtl", [each[0][number] for each in rounds]),
                )
            )
    return figures


def run(runs: int) -> list[Figure]:
    """The figures of the module's text."""
    return call_figures(runs) + latency_figures(runs)
