# SPDX-License-Identifier: Apache-2.0
"""KVM as this host has it: nothing is skipped, what a host cannot do exactly has its own expectation."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.host.protection.world import KICK


@pytest.fixture(autouse=True)
def kick_handler() -> Iterator[None]:
    """KICK interrupts system calls and does nothing else."""
    before = signal.signal(KICK, lambda number, frame: None)
    yield
    signal.signal(KICK, before)
