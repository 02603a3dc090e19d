# SPDX-License-Identifier: Apache-2.0
"""What a hypercall costs, against a bare port write of the same guest, and against a C program, in the same run.

`firmware/guests/hyperv.c` measures with its TSC: port writes that go through the port bus to a device, the same called
as the hypercall page is (CALL, OUT, RET), and hypercalls through the page. `bench/c/hypercall.c` is the least a VMM can
do for the same instructions: it enters the kernel as often, for the same, and knows the answers. Nobody gets below it.

| figure | ours | reference |
|---|---|---|
| called-port-write | a called port write | a bare one: the rest is CALL and RET, emulated where ring 0 is |
| hypercall-NAME | a whole hypercall | a bare port write |
| hypercall-NAME-added | a whole hypercall | a called port write: what dispatcher and handler add |
| hypercall-NAME-floor | the C program's hypercall | the C program's bare port write |
| bare-port-write-c, called-port-write-c | ours | the C program's |
| hypercall-NAME-c | a whole hypercall | the C program's: what is ours |

XMM parameters (get-register-fast) add two ioctls.
"""

from __future__ import annotations

import re
import sys

from bench.build import ROOT, BenchError, c_program, guest, run_program, time_limit_s
from bench.figure import Figure, Side

CALLS = 20_000  # of each kind, in each sample: a quarter of a second where an exit takes 9 us
WATCHDOG_S = 120  # on this kind of machine; the lab gets more
PORT, CALLED_PORT = "port", "called-port"
NAMES = ("null-fast", "get-register-slow", "get-register-fast")
_LINE = re.compile(r"^([a-z-]+): (\d+) cycles\r?$", re.MULTILINE)


def _cycles(output: str, complaint: str) -> dict[str, float]:
    """By name, `port` among them. Errors: `BenchError` with the complaint where one is missing."""
    cycles = {name: float(count) for name, count in _LINE.findall(output)}
    if not {PORT, CALLED_PORT, *NAMES} <= cycles.keys():
        raise BenchError(f"{complaint}: {output.strip()}")
    return cycles


def ours() -> dict[str, float]:
    """Cycles of the guest in our machine."""
    command = [sys.executable, "-m", "vmm", "run", str(guest("hyperv.flat")), "--machine", "hyperv=on"]
    limit_s = time_limit_s(WATCHDOG_S)
    command += ["--append", f"bench={CALLS}", "--time-limit", f"{limit_s:g}"]
    result = run_program(command, limit_s + 30, cwd=ROOT)
    output = (result.stdout + result.stderr).decode(errors="replace")
    return _cycles(output, "the guest measured nothing")


def reference() -> dict[str, float]:
    """Cycles of the C program's guest."""
    result = run_program([str(c_program("hypercall")), str(CALLS)], time_limit_s(WATCHDOG_S))
    output = (result.stdout + result.stderr).decode(errors="replace")
    return _cycles(output, "the C program failed")


def run(runs: int) -> list[Figure]:
    """The figures of the module's text."""
    samples = [(ours(), reference()) for _ in range(runs)]
    guest_cycles, c_cycles = [pair[0] for pair in samples], [pair[1] for pair in samples]

    def side(name: str, kind: str, cycles: list[dict[str, float]]) -> Side:
        return Side(name, [each[kind] for each in cycles])

    def figure(name: str, ours: Side, reference: Side) -> Figure:
        return Figure(name=name, unit="cycles", better="lower", ours=ours, reference=reference)

    def within(name: str, kind: str, base: str, cycles: list[dict[str, float]]) -> Figure:
        return figure(name, side(kind, kind, cycles), side(base, base, cycles))

    def against_c(name: str, kind: str) -> Figure:
        return figure(name, side("vmm", kind, guest_cycles), side("c-program", kind, c_cycles))

    return [
        within("called-port-write", CALLED_PORT, PORT, guest_cycles),
        *(within(f"hypercall-{name}", name, PORT, guest_cycles) for name in NAMES),
        *(within(f"hypercall-{name}-added", name, CALLED_PORT, guest_cycles) for name in NAMES),
        *(within(f"hypercall-{name}-floor", name, PORT, c_cycles) for name in NAMES),
        against_c("bare-port-write-c", PORT),
        against_c("called-port-write-c", CALLED_PORT),
        *(against_c(f"hypercall-{name}-c", name) for name in NAMES),
    ]
