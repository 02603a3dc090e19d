# SPDX-License-Identifier: Apache-2.0
"""The text of `--cpu help`: models and features by name."""

from __future__ import annotations

import textwrap

from vmm.machine.cpu.features import WORDS
from vmm.machine.cpu.models import MODELS
from vmm.machine.cpu.spec import PROPERTIES

WIDTH = 110


def describe() -> str:
    """Every model, property and feature that `parse_cpu` knows."""
    lines = [
        "models:",
        "  host                what this host's KVM supports, with the host's name and numbers",
        "  max                 the same",
        *(f"  {model.name:<19} {model.brand}" for model in MODELS.values()),
        "",
        "properties (name=value):",
        *_wrapped(sorted(PROPERTIES)),
        "",
        "features (+name, -name), by CPUID register:",
    ]
    for word in WORDS:
        lines += [f"  {word}", *_wrapped([name for name in word.names.split() if name != "-"])]
    return "\n".join(lines)


def _wrapped(names: list[str]) -> list[str]:
    indent = "    "
    return textwrap.wrap(
        " ".join(names), WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
