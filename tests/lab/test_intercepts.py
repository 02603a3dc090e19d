# SPDX-License-Identifier: Apache-2.0
"""Port and MSR intercepts on KVMs with hardware virtualization, where an OUT has had no effect yet when it exits."""

from __future__ import annotations

import pytest

from scripts.lab_vm import Lab
from tests.lab.guests import PASSED, run_guests

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 600.0
"""Seconds for two guests, each of which takes 10 to 20 on an idle machine, Python's start included."""
GUEST_LIMIT = 200
GUESTS = ("vtlio", "vtlmsr")


@pytest.mark.tlfs("VSM-112", "VSM-113", "VSM-114", "VSM-117", "VSM-119", "VSM-120", "REG-013")
@pytest.mark.parametrize("kernel", ["upstream", "patched"])
def test_the_guests_pass(kernel: str) -> None:
    options = f"--machine vsm=on --cpus 2 --time-limit {GUEST_LIMIT}"

    guests = run_guests(Lab(kernel, time_limit=LIMIT), {name: name for name in GUESTS}, options)

    assert guests.lab.exit_status == 0, guests.lab.report
    assert guests.lab.warnings == ()
    for name in GUESTS:
        assert guests[name].status == PASSED, guests[name].text[-3000:]
        assert "FAIL" not in guests[name].text
