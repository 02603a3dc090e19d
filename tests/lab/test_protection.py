# SPDX-License-Identifier: Apache-2.0
"""Memory protections on KVMs with hardware virtualization: the rules, the attack suite, the demo, resets."""

from __future__ import annotations

import re
from functools import cache

import pytest

from scripts.lab_vm import Lab
from tests.lab.guests import PASSED, Ended, Guests, run_guests

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 900.0
"""Seconds for eight guests, each of which takes 10 to 20 on an idle machine, Python's start included."""
GUEST_LIMIT = 150
ROWS = 244
"""Of the attack suite."""
SECRET = ".SEcRET."
"""VTL1's, in the attack suite."""
RUNS = {
    "rules": "vtlprotect",
    "rules, default mask of read and write": "vtlprotect --append mask=3",
    "reset": "vtlprotect --append reboot",
    "reset that keeps memory": "vtlprotect --append 'reboot keep'",
    "attacks": "attacks --append 'mask=3 reboot'",
    "crash": "attacks --append crash",
    "model": "vtlmodel --append steps=300",
    "demo": "worlds",
}
UPSTREAM_RUNS = {**RUNS, "attacks": "attacks --append reboot"}
"""Only the default mask of attributes is one of read and write."""
# What the lab's processor or any of its KVMs cannot do. Nothing else may be skipped on a patched kernel.
SKIPPED_UPSTREAM = re.compile(r"default mask 0x3|only the default mask protects")
SKIPPED_EVERYWHERE = re.compile(r"no AVX|INIT to a processor|register-writes: |VP assist page: not offered")


@cache
def all_runs(kernel: str) -> Guests:
    """All guests' runs on a kernel, in one lab."""
    runs = RUNS if kernel == "patched" else UPSTREAM_RUNS
    options = f"--machine vsm=on --cpus 2 --time-limit {GUEST_LIMIT}"
    return run_guests(Lab(kernel, time_limit=LIMIT), runs, options)


def skipped(guest: Ended) -> list[str]:
    """What a guest says that it left out, other than what nothing here has."""
    lines = [line for line in guest.text.splitlines() if line.startswith("SKIP")]
    return [line for line in lines if not SKIPPED_EVERYWHERE.search(line)]


@pytest.mark.tlfs(
    "VSM-006", "VSM-008", "VSM-009", "VSM-010", "VSM-070", "VSM-071", "VSM-072", "VSM-073", "VSM-074", "VSM-075",
    "VSM-076", "VSM-077", "VSM-078", "VSM-079", "VSM-080", "VSM-081", "VSM-085", "VSM-100", "VSM-101", "VSM-102",
    "VSM-103", "VSM-107", "VSM-108", "VSM-109", "VSM-112",
)  # fmt: skip
@pytest.mark.parametrize("name", [name for name in RUNS if name != "attacks"])
def test_a_kernel_with_attributes_enforces_all_of_it(name: str) -> None:
    guest = all_runs("patched")[name]

    assert guest.status == PASSED, guest.text[-3000:]
    assert "FAIL" not in guest.text
    assert skipped(guest) == []


@pytest.mark.tlfs(
    "VSM-039",
    "VSM-068",
    "VSM-082",
    "VSM-083",
    "VSM-084",
    "VSM-117",
    "VSM-119",
    "HC-005",
    "MISC-008",
    "IMP-007",
)
def test_no_attack_gets_through() -> None:
    guest = all_runs("patched")["attacks"]

    assert guest.status == PASSED, guest.text[-3000:]
    assert "FAIL" not in guest.text
    assert f"\n{ROWS} rows\n" in guest.text
    assert skipped(guest) == []
    assert "PASS: after a reset: and its data: no secret in 4 MiB" in guest.text


@pytest.mark.tlfs("MISC-002")
def test_a_crash_report_does_not_tell_a_secret() -> None:
    guest = all_runs("patched")["crash"]

    assert SECRET not in guest.text
    assert "the guest reports a crash" in guest.text


@pytest.mark.tlfs("VSM-077", "VSM-080", "VSM-082", "VSM-083", "VSM-084")
@pytest.mark.parametrize("name", RUNS)
def test_a_kernel_without_attributes_enforces_all_but_what_it_names(name: str) -> None:
    guest = all_runs("upstream")[name]

    assert guest.status == PASSED, guest.text[-3000:]
    assert "FAIL" not in guest.text
    assert name != "attacks" or f"\n{ROWS} rows\n" in guest.text
    assert [line for line in skipped(guest) if not SKIPPED_UPSTREAM.search(line)] == []
    assert SECRET not in guest.text


@pytest.mark.parametrize("kernel", ["patched", "upstream"])
def test_the_kernel_does_not_complain(kernel: str) -> None:
    lab = all_runs(kernel).lab

    assert lab.exit_status == 0, lab.report
    assert lab.warnings == ()
