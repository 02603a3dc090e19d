# SPDX-License-Identifier: Apache-2.0
"""What the stand-in of `vmm run` is told to do, for the usual ends of a guest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmm.guesttest.guests import Guest

MakeGuest = Callable[..., Guest]
Steps = list[dict[str, Any]]

STANDIN_COMMAND = (sys.executable, "-S", "-E", str(Path(__file__).with_name("standin.py")))
PASSED: Steps = [{"print": "PASS: a\r\nSUMMARY: 1 tests\r\n"}, {"end": ["debug-exit", 1, ""]}]
FAILED: Steps = [
    {"print": "FAIL: a\r\nSUMMARY: 1 tests, 1 unexpected failures\r\n"},
    {"end": ["debug-exit", 3, ""]},
]
SKIPPED: Steps = [{"print": "SUMMARY: 0 tests\r\n"}, {"end": ["debug-exit", 77, ""]}]
