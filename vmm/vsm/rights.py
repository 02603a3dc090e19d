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
    rights = accesses_of(map_flags)
    return rights if rights is None or rights & READ or not rights else None


def accesses_of(map_flags: int) -> int | None:
    """The accesses that HV_MAP_GPA_FLAGS name, each by itself; None where they name others."""
    if map_flags & ~_KNOWN:
        return None
    return (
        (READ if map_flags & _READABLE else 0)
        | (WRITE if map_flags & _WRITABLE else 0)
        | (EXECUTE if map_flags & _EXECUTABLE else 0)
    )


def map_flags_of(rights: int) -> int:
    """The same as HV_MAP_GPA_FLAGS."""
    return (
        (_READABLE if rights & READ else 0)
        | (_WRITABLE if rights & WRITE else 0)
        | (_EXECUTABLE if rights & EXECUTE else 0)
    )


def tells_modes_apart(map_flags: int) -> bool:
    """Whether HV_MAP_GPA_FLAGS give user and kernel mode different rights to execute, where MBEC gives both bits a
    meaning."""
    return map_flags & _EXECUTABLE not in (0, _EXECUTABLE)


def describe(rights: int) -> str:
    """Such as "rwx", "r--"."""
    return "".join(
        letter if rights & bit else "-" for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE))
    )
