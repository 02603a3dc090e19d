# SPDX-License-Identifier: Apache-2.0
"""What `scripts/lab test` makes of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmapi.vsm_support import VsmSeries, VsmSupport
from scripts.host_series import sentence
from scripts.lab_vm import LabError, LabResult, Outcome
from scripts.lab_vm.kernel_log import Trouble
from scripts.lab_vm.progress import Progress
from scripts.lab_vm.suite import Counts, Tagged, read_counts, run_on_kernels, verdict

PASSED = '<testsuites><testsuite tests="3" failures="0" errors="0" skipped="0"/></testsuites>'
FAILED = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1"/></testsuites>'
NOTHING = '<testsuites><testsuite tests="0" failures="0" errors="0" skipped="0"/></testsuites>'
SKIPPED = '<testsuites><testsuite tests="3" failures="0" errors="0" skipped="3"/></testsuites>'
COMPLAINT = Trouble("WARNING: CPU: 0", (), False)


@pytest.fixture
def junit(tmp_path: Path) -> Path:
    return tmp_path / "junit.xml"


def test_counts_are_summed_over_suites(junit: Path) -> None:
    junit.write_text(f"<testsuites>{PASSED[12:-13]}{FAILED[12:-13]}</testsuites>")

    assert read_counts(junit.parent) == Counts(6, 1, 0, 1)
    assert str(read_counts(junit.parent)) == "4 passed, 1 failed, 1 skipped"


def test_counts_are_summed_over_files(junit: Path) -> None:
    junit.write_text(PASSED)
    junit.with_name("other.xml").write_text(FAILED)

    assert read_counts(junit.parent) == Counts(6, 1, 0, 1)


@pytest.mark.parametrize("text", ["", "<testsuite", '<testsuite tests="many"/>'])
def test_damaged_results_are_an_error(junit: Path, text: str) -> None:
    junit.write_text(text)

    with pytest.raises(LabError, match="damaged test results in"):
        read_counts(junit.parent)


@pytest.mark.parametrize(
    ("text", "status", "warnings", "passed"),
    [
        (PASSED, 0, (), True),
        (FAILED, 1, (), False),
        # pytest passed, but what followed it did not.
        (PASSED, 1, (), False),
        (NOTHING, 0, (), False),
        (SKIPPED, 0, (), False),
        (PASSED, 0, (COMPLAINT,), False),
    ],
)
def test_a_kernel_passes_when_tests_ran_all_passed_and_it_did_not_complain(
    junit: Path, text: str, status: int, warnings: tuple[Trouble, ...], passed: bool
) -> None:
    junit.write_text(text)
    result = LabResult(Outcome.EXITED, status, junit, warnings=warnings)

    assert verdict(result, junit.parent)[0] is passed


def test_without_results_it_failed(junit: Path) -> None:
    passed, words = verdict(LabResult(Outcome.EXITED, 0, junit), junit.parent)

    assert not passed and "no test results" in words


def test_a_crash_is_told_with_its_report(junit: Path) -> None:
    junit.write_text(PASSED)

    assert verdict(LabResult(Outcome.PANIC, 125, junit, report="the kernel crashed: why"), junit.parent) == (
        False,
        "the kernel crashed: why",
    )


def test_output_is_tagged_by_whole_lines_and_kept_as_it_was(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    output = Tagged("patched", tmp_path / "output.txt")

    for piece in (b"one\ntw", b"o\nrest"):
        output.stdout(piece)
    output.close()

    assert capfdbinary.readouterr().out == b"patched: one\npatched: two\npatched: rest\n"
    assert (tmp_path / "output.txt").read_bytes() == b"one\ntwo\nrest"


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (VsmSupport(VsmSeries.NONE, 0), "no VSM"),
        (VsmSupport(VsmSeries.OURS, 0x41), "our VSM series (fault_access, inactive_vtl)"),
        (VsmSupport(VsmSeries.ORIGINAL, 1), "the original VSM series of June 2024 (fault_access)"),
    ],
)
def test_the_host_ring_says_what_the_host_has(support: VsmSupport, words: str) -> None:
    assert words in sentence(support)


def test_kernels_of_the_same_name_are_refused(tmp_path: Path) -> None:
    kernels = ["a/bzImage", "b/bzImage"]

    with pytest.raises(LabError, match="same folder"):
        run_on_kernels(kernels, tmp_path, 60.0, 1, "1G", ["true"], Progress(quiet=True))
