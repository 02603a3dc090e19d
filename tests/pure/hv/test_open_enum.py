# SPDX-License-Identifier: Apache-2.0
"""Numbers from guests, with and without a name."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from vmm.hv import open_enum
from vmm.hv.call_codes import HypercallCode
from vmm.hv.status import HvStatus


def test_a_known_number_becomes_its_member() -> None:
    assert HvStatus.of(5) is HvStatus.INVALID_PARAMETER


def test_an_unknown_number_stays_a_number() -> None:
    assert HvStatus.of(0x7777) == 0x7777
    assert type(HvStatus.of(0x7777)) is int


def test_description_names_what_has_a_name() -> None:
    assert HypercallCode.describe(0x5C) == "HvCallPostMessage (0x5c)"
    assert HypercallCode.describe(0x7FFF) == "0x7fff"


def test_name_of() -> None:
    assert HvStatus.name_of(0) == "SUCCESS"
    assert HvStatus.name_of(1) is None


@given(st.integers())
def test_no_number_raises(number: int) -> None:
    assert HypercallCode.of(number) == number
    assert f"{number:#x}" in HypercallCode.describe(number)


def test_the_example_in_the_docstring() -> None:
    tried = doctest.testmod(open_enum)

    assert (tried.failed, tried.attempted) == (0, 3)
