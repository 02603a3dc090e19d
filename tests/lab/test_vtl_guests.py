# SPDX-License-Identifier: Apache-2.0
"""Our guests with Virtual Trust Levels on kvm_amd, without and with our kernel series.

vtlirq is left to the host: it counts ticks in less time than emulation takes.
"""

from __future__ import annotations

import re
from functools import cache

import pytest

from scripts.lab_vm import Lab
from tests.lab.guests import PASSED, Guests, run_guests

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

TIME_LIMIT = 1800.0
"""Seconds for all guests of a kernel, 150 on an idle machine."""
GUEST_TIME_LIMIT = 300
KERNELS = ("upstream", "patched")
EITHER = (
    "vtl2 1",
    "vtl2 2",
    "vtl2 4",
    "worlds 1",
    "worlds 2",
    "worlds 4",
    "vtlenable 2",
    "vtlswitch 2",
    "vtlregs 2",
    "vtltime 2",
    "vtlvina 2",
    "vtlaccess 2",
    "vtlwait 2 rounds=20",
    "vtlstress 4 seconds=10",
)
"""Guest, processors, arguments."""
RUNS = {
    # Only our series keeps INIT from a processor that runs.
    "upstream": (*EITHER, "vtlstart 5 no-init"),
    "patched": (*EITHER, "vtlstart 5"),
}


@cache
def _run(kernel: str) -> Guests:
    """All guests of a kernel in one lab."""
    runs = {}
    for run in RUNS[kernel]:
        guest, cpus, arguments = f"{run} ".split(" ", 2)
        runs[run] = f"{guest} --cpus {cpus} --append '{arguments.strip()}'"
    options = f"--machine vsm=on,vtls=3 --time-limit {GUEST_TIME_LIMIT}"
    return run_guests(Lab(kernel, time_limit=TIME_LIMIT), runs, options)


@pytest.mark.parametrize(("kernel", "run"), [(kernel, run) for kernel in KERNELS for run in RUNS[kernel]])
def test_every_check_passes(kernel: str, run: str) -> None:
    guest = _run(kernel)[run]

    assert guest.status == PASSED, guest.text[-6000:]
    assert re.search(r"^SUMMARY: ", guest.text, re.MULTILINE), guest.text[-6000:]
    assert "FAIL" not in guest.text, guest.text[-6000:]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_does_not_complain(kernel: str) -> None:
    lab = _run(kernel).lab

    assert lab.exit_status == 0, lab.report
    assert lab.warnings == ()
