# SPDX-License-Identifier: Apache-2.0
"""Time limits grow with the host's slowness, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm.backend.ring0 import SLOW_BELOW, Ring0
from vmm.guesttest.guests import Guest
from vmm.guesttest.host_speed import MOST_PATIENCE, patience
from vmm.guesttest.runner import DEFAULT_TIMEOUT_S, Runner
from vmm.guesttest.targets import VmmTarget


@pytest.mark.parametrize(
    ("instructions_per_second", "factor"),
    [
        (0.0, 1.0),  # not measured
        (2e9, 1.0),
        (SLOW_BELOW, 1.0),
        (SLOW_BELOW / 2, 2.0),
        (1.7e6, MOST_PATIENCE),
    ],
)
def test_patience(instructions_per_second: float, factor: float) -> None:
    assert patience(Ring0(instructions_per_second)) == factor


@pytest.mark.parametrize(("timeout_s", "limit_s"), [(None, 3 * DEFAULT_TIMEOUT_S), (20.0, 20.0), (0.0, 0.0)])
def test_a_limit_that_the_user_sets_stays_as_it_is(timeout_s: float | None, limit_s: float) -> None:
    runner = Runner(VmmTarget(), timeout_s=timeout_s, patience=lambda: 3.0)

    assert runner.limit_s(Guest("a", Path("a.flat"))) == limit_s
