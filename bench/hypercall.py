# SPDX-License-Identifier: Apache-2.0
"""What a hypercall costs, against a bare port write of the same guest in the same run.

`firmware/guests/hyperv.c` measures with its TSC: port writes that go through the port bus to a device, the same called
as the hypercall page is (CALL, OUT, RET), and hypercalls through the page.

| figure | says |
|---|---|
| called-port-write | what CALL and RET cost in the guest: 0.25 of an exit where ring 0 is emulated |
| hypercall-NAME | a whole hypercall against a bare port write |
| hypercall-NAME-added | against the called port write: what dispatcher and handler add to a page that exits |

XMM parameters add two ioctls.
"""

from __future__ import annotations

import re
import subprocess
import sys

from bench.build import ROOT, BenchError, guest
from bench.figure import Figure, Side

CALLS = 20_000  # of each kind, in each sample: a quarter of a second where an exit takes 9 us
WATCHDOG_S = 120
PORT, CALLED_PORT = "port", "called-port"
NAMES = ("null-fast", "get-register-slow", "get-register-fast")
_LINE = re.compile(r"^([a-z-]+): (\d+) cycles\r?$", re.MULTILINE)


def sample() -> dict[str, float]:
    """Cycles by name, `port` among them, of one run."""
    command = [sys.executable, "-m", "vmm", "run", str(guest("hyperv.flat")), "--machine", "hyperv=on"]
    command += ["--append", f"bench={CALLS}", "--time-limit", str(WATCHDOG_S)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S + 30
    )
    cycles = {name: float(count) for name, count in _LINE.findall(result.stdout)}
    if not {PORT, CALLED_PORT, *NAMES} <= cycles.keys():
        raise BenchError(f"the guest measured nothing: {(result.stdout + result.stderr).strip()}")
    return cycles


def run(runs: int) -> list[Figure]:
    """The figures of the module's text."""
    samples = [sample() for _ in range(runs)]

    def figure(name: str, ours: str, reference: str) -> Figure:
        return Figure(
            name=name,
            unit="cycles",
            better="lower",
            ours=Side(ours, [cycles[ours] for cycles in samples]),
            reference=Side(reference, [cycles[reference] for cycles in samples]),
        )

    return [
        figure("called-port-write", CALLED_PORT, PORT),
        *(figure(f"hypercall-{name}", name, PORT) for name in NAMES),
        *(figure(f"hypercall-{name}-added", name, CALLED_PORT) for name in NAMES),
    ]
