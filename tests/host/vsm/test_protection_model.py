# SPDX-License-Identifier: Apache-2.0
"""Random changes of rights, VTL calls and accesses by several processors, on this KVM and on a model of the rules.

The model is the guest's (`firmware/guests/vtlmodel.c`). A run that fails has printed its seed: `--append seed=N` makes
the same random numbers.
"""

from __future__ import annotations

import re

import pytest

from tests.host.run.launch import guest, vmm_run

STEPS = 1000


@pytest.mark.host
@pytest.mark.timeout(150)
@pytest.mark.tlfs("VSM-078", "VSM-079", "VSM-080", "VSM-081")
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_memory_and_model_never_differ(cpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--machine", "vsm=on", "--cpus", str(cpus), "--append", f"steps={STEPS}")

    result = vmm_run(guest("vtlmodel"), *options, "--time-limit", "100")

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
