# SPDX-License-Identifier: Apache-2.0
"""`tests/kernel` on the lab's kernels, under each of KVM's MMUs; the host ring on a host that has our series."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lab_vm import Lab, LabResult
from scripts.lab_vm.places import CHECKOUT
from scripts.lab_vm.suite import HOST_RING, read_counts

# The first run builds the kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 900.0
"""Seconds for some 350 tests, which take about 40 on an idle machine."""
TESTS_AT_LEAST = 300

MMUS = {
    "npt": [],
    "npt-without-tdp-mmu": ["kvm.tdp_mmu=0"],
    "shadow-paging": ["kvm_amd.npt=0"],
    "small-executable-pages": ["kvm.nx_huge_pages=force"],
}


def run(kernel: str, results: Path, command: list[str], kernel_arguments: list[str]) -> LabResult:
    lab = Lab(kernel, time_limit=LIMIT, results=results, kernel_arguments=kernel_arguments)
    return lab.run([*command, f"--junitxml={results}/junit.xml"], directory=CHECKOUT)


def check(result: LabResult, results: Path) -> None:
    said = result.report or result.stdout.decode(errors="replace")[-6000:] + result.stderr.decode()
    assert result.exit_status == 0, said
    counts = read_counts(results / "junit.xml")
    assert counts.tests >= TESTS_AT_LEAST and counts.are_good and counts.skipped == 0, counts
    assert result.warnings == ()


def test_the_features_are_absent_from_the_unpatched_kernel(tmp_path: Path) -> None:
    result = run("upstream", tmp_path, [".venv/bin/pytest", "tests/kernel"], [])

    check(result, tmp_path)
    assert b"VSM series: none" in result.stdout


@pytest.mark.parametrize("arguments", MMUS.values(), ids=MMUS)
def test_the_features_are_those_of_the_patched_kernel(tmp_path: Path, arguments: list[str]) -> None:
    result = run("patched", tmp_path, [".venv/bin/pytest", "tests/kernel"], arguments)

    check(result, tmp_path)
    assert b"VSM series: ours, features 0x7f" in result.stdout


def test_the_host_ring_tests_the_kernel_of_a_host_with_our_series(tmp_path: Path) -> None:
    """Inside, the lab is a host whose own /dev/kvm has it. Of tests/host a part is enough to see that both run."""
    some = ["-k", "test_kick or test_inactive_vtl"]

    result = run("patched", tmp_path, [HOST_RING, *some], [])

    assert result.exit_status == 0, result.report or result.stdout.decode(errors="replace")[-6000:]
    assert b"host ring: this host's KVM has our VSM series (fault_access, fault_insn, rwx_" in result.stdout
    junit = (tmp_path / "junit.xml").read_text()
    assert 'classname="tests.kernel.test_inactive_vtl"' in junit
    assert 'classname="tests.host.kvmapi.test_kick"' in junit
