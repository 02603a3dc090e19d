# SPDX-License-Identifier: Apache-2.0
"""Several guests in one lab, one after the other: each guest's console and status."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.lab_vm import Lab, LabResult
from tests.lab import emulation
from tests.lab.in_turn import BEGINS, ENDS

PASSED = 1
"""The status of a guest without a failure: what it wrote to the debug exit device is 0."""


@dataclass(frozen=True)
class Ended:
    """One guest's run. `status` is None if the lab ended first."""

    status: int | None
    text: str


@dataclass(frozen=True)
class Guests:
    """All guests' runs by name, as far as they began, and the lab's."""

    lab: LabResult
    by_name: dict[str, Ended]

    def __getitem__(self, name: str) -> Ended:
        """A guest's run."""
        assert name in self.by_name, (
            f"it did not begin:\n{self.lab.stdout.decode(errors='replace')[-3000:]}\n{self.lab.report}"
        )
        return self.by_name[name]


def run_guests(lab: Lab, runs: Mapping[str, str], options: str) -> Guests:
    """Run guests in one lab.

    runs: by a name, a guest of firmware/build and what its `vmm run` has of options, as a shell's words.
    options: those that every guest has.
    """
    common = shlex.split(options)
    lines = [
        [f"firmware/build/{guest}.flat", *words, *common] for guest, *words in map(shlex.split, runs.values())
    ]
    result = emulation.run(lab, [sys.executable, "-m", "tests.lab.in_turn", json.dumps(lines)])
    console = result.stdout.decode(errors="replace").replace("\r", "")
    parts = re.split(rf"^{BEGINS} \d+\n", console, flags=re.MULTILINE)[1:]
    return Guests(result, {name: _ended(part) for name, part in zip(runs, parts, strict=False)})


def _ended(part: str) -> Ended:
    text, _, rest = part.partition(f"\n{ENDS} ")
    return Ended(int(rest.split("\n")[0]) if rest else None, text)
