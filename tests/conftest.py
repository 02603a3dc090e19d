# SPDX-License-Identifier: Apache-2.0
"""What every test run shares: no test is decided by time, and each records what it proved of the checklist."""

from __future__ import annotations

import pytest
from hypothesis import settings

from scripts.spec.recorder import SpecRecorder

# A loaded machine makes any example slow; pytest-timeout is the watchdog.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder, whose files `make spec` reads."""
    config.pluginmanager.register(SpecRecorder(config), "spec-recorder")
