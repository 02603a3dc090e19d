# SPDX-License-Identifier: Apache-2.0
"""`make spec` counts what is written down and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.spec import checklist, claims, classes, report, results
from scripts.spec.results import Result

ROOT = Path(__file__).resolve().parents[2]


def source(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def result(node: str, *ids: str, outcome: str = "passed", host: str = "") -> Result:
    return Result(node, host, list(ids), outcome, "2026-01-01T00:00:00+0000")


def one(
    implemented: claims.Places, tested: dict[str, set[str]], recorded: list[Result], item: str = "HC-003"
) -> report.Evidence:
    everything = report.gather(checklist.read_checklist(), implemented, tested, recorded)
    return next(evidence for evidence in everything if evidence.item.id == item)


def test_the_checklist_has_315_items() -> None:
    items = checklist.read_checklist()

    assert len({item.id for item in items}) == 315
    assert all(item.statement for item in items)


@pytest.mark.parametrize(
    ("item_id", "strength", "shelf"),
    [
        ("DISC-001", "M", None),
        ("HC-001", "MD", None),
        ("VP-004", "B", None),
        ("VSM-045", "M", None),
        ("LNX-001", "", None),
        ("MISC-006", "M", classes.NOT_OFFERED),
        ("OHCL-012", "", classes.ASKS_NOTHING),
        ("WIN-012", "", classes.NO_GUEST),
    ],
)
def test_an_item_s_properties(item_id: str, strength: str, shelf: str | None) -> None:
    item = next(item for item in checklist.read_checklist() if item.id == item_id)

    assert (item.strength, item.shelf.name if item.shelf else None) == (strength, shelf)


def test_classes_name_items_of_the_checklist_with_a_reason() -> None:
    assert classes.ITEMS.keys() <= {item.id for item in checklist.read_checklist()}
    names = (classes.NOT_OFFERED, classes.ASKS_NOTHING, classes.NO_GUEST)
    assert all(own.name in names and own.reason for own in classes.ITEMS.values())


def test_what_is_said_to_be_beyond_proof_is_not_said_to_be_implemented() -> None:
    assert classes.ITEMS.keys() & claims.implemented().keys() == set()


def test_what_cannot_be_shown_is_printed_with_its_reason() -> None:
    gathered = report.gather(checklist.read_checklist(), {}, {}, [])

    printed = list(report.lines(gathered, {"APIC-005"}, True))

    assert any(line.startswith("APIC-005 M  asks nothing  not yet") for line in printed)
    assert "  APIC-005    the APIC base may be fixed or not" in printed
    assert (
        "  3 of VSM    mode-based execute control, which no KVM has for this, nor our series: MbecVtlMask is 0"
        in printed
    )
    assert next(line for line in printed if line.startswith("APIC ")).split()[4:] == [
        *("1", "4"),  # one in a class, four open
        *("APIC-001", "APIC-002", "APIC-003", "APIC-004"),
    ]


def test_a_statement_is_the_first_sentence() -> None:
    item = next(item for item in checklist.read_checklist() if item.id == "HC-013")

    assert item.statement == "Unknown code: status 2."


def test_a_checklist_of_another_size_is_refused(tmp_path: Path) -> None:
    source(tmp_path, "list.md", "- **HC-001 [M]** One item. `S:` none.\n")

    with pytest.raises(ValueError, match="has 1 items, 1 different: expected 315"):
        checklist.read_checklist(tmp_path / "list.md")


def test_implemented_is_what_implements_lines_say(tmp_path: Path) -> None:
    source(tmp_path, "vmm/a.py", '"""Text.\n\nImplements: HC-001, HC-002\n"""\n# Implements: HC-003.\n')
    source(
        tmp_path,
        "vmm/b/c.py",
        '"""About HC-009.\n\n    Implements: HC-001,\n    HC-004\n    More text.\n"""\n',
    )

    assert claims.implemented(tmp_path) == {
        "HC-001": ["vmm/a.py:3", "vmm/b/c.py:3"],
        "HC-002": ["vmm/a.py:3"],
        "HC-003": ["vmm/a.py:5"],
        "HC-004": ["vmm/b/c.py:3"],
    }


@pytest.mark.parametrize("claim", ["HC-1", "HC-001 to HC-004", "hc-001", "", "HC-001, and more"])
def test_a_claim_that_is_no_list_of_ids_is_refused(tmp_path: Path, claim: str) -> None:
    source(tmp_path, "vmm/a.py", f'"""Implements: {claim}"""\n')

    with pytest.raises(claims.ClaimError, match=r"vmm/a\.py:1: after `Implements:` expected ids"):
        claims.implemented(tmp_path)


def test_marks_are_found_on_functions_classes_parameters_and_modules(tmp_path: Path) -> None:
    source(
        tmp_path,
        "tests/pure/test_a.py",
        "import pytest\n"
        "pytestmark = [pytest.mark.tlfs('HC-001')]\n"
        "@pytest.mark.tlfs('HC-002', 'HC-003')\n"
        "def test_one(): ...\n"
        "@pytest.mark.tlfs('HC-004')\n"
        "class TestGroup:\n"
        "    @pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.tlfs('HC-005'))])\n"
        "    def test_two(self, x): ...\n"
        "def helper(): ...\n",
    )
    source(tmp_path, "tests/pure/test_b.py", "def test_three(): ...\n")

    assert claims.tested(tmp_path) == {
        "tests/pure/test_a.py::test_one": {"HC-001", "HC-002", "HC-003"},
        "tests/pure/test_a.py::TestGroup::test_two": {"HC-001", "HC-004", "HC-005"},
    }


def test_a_mark_that_is_computed_is_refused(tmp_path: Path) -> None:
    source(tmp_path, "tests/test_a.py", "import pytest\n@pytest.mark.tlfs(ID)\ndef test_one(): ...\n")

    with pytest.raises(claims.ClaimError, match=r"tests/test_a\.py:2: tlfs\(\) takes ids as plain strings"):
        claims.tested(tmp_path)


PLACES = {"HC-003": ["vmm/a.py:1"]}
TEST = "tests/pure/test_a.py::test_one"
CLAIMED = {TEST: {"HC-003"}}


def test_proven_needs_code_and_a_passed_test() -> None:
    evidence = one(PLACES, CLAIMED, [result(TEST, "HC-003")])

    assert evidence.state == "proven"


@pytest.mark.parametrize(
    ("implemented", "tested", "recorded", "state"),
    [
        ({}, CLAIMED, [result(TEST, "HC-003")], "not yet"),  # no code says so
        (PLACES, CLAIMED, [], "implemented"),  # never run
        (PLACES, CLAIMED, [result(TEST, "HC-003", outcome="skipped")], "implemented"),
        (PLACES, CLAIMED, [result(TEST, "HC-003", outcome="failed")], "implemented"),
        (PLACES, {}, [result(TEST, "HC-003")], "implemented"),  # the test no longer claims it
        (PLACES, CLAIMED, [result(TEST, "HC-004")], "implemented"),  # it claimed something else when it ran
        (
            PLACES,
            CLAIMED,
            [result(f"{TEST}[1]", "HC-003"), result(f"{TEST}[2]", "HC-003", outcome="failed")],
            "implemented",
        ),
        (
            PLACES,
            CLAIMED,
            [result(TEST, "HC-003"), result(TEST, "HC-003", outcome="failed", host="lab")],
            "implemented",
        ),
    ],
)
def test_less_does_not_prove_it(
    implemented: claims.Places, tested: dict[str, set[str]], recorded: list[Result], state: str
) -> None:
    assert one(implemented, tested, recorded).state == state


@pytest.mark.parametrize(
    ("implemented", "tested", "message"),
    [
        ({"HC-999": ["vmm/a.py:1"]}, {}, r"vmm/a\.py:1 implements HC-999"),
        ({}, {TEST: {"XX-001"}}, "test_one claims XX-001"),
    ],
)
def test_an_unknown_item_is_an_error(
    implemented: claims.Places, tested: dict[str, set[str]], message: str
) -> None:
    with pytest.raises(claims.ClaimError, match=message):
        report.gather(checklist.read_checklist(), implemented, tested, [])


def test_the_last_line_counts() -> None:
    everything = report.gather(
        checklist.read_checklist(), PLACES | {"HC-004": ["vmm/a.py:1"]}, CLAIMED, [result(TEST, "HC-003")]
    )

    text = list(report.lines(everything, set(), recorded=True))

    assert text[-1] == "implemented 2 of 315, proven 1 of 315"
    assert sum(line.startswith(("HC-", "VSM-")) for line in text) == 22 + 133


def test_without_a_recorded_run_it_says_what_to_do() -> None:
    text = list(
        report.lines(report.gather(checklist.read_checklist(), PLACES, CLAIMED, []), set(), recorded=False)
    )

    assert "run `make test`" in text[-2]
    assert text[-1] == "implemented 1 of 315, proven 0 of 315"


def test_a_group_limits_what_is_listed_and_not_what_is_counted() -> None:
    everything = report.gather(checklist.read_checklist(), PLACES, CLAIMED, [result(TEST, "HC-003")])

    text = list(report.lines(everything, {"TLB"}, recorded=True))

    assert not any(line.startswith("HC-") for line in text)
    assert text[-1] == "implemented 1 of 315, proven 1 of 315"


def test_the_tree_s_own_claims_can_be_read() -> None:
    everything = report.gather(checklist.read_checklist(), claims.implemented(), claims.tested(), [])

    assert any(evidence.implemented and evidence.tests for evidence in everything)


def test_results_merge_by_test_and_host(tmp_path: Path) -> None:
    host_test = "tests/host/test_b.py::test_two"
    results.store(
        tmp_path, [result(TEST, "HC-003"), result(host_test, "HC-004", host="kvm_amd")], lambda _: False
    )

    results.store(tmp_path, [result(host_test, "HC-004", host="kvm_intel")], lambda _: False)

    assert {(found.node, found.host) for found in results.load(tmp_path)} == {
        (TEST, ""),
        (host_test, "kvm_amd"),
        (host_test, "kvm_intel"),
    }


PROJECT = {
    "tests/conftest.py": (ROOT / "tests/conftest.py").read_text(encoding="utf-8"),
    "tests/patience.py": (ROOT / "tests/patience.py").read_text(encoding="utf-8"),
    "pytest.ini": "[pytest]\nmarkers =\n    tlfs(*requirements): items\naddopts = --import-mode=importlib\n",
    "tests/pure/test_a.py": (
        "import pytest\n"
        "@pytest.mark.tlfs('HC-003')\n"
        "@pytest.mark.parametrize('good', [True, False])\n"
        "def test_one(good): assert good\n"
        "@pytest.mark.tlfs('HC-004')\n"
        "def test_two(): ...\n"
        "@pytest.mark.tlfs('HC-005')\n"
        "@pytest.mark.xfail\n"
        "def test_three(): assert False\n"
        "@pytest.fixture\n"
        "def broken(): yield 1; raise OSError\n"
        "@pytest.mark.tlfs('HC-006')\n"
        "def test_four(broken): ...\n"
        "def test_unmarked(): ...\n"
    ),
    "tests/host/test_b.py": "import pytest\n@pytest.mark.tlfs('HC-007')\ndef test_five(): ...\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with our recorder."""
    for name, text in PROJECT.items():
        source(tmp_path, name, text)
    return tmp_path


def run_pytest(project: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "VMM_SPEC_DIR": str(place),
        "VMM_SPEC_HOST": "test machine",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=60)


def run_tests(project: Path, *arguments: str) -> dict[str, str]:
    """Run pytest in the project; the recorded outcomes by test id and host."""
    run_pytest(project, project / "spec", *arguments)
    return {
        f"{found.node.removeprefix('tests/')}{'@' if found.host else ''}{found.host}": found.outcome
        for found in results.load(project / "spec")
    }


def test_a_run_records_each_marked_test(project: Path) -> None:
    recorded = run_tests(project, "tests")

    assert recorded == {
        "pure/test_a.py::test_one[True]": "passed",
        "pure/test_a.py::test_one[False]": "failed",
        "pure/test_a.py::test_two": "passed",
        "pure/test_a.py::test_three": "skipped",  # an expected failure shows nothing
        "pure/test_a.py::test_four": "failed",  # in its teardown
        "host/test_b.py::test_five@test machine": "passed",
    }
    stored = json.loads((project / "spec/pure.json").read_text(encoding="utf-8"))
    assert {row["node"].partition("::")[2]: row["ids"] for row in stored}["test_two"] == ["HC-004"]


def test_a_narrow_run_keeps_the_other_results(project: Path) -> None:
    before = run_tests(project, "tests")
    source(project, "tests/pure/test_a.py", PROJECT["tests/pure/test_a.py"].replace("assert good", "..."))

    after = run_tests(project, "tests/pure/test_a.py::test_one")

    assert after == before | {"pure/test_a.py::test_one[False]": "passed"}


def test_a_run_of_a_whole_file_forgets_tests_that_are_gone(project: Path) -> None:
    run_tests(project, "tests")
    source(
        project, "tests/pure/test_a.py", "import pytest\n@pytest.mark.tlfs('HC-004')\ndef test_two(): ...\n"
    )

    after = run_tests(project, "tests/pure")

    assert after == {"pure/test_a.py::test_two": "passed", "host/test_b.py::test_five@test machine": "passed"}


def test_collecting_records_nothing(project: Path) -> None:
    assert run_tests(project, "--collect-only", "tests") == {}


def test_a_run_that_is_cut_short_forgets_nothing(project: Path) -> None:
    before = run_tests(project, "tests")
    source(project, "tests/pure/test_c.py", "this is no Python")

    after = run_tests(project, "tests/pure")

    assert after == before


def test_a_place_that_cannot_be_written_fails_no_run(project: Path) -> None:
    source(project, "spec", "a file, where a folder is wanted")

    run = run_pytest(project, project / "spec", "tests/host")

    assert run.returncode == 0
    assert "spec: results not recorded:" in run.stdout
