# SPDX-License-Identifier: Apache-2.0
"""Random changes of rights, VTL calls and accesses by several processors, on this KVM and on a model of the rules.

The model is the guest's (`firmware/guests/vtlmodel.c`). A run that fails has printed its seed: `--append seed=N` makes
the same random numbers. With one processor it makes the same steps, and the fewest of them that fail are looked for;
`tests/host/protection/test_random_sequences.py` has single accesses, and shrinks them.
"""

from __future__ import annotations

import re
import secrets
import subprocess

import pytest

from tests.host.run.launch import guest, vmm_run

STEPS = 1000


def run_model(cpus: int, seed: int, steps: int) -> subprocess.CompletedProcess[str]:
    options = ("--machine", "vsm=on", "--cpus", str(cpus), "--append", f"steps={steps} seed={seed}")
    return vmm_run(guest("vtlmodel"), *options, "--time-limit", "100")


def differs(result: subprocess.CompletedProcess[str]) -> bool:
    """Not: whether each kind of access was refused and allowed, which a few steps may lack."""
    return "PASS: memory and model never differ" not in result.stdout


def fewest_steps(seed: int) -> int:
    """How many steps of one processor are enough to differ; STEPS are."""
    works, fails = 0, STEPS
    while fails - works > 1:
        middle = (works + fails) // 2
        if differs(run_model(1, seed, middle)):
            fails = middle
        else:
            works = middle
    return fails


@pytest.mark.host
@pytest.mark.timeout(300)  # a run takes seconds; a failure's steps are halved ten times
@pytest.mark.tlfs("VSM-078", "VSM-079", "VSM-080", "VSM-081")
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_memory_and_model_never_differ(cpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbits(32)

    result = run_model(cpus, seed, STEPS)

    if differs(result) and cpus == 1:
        steps = fewest_steps(seed)
        pytest.fail(
            f"with --append 'steps={steps} seed={seed}': {run_model(1, seed, steps).stdout}{result.stderr}"
        )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout and "SKIP" not in result.stdout
    counts = re.search(
        r"^(\d+) changes of rights, (\d+) VTL calls, (\d+) accesses", result.stdout, re.MULTILINE
    )
    assert counts is not None and sum(map(int, counts.groups())) == STEPS * cpus
    with capsys.disabled():
        print(
            f"\nrights and a model of them, {cpus} processors: {counts.string[counts.start() :].splitlines()[0]}"
        )
