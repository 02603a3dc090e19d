# SPDX-License-Identifier: Apache-2.0
"""A measured figure: two sides, their samples, the ratio of their medians."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Side:
    """One side's samples in the figure's unit."""

    name: str
    samples: list[float]

    @property
    def median(self) -> float:
        return median(self.samples)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
        }


@dataclass(frozen=True)
class Figure:
    """`ratio` is ours over the reference's. `better` says which way is good: "higher" or "lower"."""

    name: str
    unit: str
    better: str
    ours: Side
    reference: Side

    @property
    def ratio(self) -> float:
        return self.ours.median / self.reference.median

    def as_json(self) -> dict[str, object]:
        """One JSON object, stable keys."""
        return {
            "name": self.name,
            "ratio": round(self.ratio, 4),
            "better": self.better,
            "unit": self.unit,
            "ours": self.ours.as_json(),
            "reference": self.reference.as_json(),
            "runs": len(self.ours.samples),
        }

    def __str__(self) -> str:
        def side(s: Side) -> str:
            return f"{s.name} {s.median:.4g} [{min(s.samples):.4g} .. {max(s.samples):.4g}]"

        runs = len(self.ours.samples)
        return (
            f"{self.name}: ratio {self.ratio:.3f} ({self.better} is better); "
            f"{side(self.ours)}, {side(self.reference)} {self.unit}, {runs} runs each"
        )
