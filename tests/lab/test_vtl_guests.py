# SPDX-License-Identifier: Apache-2.0
"""Our guests with Virtual Trust Levels on kvm_amd, without and with our kernel series.

vtlirq and vtlregs are left to the host: the first counts ticks in less time than emulation takes, the second writes
CR8, at which QEMU 7.2's software emulation may end itself (an assertion in tcg_handle_interrupt).
"""

from __future__ import annotations

import re
import sys

import pytest

from scripts.lab_vm import Lab
from scripts.lab_vm.places import CHECKOUT

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

TIME_LIMIT = 900.0
"""Seconds for all guests, 90 on an idle machine."""
GUESTS = ("worlds", "vtlenable", "vtlswitch", "vtltime", "vtlvina", "vtlaccess")


@pytest.mark.parametrize("kernel", ["upstream", "patched"])
def test_every_check_passes(kernel: str) -> None:
    run = f"{sys.executable} -m vmm run firmware/build/$guest.flat --machine vsm=on --cpus 2 --time-limit 200"
    script = f"for guest in {' '.join(GUESTS)}; do {run}; status=$?; echo; echo $guest ended with $status; done"

    result = Lab(kernel, time_limit=TIME_LIMIT).run(["sh", "-c", script], directory=CHECKOUT)

    console = result.stdout.decode(errors="replace")
    told = result.report or console[-6000:] + result.stderr.decode(errors="replace")
    assert re.findall(r"^(\w+) ended with (\d+)", console, re.MULTILINE) == [
        (name, "1") for name in GUESTS
    ], told
    assert "FAIL" not in console, told
    assert len(re.findall(r"^SUMMARY: ", console, re.MULTILINE)) == len(GUESTS)
    assert result.warnings == ()
