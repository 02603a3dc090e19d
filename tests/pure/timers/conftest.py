# SPDX-License-Identifier: Apache-2.0
"""What the tests of synthetic timers share."""

from __future__ import annotations

import pytest

from tests.pure.timers.stimer_rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()
