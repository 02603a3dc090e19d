# SPDX-License-Identifier: Apache-2.0
"""Memory protections on KVMs with hardware virtualization: the rules, the attack suite, the demo, resets."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import pytest

from scripts.lab_vm import Lab
from tests.lab import emulation

# The first run builds the lab's kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 900.0
"""Seconds for eight guests, each of which takes 10 to 20 on an idle machine, Python's start included."""
GUEST_LIMIT = 150
PASSED = 1
"""The status of a guest without a failure."""
ROWS = 219
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


@dataclass(frozen=True)
class Ended:
    """One guest's run."""

    status: int
    text: str

    @property
    def skipped(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("SKIP")]


def run_all(kernel: str, runs: dict[str, str]) -> dict[str, Ended]:
    """Every guest of `runs` in one lab."""
    lines = []
    for name, run in runs.items():
        guest, _, rest = run.partition(" ")
        command = f"{sys.executable} -m vmm run firmware/build/{guest}.flat {rest} --machine vsm=on --cpus 2"
        lines.append(f"{command} --time-limit {GUEST_LIMIT} 2>&1; s=$?; echo; echo '=== {name}:' $s")
    result = emulation.run(Lab(kernel, time_limit=LIMIT), ["sh", "-c", "\n".join(lines)])
    console = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.exit_status == 0, result.report or console[-3000:]
    assert result.warnings == ()
    parts = re.split(r"^=== (.+): (\d+)$", console, flags=re.MULTILINE)
    return {
        name: Ended(int(status), text)
        for text, name, status in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    }


@pytest.fixture(scope="module")
def patched() -> dict[str, Ended]:
    return run_all("patched", RUNS)


@pytest.fixture(scope="module")
def upstream() -> dict[str, Ended]:
    return run_all("upstream", UPSTREAM_RUNS)


@pytest.mark.tlfs(
    "VSM-006", "VSM-008", "VSM-009", "VSM-010", "VSM-070", "VSM-071", "VSM-072", "VSM-073", "VSM-074", "VSM-075",
    "VSM-076", "VSM-077", "VSM-078", "VSM-079", "VSM-080", "VSM-081", "VSM-085", "VSM-100", "VSM-101", "VSM-102",
    "VSM-103", "VSM-107", "VSM-108", "VSM-109", "VSM-112",
)  # fmt: skip
@pytest.mark.parametrize("name", [name for name in RUNS if name != "attacks"])
def test_a_kernel_with_attributes_enforces_all_of_it(patched: dict[str, Ended], name: str) -> None:
    ended = patched[name]

    assert ended.status == PASSED, ended.text[-3000:]
    assert "FAIL" not in ended.text
    assert [line for line in ended.skipped if not SKIPPED_EVERYWHERE.search(line)] == []


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
def test_no_attack_gets_through(patched: dict[str, Ended]) -> None:
    ended = patched["attacks"]

    assert ended.status == PASSED, ended.text[-3000:]
    assert "FAIL" not in ended.text
    assert f"\n{ROWS} rows\n" in ended.text
    assert [line for line in ended.skipped if not SKIPPED_EVERYWHERE.search(line)] == []
    assert "PASS: after a reset: and its data: no secret in 4 MiB" in ended.text


@pytest.mark.tlfs("MISC-002")
def test_a_crash_report_does_not_tell_a_secret(patched: dict[str, Ended]) -> None:
    assert SECRET not in patched["crash"].text
    assert "the guest reports a crash" in patched["crash"].text


@pytest.mark.tlfs("VSM-077", "VSM-080", "VSM-082", "VSM-083", "VSM-084")
@pytest.mark.parametrize("name", RUNS)
def test_a_kernel_without_attributes_enforces_all_but_what_it_names(
    upstream: dict[str, Ended], name: str
) -> None:
    ended = upstream[name]

    assert ended.status == PASSED, ended.text[-3000:]
    assert "FAIL" not in ended.text
    assert name != "attacks" or f"\n{ROWS} rows\n" in ended.text
    skipped = [line for line in ended.skipped if not SKIPPED_EVERYWHERE.search(line)]
    assert [line for line in skipped if not SKIPPED_UPSTREAM.search(line)] == []
    assert SECRET not in ended.text
