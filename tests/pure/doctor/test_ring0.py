# SPDX-License-Identifier: Apache-2.0
"""How the parent reads the children of the ring 0 experiment, with children that only talk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest

from kvmapi import Kvm
from vmm.backend import ring0
from vmm.backend.ring0 import INSTRUCTIONS, RATE, SYSTEM_CALL, Outcome, Ring0, measure_ring0

Line = dict[str, object]


class Children:
    """Stands in for `_child`: answers each experiment from `results`; one without an answer hangs the child."""

    def __init__(self, results: dict[str, object]) -> None:
        self.results = results
        self.started: list[list[str]] = []

    def __call__(self, names: Sequence[str]) -> Iterator[Line]:
        self.started.append(list(names))
        for name in names:
            yield {"trying": name}
            if name not in self.results:
                return
            yield {"result": self.results[name]}


def everything(**changes: object) -> dict[str, object]:
    results: dict[str, object] = dict.fromkeys([*INSTRUCTIONS, SYSTEM_CALL], "works")
    return results | {RATE: 2e9} | changes


def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(everything())
    monkeypatch.setattr(ring0, "_child", children)
    found = measure_ring0("GenuineIntel")
    assert (found.instructions_per_second, found.slow, found.error) == (2e9, False, "")
    assert set(found.having(Outcome.WORKS)) == {*INSTRUCTIONS, SYSTEM_CALL} - {"vmmcall"}
    assert len(children.started) == 1


@pytest.mark.parametrize(
    ("vendor", "tried"),
    [("AuthenticAMD", "vmmcall"), ("HygonGenuine", "vmmcall"), ("GenuineIntel", "vmcall"), ("", "vmcall")],
)
def test_only_the_vendors_hypercall_is_tried(
    monkeypatch: pytest.MonkeyPatch, vendor: str, tried: str
) -> None:
    monkeypatch.setattr(ring0, "_child", Children(everything()))
    assert {"vmcall", "vmmcall"} & set(measure_ring0(vendor).outcomes) == {tried}


def test_after_a_hang_a_new_child_does_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    results = everything()
    del results["clac"]
    children = Children(results)
    monkeypatch.setattr(ring0, "_child", children)
    found = measure_ring0("AuthenticAMD")
    assert found.having(Outcome.HANGS) == ["clac"]
    assert children.started[1] == children.started[0][children.started[0].index("clac") + 1 :]
    assert found.outcomes["vmmcall"] is Outcome.WORKS


def test_a_speed_that_cannot_be_measured_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    results = everything()
    del results[RATE]
    monkeypatch.setattr(ring0, "_child", Children(results))
    found = measure_ring0()
    assert (found.instructions_per_second, found.slow) == (0.0, False)
    assert len(found.outcomes) == len(INSTRUCTIONS)  # one hypercall less, and the system call


def test_an_error_ends_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(names: Sequence[str]) -> Iterator[Line]:
        yield {"trying": names[0]}
        yield {"error": "KVM_CREATE_VM failed"}

    monkeypatch.setattr(ring0, "_child", child)
    assert measure_ring0() == Ring0(0.0, {}, "KVM_CREATE_VM failed")


def test_a_child_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(names: Sequence[str]) -> Iterator[Line]:
        return iter(())

    monkeypatch.setattr(ring0, "_child", child)
    assert "without a result" in measure_ring0().error


def test_emulation_is_told_by_speed() -> None:
    assert [Ring0(rate).slow for rate in (1.7e6, 2.5e9)] == [True, False]


def test_the_child_reports_a_missing_device_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_kvm() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/dev/kvm")

    monkeypatch.setattr(Kvm, "open", staticmethod(no_kvm))
    assert ring0.main([RATE]) == 1
    assert "/dev/kvm" in json.loads(capsys.readouterr().out)["error"]
