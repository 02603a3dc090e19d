# SPDX-License-Identifier: Apache-2.0
"""`vmm run --pin`: from the words to the CPU of each VP. Pure.

The list is that of `taskset -c`: numbers and ranges with commas, `0-7:2` for every second one. The order counts:
VP 0 gets the first CPU. One that is named twice runs two VPs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from vmm.cli.errors import UserError

AUTO: Final = "auto"
SYNTAX: Final = "'auto', or CPUs such as 0-3 or 0,2"
HIGHEST_CPU: Final = 8191  # NR_CPUS_RANGE_END of arch/x86/Kconfig: so many can a Linux have
_PART: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5})(?::([0-9]{1,5}))?)?", re.ASCII)


def parse(text: str) -> list[int]:
    """The CPUs of a list, in its order. Errors: `UserError`."""
    cpus: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UserError(f"--pin {text!r}: expected {SYNTAX}")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        step = 1 if match[3] is None else int(match[3])
        if last < first or not step:
            raise UserError(f"--pin {text!r}: {part.strip()} is an empty range: expected {SYNTAX}")
        if last > HIGHEST_CPU:
            raise UserError(f"--pin {text!r}: no host has a CPU {last}")
        cpus += range(first, last + 1, step)
    return cpus


def choose(text: str, vps: int, available: Sequence[int], core_of: Callable[[int], str]) -> tuple[int, ...]:
    """The CPU of each VP. available: those that this process may use, ascending.

    `auto` takes one CPU of each core before any core's second one. Errors: `UserError`.
    """
    if text == AUTO:
        if len(available) < vps:
            raise UserError(
                f"--pin auto: {_count(vps, 'VP')} and {_count(len(available), 'available CPU')}: leave out --pin, or "
                "name CPUs, and those that VPs are to share several times"
            )
        return tuple(_by_core(available, core_of)[:vps])
    cpus = parse(text)
    missing = sorted(set(cpus) - set(available))
    if missing:
        raise UserError(
            f"--pin {text}: CPU {missing[0]} is not available to this process, which may use {ranges(available)}"
        )
    if len(cpus) < vps:
        raise UserError(
            f"--pin {text}: {_count(len(cpus), 'CPU')} for {_count(vps, 'VP')}: name one for each; one that is named "
            "twice is shared"
        )
    return tuple(cpus[:vps])


def _by_core(cpus: Sequence[int], core_of: Callable[[int], str]) -> list[int]:
    """The first CPU of each core, then each one's second, and so on."""
    seen: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for cpu in cpus:
        core = core_of(cpu)
        order.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return [cpu for _, cpu in sorted(order)]


def ranges(cpus: Sequence[int]) -> str:
    """Ascending CPUs as a list for people: `0-3,6`."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
