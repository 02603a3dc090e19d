# SPDX-License-Identifier: Apache-2.0
"""kvm-unit-tests' Hyper-V tests; collected where KVM_UNIT_TESTS names a built tree (conftest.py).

hyperv_connections takes minutes where ring 0 is emulated: it waits by counting to sixty million.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.run.launch import ROOT
from tests.patience import patient

TREE = Path(os.environ.get("KVM_UNIT_TESTS", "/nonexistent"))
CONFIG = TREE / "x86" / "unittests.cfg"

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("name", "tests", "limit"),
    [
        ("hyperv_synic", 1, 60),
        ("hyperv_connections", 7, 600),
        ("hyperv_stimer", 12, 90),
        ("hyperv_stimer_direct", 8, 90),
        ("hyperv_clock", 3, 60),
    ],
)
@pytest.mark.timeout(660)
def test_passes(name: str, tests: int, limit: int) -> None:
    command = [sys.executable, "-m", "vmm", "test", str(CONFIG), "-k", name, "--timeout", str(patient(limit))]

    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=patient(limit) + 30)

    assert result.returncode == 0, result.stdout + result.stderr
    assert f"PASS {name} | {tests} tests, 0 failed" in result.stderr
