# SPDX-License-Identifier: Apache-2.0
"""The limit of open files: left alone, raised, or too low."""

from __future__ import annotations

import resource

import pytest

from vmm.machine import open_files
from vmm.machine.config import ConfigError

Limits = tuple[int, int]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[Limits]:
    """The limits that `allow` finds, and behind them those that it sets."""
    known: list[Limits] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: known[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: known.append(pair))
    return known


def test_a_small_machine_changes_no_limit(limits: list[Limits]) -> None:
    limits.append((1024, 20000))

    open_files.allow(4)

    assert limits == [(1024, 20000)]


def test_a_big_machine_gets_the_hard_limit(limits: list[Limits]) -> None:
    limits.append((1024, 20000))

    open_files.allow(600)  # two files each are more than 1024

    assert limits[-1] == (20000, 20000)


@pytest.mark.parametrize("pair", [(1024, resource.RLIM_INFINITY), (resource.RLIM_INFINITY,) * 2])
def test_no_limit_is_enough(limits: list[Limits], pair: Limits) -> None:
    limits.append(pair)

    open_files.allow(1024)

    assert limits[-1] == (resource.RLIM_INFINITY,) * 2


def test_a_hard_limit_that_is_too_low_names_the_number_needed(limits: list[Limits]) -> None:
    limits.append((1024, 1024))

    with pytest.raises(
        ConfigError, match=r"600 processors need 1\d\d\d open files, this process may have 1024"
    ):
        open_files.allow(600)


def test_processors_and_files_convert_both_ways() -> None:
    assert [open_files.processors_for(open_files.files_for(n)) for n in (1, 8, 1024)] == [1, 8, 1024]
    assert open_files.processors_for(10) == 0
