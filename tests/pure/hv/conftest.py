# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the ABI tests."""

from __future__ import annotations

import pytest

from tests.pure.hv.tables import Announce


@pytest.fixture
def announce(capsys: pytest.CaptureFixture[str]) -> Announce:
    """Print a line that shows in every run: how many numbers were compared."""

    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return show
