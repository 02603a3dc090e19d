# SPDX-License-Identifier: Apache-2.0
"""Our guests with Virtual Trust Levels on kvm_amd, without and with our kernel series.

vtlirq is left to the host: it counts ticks in less time than emulation takes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from scripts.lab_vm import Lab, LabResult
from tests.lab import emulation

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
SCRIPT = f"""
while read -r guest cpus arguments; do
    echo "begins: $guest $cpus $arguments"
    {sys.executable} -m vmm run firmware/build/$guest.flat --machine vsm=on,vtls=3 --cpus $cpus \\
        --append "$arguments" --time-limit {GUEST_TIME_LIMIT} < /dev/null 2>&1
    status=$?
    echo
    echo "status: $status"
done
"""


def _run(kernel: str) -> LabResult:
    lines = "\\n".join(RUNS[kernel])
    script = f"printf '%b\\n' '{lines}' | ({SCRIPT})"
    return emulation.run(Lab(kernel, time_limit=TIME_LIMIT), ["sh", "-c", script])


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[LabResult]]]:
    """Both kernels at once: a lab keeps little more than one processor busy."""
    for kernel in KERNELS:
        Lab(kernel).image()
    with ThreadPoolExecutor(max_workers=len(KERNELS)) as pool:
        yield {kernel: pool.submit(_run, kernel) for kernel in KERNELS}


def _console(result: LabResult, run: str) -> str:
    """What a guest wrote, and its status."""
    text = result.stdout.decode(errors="replace").replace("\r\n", "\n")
    parts = re.split(r"^begins: (.*?) *$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(run, f"it did not begin:\n{text[-2000:]}")


@pytest.mark.parametrize(("kernel", "run"), [(kernel, run) for kernel in KERNELS for run in RUNS[kernel]])
def test_every_check_passes(runs: dict[str, Future[LabResult]], kernel: str, run: str) -> None:
    result = runs[kernel].result()

    console = _console(result, run)
    told = f"{console[-6000:]}\n{result.report}"
    assert re.search(r"^status: 1$", console, re.MULTILINE), told
    assert re.search(r"^SUMMARY: ", console, re.MULTILINE), told
    assert "FAIL" not in console, told


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_does_not_complain(runs: dict[str, Future[LabResult]], kernel: str) -> None:
    assert runs[kernel].result().warnings == ()
