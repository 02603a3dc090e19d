# SPDX-License-Identifier: Apache-2.0
"""What a VTL may do with a page of guest memory: a mask of READ, WRITE and EXECUTE.

Guests say it with HV_MAP_GPA_FLAGS, which has two execute bits. Without mode-based execute control either of them is
execute, in both modes (DIS-03, VSM-085): the documents have them the other way round, and guests set both or only one.

Implements: VSM-071, VSM-076, VSM-077, VSM-085
"""

from __future__ import annotations

from typing import Final

from vmm.hv.memory_bits import HV_MAP_GPA_FLAGS

READ: Final = 1 << 0
WRITE: Final = 1 << 1
EXECUTE: Final = 1 << 2
ALL: Final = READ | WRITE | EXECUTE
NONE: Final = 0

_READABLE: Final = HV_MAP_GPA_FLAGS.Readable.mask
_WRITABLE: Final = HV_MAP_GPA_FLAGS.Writable.mask
_EXECUTABLE: Final = HV_MAP_GPA_FLAGS.KernelExecutable.mask | HV_MAP_GPA_FLAGS.UserExecutable.mask
_KNOWN: Final = _READABLE | _WRITABLE | _EXECUTABLE


def rights_of(map_flags: int) -> int | None:
    """The rights that HV_MAP_GPA_FLAGS ask for; None where they ask for what a page cannot have.

    Legal are none, R, RX, RW and RWX: any right needs read.
    """
    if map_flags & ~_KNOWN:
        return None
    rights = (
        (READ if map_flags & _READABLE else 0)
        | (WRITE if map_flags & _WRITABLE else 0)
        | (EXECUTE if map_flags & _EXECUTABLE else 0)
    )
    return rights if rights & READ or not rights else None


def describe(rights: int) -> str:
    """Such as "rwx", "r--"."""
    return "".join(
        letter if rights & bit else "-" for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE))
    )
