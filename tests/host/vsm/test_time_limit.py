# SPDX-License-Identifier: Apache-2.0
"""A guest that hangs: the time limit ends it and says what each VTL of each VP waits for."""

from __future__ import annotations

import re

import pytest

from tests.host.run.launch import guest, vmm_run

pytestmark = [pytest.mark.host, pytest.mark.timeout(100)]


def test_the_report_has_each_vtl_of_each_processor() -> None:
    options = ("--machine", "vsm=on", "--cpus", "2", "--append", "seconds=600", "--time-limit", "4")

    result = vmm_run(guest("vtlstress"), *options)

    assert result.returncode == 124
    assert re.findall(r"^VP (\d):$", result.stderr, re.MULTILINE) == ["0", "1"]
    assert len(re.findall(r"^  VTL[01] (?:runs|waits): rip=[0-9a-f]+ ", result.stderr, re.MULTILINE)) == 4
    assert len(re.findall(r"^  VTL[01] runs", result.stderr, re.MULTILINE)) == 2
