# SPDX-License-Identifier: Apache-2.0
"""What a hypercall costs, against a bare port write of the same guest in the same run.

`firmware/guests/hyperv.c` measures both with its TSC: a port write that goes through the port bus to a device, and
hypercalls through the hypercall page. What a hypercall adds is a CALL and a RET in the guest, registers that come and
go with KVM_RUN, and the dispatcher; XMM parameters add two ioctls.
"""

from __future__ import annotations

import re
import subprocess
import sys

from bench.build import ROOT, BenchError, guest
from bench.figure import Figure, Side

CALLS = 20_000  # of each kind, in each sample: a fifth of a second where an exit takes 9 us
WATCHDOG_S = 120
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
    if not {"port", *NAMES} <= cycles.keys():
        raise BenchError(f"the guest measured nothing: {(result.stdout + result.stderr).strip()}")
    return cycles


def run(runs: int) -> list[Figure]:
    """A figure for each kind of call."""
    samples = [sample() for _ in range(runs)]
    return [
        Figure(
            name=f"hypercall-{name}",
            unit="cycles",
            better="lower",
            ours=Side("hypercall", [cycles[name] for cycles in samples]),
            reference=Side("port-write", [cycles["port"] for cycles in samples]),
        )
        for name in NAMES
    ]
