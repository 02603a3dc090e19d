# SPDX-License-Identifier: Apache-2.0
"""Our Hyper-V guest on KVMs with hardware virtualization: hypercalls by instruction and by port, overlays, faults."""

from __future__ import annotations

import sys

import pytest

from scripts.lab_vm import Lab
from scripts.lab_vm.places import CHECKOUT

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

BOOT_LIMIT = 400.0
"""Seconds for Python's start and a guest's 55 checks, 20 on an idle machine."""
MARKER = "guest status"
RUN = f"{sys.executable} -m vmm run firmware/build/hyperv.flat --cpus 2 --machine hyperv=on --time-limit 150"


@pytest.mark.tlfs("HCP-007", "HCP-009", "HCP-013")
@pytest.mark.parametrize(
    ("kernel", "exits", "trap"),
    [
        ("patched", "on", "0f 01 d9"),
        ("patched", "off", "e6 ec c3"),
        ("upstream", "off", "e6 ec c3"),
    ],
    ids=["vmmcall", "port write", "port write, upstream"],
)
def test_our_guest_finds_the_interface_as_announced(kernel: str, exits: str, trap: str) -> None:
    script = f"{RUN} --cpu max,hv-hypercall-exits={exits}; echo '{MARKER}:' $?"

    result = Lab(kernel, time_limit=BOOT_LIMIT).run(["sh", "-c", script], directory=CHECKOUT)

    console = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.exit_status == 0, result.report or result.stderr.decode() + console[-3000:]
    assert f"{MARKER}: 1\n" in console, result.stderr.decode() + console[-3000:]  # debug exit 0
    assert f"trap: {trap}\n" in console
    assert "FAIL" not in console
    assert "internal error" not in result.stderr.decode()
    assert result.warnings == ()
