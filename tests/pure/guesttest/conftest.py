# SPDX-License-Identifier: Apache-2.0
"""Guests for the stand-in of `vmm run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pure.guesttest.standin_guests import STANDIN_COMMAND, MakeGuest
from vmm.guesttest.guests import Guest
from vmm.guesttest.targets import VmmTarget


@pytest.fixture
def make_guest(tmp_path: Path) -> MakeGuest:
    """`make_guest(name, *steps)`: a guest that makes the stand-in do `steps`."""

    def make(name: str, *steps: dict[str, Any]) -> Guest:
        image = tmp_path / f"{name}.flat"
        image.write_text(json.dumps(steps))
        return Guest(name, image)

    return make


@pytest.fixture
def standin() -> VmmTarget:
    """The target whose program is the stand-in."""
    return VmmTarget(command=STANDIN_COMMAND)
