# SPDX-License-Identifier: Apache-2.0
"""Every test run records what it proved of the checklist: `make spec` reads it."""

from __future__ import annotations

import pytest

from scripts.spec.recorder import SpecRecorder


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder."""
    config.pluginmanager.register(SpecRecorder(config), "spec-recorder")
