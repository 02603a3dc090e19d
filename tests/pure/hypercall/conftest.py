# SPDX-License-Identifier: Apache-2.0
"""Says after the tests how many hypercalls the property tests have made."""

from __future__ import annotations

import pytest

from tests.pure.hypercall import any_input


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if any_input.made:
        terminalreporter.write_line(f"hypercall property tests: {any_input.made:,} inputs")
