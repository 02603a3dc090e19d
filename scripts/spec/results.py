# SPDX-License-Identifier: Apache-2.0
"""The last result of every test that claims a checklist item, in build/spec/<ring>.json."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from scripts.spec.checklist import ROOT

RINGS = ("pure", "host", "lab")


class Result(NamedTuple):
    """How one test ended on one host."""

    node: str
    """The test's id with its parameters."""
    host: str
    """What it ran on; empty for the pure ring."""
    ids: list[str]
    """The items it claimed when it ran."""
    outcome: str
    """`passed`, `failed` or `skipped` (which includes an expected failure)."""
    when: str
    """Time of the end of its run, ISO 8601."""

    @property
    def test(self) -> str:
        """The test's id without parameters."""
        return self.node.partition("[")[0]

    @property
    def file(self) -> str:
        """The test's file, from the project's root."""
        return self.node.partition("::")[0]

    @property
    def ring(self) -> str:
        """The folder below tests/, which is the ring; empty for a test outside of the rings."""
        parts = self.node.split("/")
        return parts[1] if parts[0] == "tests" and len(parts) > 2 and parts[1] in RINGS else ""


def directory() -> Path:
    """Where results lie."""
    return Path(os.environ.get("VMM_SPEC_DIR") or ROOT / "build/spec")


def host() -> str:
    """What gives this machine its /dev/kvm."""
    if said := os.environ.get("VMM_SPEC_HOST"):
        return said
    modules = Path("/sys/module")
    vendors = sorted(path.name for path in modules.glob("kvm_*")) if modules.is_dir() else []
    return "+".join(vendors) or "unknown"


def load(place: Path) -> list[Result]:
    """All recorded results; none when no test has run yet."""
    found = []
    for ring in RINGS:
        path = place / f"{ring}.json"
        if path.exists():
            found += [Result(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return found


def store(place: Path, results: Iterable[Result], replaced: Callable[[Result], bool]) -> None:
    """Merge `results` into the files. Of the older ones those go that have a successor or that `replaced` names."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may end at once
        merged = {(result.node, result.host): result for result in load(place) if not replaced(result)}
        merged |= {(result.node, result.host): result for result in results}
        for ring in RINGS:
            rows = [result._asdict() for key, result in sorted(merged.items()) if result.ring == ring]
            path = place / f"{ring}.json"
            if rows or path.exists():
                temporary = path.with_suffix(".new")
                temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                temporary.replace(path)
