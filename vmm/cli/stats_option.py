# SPDX-License-Identifier: Apache-2.0
"""`vmm run --stats`: who is told what the VPs did, and when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm.cli.errors import UserError
from vmm.cli.output_file import check_writable, write_text

if TYPE_CHECKING:
    from vmm.backend.stats.figures import Figures

SYNTAX = "live, end or json:PATH"


@dataclass(frozen=True)
class StatsWanted:
    """live: a table on standard error every second. end: one when the run is over. json_path: an object then."""

    live: bool = False
    end: bool = False
    json_path: str | None = None

    def write(self, figures: Figures) -> None:
        """The JSON file, if one is wanted. Errors: `UserError`."""
        if self.json_path is None:
            return
        write_text("--stats", self.json_path, json.dumps(figures.as_json()) + "\n")


def parse(values: Sequence[str] | None) -> StatsWanted | None:
    """All `--stats` of a command line; None without any. Errors: `UserError`."""
    if not values:
        return None
    json_path = None
    for value in values:
        kind, colon, path = value.partition(":")
        if kind == "json" and colon:
            check_writable("--stats", path)
            json_path = path
        elif value not in ("live", "end"):
            raise UserError(f"--stats {value}: expected {SYNTAX}")
    return StatsWanted("live" in values, "end" in values or "live" in values, json_path)
