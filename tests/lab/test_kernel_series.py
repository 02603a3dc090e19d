# SPDX-License-Identifier: Apache-2.0
"""`tests/kernel` on the lab's kernels, under each of KVM's MMUs; the host ring on a host that has our series."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.lab_vm import Lab, LabResult
from scripts.lab_vm.places import CHECKOUT
from scripts.lab_vm.suite import HOST_RING, JUNIT_DIR, read_counts

# The first run builds the kernels.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LIMIT = 900.0
"""Seconds for some 350 tests, which take about 40 on an idle machine."""
TESTS_AT_LEAST = 300
KERNEL_TESTS = ["sh", "-c", f'.venv/bin/pytest tests/kernel --junitxml="${JUNIT_DIR}/kernel.xml"']
MMUS = {
    "npt": [],
    "npt-without-tdp-mmu": ["kvm.tdp_mmu=0"],
    "shadow-paging": ["kvm_amd.npt=0"],
    "small-executable-pages": ["kvm.nx_huge_pages=force"],
}
# Of tests/host a part is enough to see that it runs beside tests/kernel.
HOST_RING_IN_PART = [HOST_RING, "-k", "test_kick or test_inactive_vtl"]


@dataclass(frozen=True)
class Case:
    """A kernel, how it is booted, and what it runs."""

    kernel: str
    command: list[str]
    arguments: list[str] = field(default_factory=list)


CASES = {
    "upstream": Case("upstream", KERNEL_TESTS),
    **{mmu: Case("patched", KERNEL_TESTS, arguments) for mmu, arguments in MMUS.items()},
    "host ring": Case("patched", HOST_RING_IN_PART),
}


@dataclass(frozen=True)
class Ended:
    result: LabResult
    results: Path

    def check(self) -> None:
        """Tests ran, all of them passed, and the kernel did not complain."""
        said = self.result.stdout.decode(errors="replace")[-6000:] + self.result.stderr.decode()
        assert self.result.exit_status == 0, self.result.report or said
        counts = read_counts(self.results)
        assert counts.tests >= TESTS_AT_LEAST and counts.are_good and counts.skipped == 0, counts
        assert self.result.warnings == ()


def run(name: str, results: Path) -> Ended:
    case = CASES[name]
    lab = Lab(case.kernel, time_limit=LIMIT, results=results, kernel_arguments=case.arguments)
    environment = {JUNIT_DIR: str(results)}
    return Ended(lab.run(case.command, directory=CHECKOUT, environment=environment), results)


def test_the_features_are_absent_from_the_unpatched_kernel(tmp_path: Path) -> None:
    ended = run("upstream", tmp_path)

    ended.check()
    assert b"VSM series: none" in ended.result.stdout


@pytest.mark.parametrize("mmu", MMUS)
def test_the_features_are_those_of_the_patched_kernel(tmp_path: Path, mmu: str) -> None:
    ended = run(mmu, tmp_path)

    ended.check()
    assert b"VSM series: ours, features 0x1ff" in ended.result.stdout


def test_the_host_ring_tests_the_kernel_of_a_host_with_our_series(tmp_path: Path) -> None:
    """Inside, the lab is a host whose own /dev/kvm has it."""
    ended = run("host ring", tmp_path)

    said = ended.result.stdout
    assert ended.result.exit_status == 0, ended.result.report or said.decode(errors="replace")[-6000:]
    assert b"this host's KVM has our VSM series (fault_access, fault_insn, rwx_" in said
    assert 'classname="tests.kernel.test_inactive_vtl"' in (ended.results / "kernel.xml").read_text()
    assert 'classname="tests.host.kvmapi.test_kick"' in (ended.results / "host.xml").read_text()
