# SPDX-License-Identifier: Apache-2.0
"""The control word and the result value as plain integers, for the path that every hypercall takes (TLFS 3.7, 3.8).

The fields are those of `vmm.hv.hypercall_words`; here are their masks, and the two words the dispatcher makes.

Implements: HC-001, HC-009, HC-010, LNX-005
"""

from __future__ import annotations

from typing import Final

from vmm.hv.hypercall_words import HV_HYPERCALL_INPUT, HV_HYPERCALL_RESULT

CODE_MASK: Final = HV_HYPERCALL_INPUT.CallCode.mask
FAST: Final = HV_HYPERCALL_INPUT.IsFast.mask
NESTED: Final = HV_HYPERCALL_INPUT.IsNested.mask
RESERVED: Final = HV_HYPERCALL_INPUT.RSVDZ_MASK
VARIABLE_HEADER_BITS: Final = HV_HYPERCALL_INPUT.VariableHeaderSize.mask
VARIABLE_HEADER_SHIFT: Final = HV_HYPERCALL_INPUT.VariableHeaderSize.low
REP_COUNT_SHIFT: Final = HV_HYPERCALL_INPUT.RepCount.low
REP_START_SHIFT: Final = HV_HYPERCALL_INPUT.RepStartIndex.low
REP_START_BITS: Final = HV_HYPERCALL_INPUT.RepStartIndex.mask
REP_BITS: Final = HV_HYPERCALL_INPUT.RepCount.mask | REP_START_BITS
REP_MASK: Final = HV_HYPERCALL_INPUT.RepCount.mask >> REP_COUNT_SHIFT
"""A rep count or a rep start index, shifted down."""

_REPS_COMPLETED_SHIFT: Final = HV_HYPERCALL_RESULT.RepsCompleted.low


def with_rep_start(control: int, rep_start: int) -> int:
    """The control word of the same call going on at element `rep_start` (below 4096)."""
    return control & ~REP_START_BITS | rep_start << REP_START_SHIFT


def result_value(status: int, reps_completed: int = 0) -> int:
    """The result value: HV_STATUS, and the count of completed reps from the start of the list.

    >>> hex(result_value(5, 10))
    '0xa00000005'
    """
    return status | reps_completed << _REPS_COMPLETED_SHIFT
