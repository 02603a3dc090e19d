# SPDX-License-Identifier: Apache-2.0
"""How kvm-unit-tests' results on two kernels are compared."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.kut_regression import differences, passes_somewhere, replaced, table

GOOD = {"name": "memory", "verdict": "PASS", "tests": 7, "failures": 0, "skipped": 1, "seconds": 9.0}
BAD = GOOD | {"name": "msr", "verdict": "FAIL", "failures": 1, "skipped": 0}


def test_equal_results_are_no_difference_be_they_good_or_bad() -> None:
    # Times differ always.
    assert differences([GOOD, BAD], [GOOD | {"seconds": 90.0}, BAD]) == []


@pytest.mark.parametrize("change", [{"verdict": "TIMEOUT"}, {"tests": 6}, {"failures": 2}, {"skipped": 0}])
def test_whatever_a_guest_says_differently_is_a_difference(change: dict[str, Any]) -> None:
    assert differences([GOOD, BAD], [GOOD | change, BAD]) == ["memory"]


def test_where_no_guest_passes_nothing_was_compared() -> None:
    """As where QEMU does not start: both kernels then say the same."""
    assert passes_somewhere({"upstream": [BAD, GOOD], "patched": [BAD]})
    assert not passes_somewhere({"upstream": [BAD], "patched": [BAD]})
    assert not passes_somewhere({"upstream": [], "patched": []})


def test_a_guest_on_one_side_only_is_a_difference() -> None:
    assert differences([GOOD], [GOOD, BAD]) == ["msr"]
    assert differences([GOOD, BAD], [GOOD]) == ["msr"]


def test_the_table_has_a_row_per_guest_and_a_column_per_kernel() -> None:
    assert table({"upstream": [GOOD, BAD], "patched": [GOOD]}).splitlines() == [
        "| guest | upstream | patched |",
        "|---|---|---|",
        "| memory | PASS, 7 tests, 1 skipped | PASS, 7 tests, 1 skipped |",
        "| msr | FAIL, 7 tests, 1 failed | missing |",
    ]


def test_the_results_of_guests_that_ran_again_take_the_place_of_the_first() -> None:
    again = BAD | {"verdict": "PASS", "failures": 0}

    assert replaced([GOOD, BAD], [again]) == [GOOD, again]
