# SPDX-License-Identifier: Apache-2.0
"""Port and MSR intercepts on KVMs with hardware virtualization, where an OUT has had no effect yet when it exits."""

from __future__ import annotations

import sys

import pytest

from scripts.lab_vm import Lab
from tests.lab import emulation

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 600.0
"""Seconds for two guests, each of which takes 10 to 20 on an idle machine, Python's start included."""
GUEST_LIMIT = 200
GUESTS = ("vtlio", "vtlmsr")


@pytest.mark.tlfs("VSM-112", "VSM-113", "VSM-114", "VSM-117", "VSM-119", "VSM-120", "REG-013")
@pytest.mark.parametrize("kernel", ["upstream", "patched"])
def test_the_guests_pass(kernel: str) -> None:
    run = f"{sys.executable} -m vmm run firmware/build/%s.flat --machine vsm=on --cpus 2 --time-limit {GUEST_LIMIT}"
    lines = [f"{run % name} 2>&1; echo '=== {name}:' $?" for name in GUESTS]

    result = emulation.run(Lab(kernel, time_limit=LIMIT), ["sh", "-c", "\n".join(lines)])

    console = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.exit_status == 0, result.report or console[-3000:]
    assert result.warnings == ()
    assert "FAIL" not in console
    for name in GUESTS:
        assert f"=== {name}: 1\n" in console, console[-3000:]
