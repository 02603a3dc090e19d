# SPDX-License-Identifier: Apache-2.0
"""What every test run shares: each records what it proved of the checklist.

Short, for what is imported here is imported in the lab, where Python is some 25 times slower.
"""

from __future__ import annotations

import signal

import pytest

from scripts.spec.recorder import SpecRecorder
from tests.patience import SLOWNESS, patient


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder, whose files `make spec` reads; let children take signals as from a terminal."""
    # A job in the background of a shell inherits SIGINT and SIGQUIT ignored, and so would every program under test.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, handler)
    config.pluginmanager.register(SpecRecorder(config), "spec-recorder")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The watchdogs of all tests are as patient as the machine is slow."""
    if SLOWNESS == 1:
        return
    usual = float(config.getini("timeout") or 0)
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = float(mark.args[0]) if mark is not None else usual
        item.add_marker(pytest.mark.timeout(patient(seconds)), append=False)
