# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run and report in their stable form. No figure decides a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import protection, vtl
from bench.build import BenchError
from bench.figure import Figure, Side
from tests.patience import patient

ROOT = Path(__file__).resolve().parents[3]
CALLS = ("null-fast", "get-register-slow", "get-register-fast")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=patient(110),
        cwd=ROOT,
    )


def test_list_names_every_benchmark() -> None:
    result = bench("--list")

    assert result.returncode == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "exits",
        "hypercall",
        "protection",
        "startup",
        "vtl",
    ]


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("exits", ["exits-1-vcpu", "exits-2-vcpu"]),
        (
            "hypercall",
            [
                "called-port-write",
                *(f"hypercall-{name}" for name in CALLS),
                *(f"hypercall-{name}-added" for name in CALLS),
                *(f"hypercall-{name}-floor" for name in CALLS),
                "bare-port-write-c",
                "called-port-write-c",
                *(f"hypercall-{name}-c" for name in CALLS),
            ],
        ),
        ("startup", ["first-instruction", "dummy-guest"]),
    ],
)
def test_each_figure_is_one_json_object(name: str, figures: list[str]) -> None:
    result = bench(name, "--json", "--runs", "1")

    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["name"] for record in records] == figures
    check(records)


def check(records: list[dict[str, Any]]) -> None:
    """What all figures of one run have."""
    for record in records:
        assert record["runs"] == 1 and record["unit"] and record["better"] in ("higher", "lower")
        assert record["ratio"] == pytest.approx(
            record["ours"]["median"] / record["reference"]["median"], abs=1e-3
        )
        assert record["ours"]["min"] <= record["ours"]["median"] <= record["ours"]["max"]


@pytest.mark.host
def test_figures_of_virtual_trust_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vtl, "CALLS", 50)  # enough to see that it works
    monkeypatch.setattr(vtl, "INTERRUPTS", 10)

    figures = vtl.run(1)

    assert [figure.name for figure in figures] == [
        "vtl-round-trip",
        *(f"vtl-switches-{vps}" for vps in ("1-vp", "2-vps", "4-vps")),
        *(
            f"vtl-latency-{source}-{activity}{suffix}{wait}"
            for source in ("deadline", "stimer", "ipi")
            for activity in ("spin", "halt")
            for wait in ["", "-kernel-wait"][: len(vtl.waits()) if source == "ipi" else 1]
            for suffix in ("", "-p99")
        ),
    ]
    check([figure.as_json() for figure in figures])


@pytest.mark.host
def test_figures_of_memory_protections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROUNDS", 3), ("TURNS", 50), ("LARGE_MIB", 4)):
        monkeypatch.setattr(protection, name, value)  # enough to see that it works

    figures = protection.run(1)

    names = [figure.name for figure in figures]
    assert names[:9] == [
        "protect-page",
        "unprotect-page",
        "protect-scattered",
        "unprotect-scattered",
        "protect-gib",
        "unprotect-gib",
        "intercept-turn",
        "intercept-open",
        "intercept-skip",
    ]
    assert names[-2:] == ["default-mask-time", "default-mask-memory"]
    check([figure.as_json() for figure in figures])
    assert figures[-1].ratio < 2  # memory grows with ranges, not with pages


def test_a_c_program_that_fails_is_one_line() -> None:
    with pytest.raises(BenchError, match="no round trips were measured"):
        vtl.Trips.read("usage: vtl_switch VPS CALLS")


def test_round_trips_are_two_switches() -> None:
    trips = vtl.Trips.read("round-trip of VP 0: 200 cycles\nall: 1000 cycles for 5 round trips\n")

    assert (trips.each, trips.switches_per_second(tsc_hz=500)) == (200.0, 5.0)


def test_a_ratio_is_ours_over_the_references_median() -> None:
    figure = Figure("f", "ms", "lower", Side("vmm", [1.0, 2.0, 9.0]), Side("qemu", [4.0, 8.0, 8.0]))

    assert figure.ratio == 0.25
    assert figure.as_json()["ratio"] == 0.25


@pytest.mark.parametrize("arguments", [["no-such-benchmark"], [], ["exits", "--runs", "0"]])
def test_usage_errors(arguments: list[str]) -> None:
    result = bench(*arguments)

    assert result.returncode == 2
    assert "Traceback" not in result.stderr
