# SPDX-License-Identifier: Apache-2.0
"""Sets of VPs in hypercalls, as integers with bit n for VP n (TLFS 7.8.7.3, `HV_VP_SET`).

VPs that do not exist are left out silently: guests name all they might have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmm.hv.inputs import HV_VP_SET, HvGenericSetFormat
from vmm.hv.status import HvStatus

BANK_VPS: Final = 64

_SPARSE: Final = int(HvGenericSetFormat.HvGenericSetSparse4k)
_ALL: Final = int(HvGenericSetFormat.HvGenericSetAll)


def of_set(vp_set: HV_VP_SET, banks: tuple[int, ...], existing: int) -> tuple[HvStatus, int]:
    """`(status, VPs)`: those of `vp_set`, whose banks are the variable header, that are in `existing`.

    Errors: INVALID_HYPERCALL_INPUT when the number of banks is not that of the mask; INVALID_PARAMETER for an unknown
    format.
    """
    if vp_set.Format == _ALL:
        return HvStatus.SUCCESS, existing
    if vp_set.Format != _SPARSE:
        return HvStatus.INVALID_PARAMETER, 0
    valid = vp_set.ValidBankMask
    if valid.bit_count() != len(banks):
        return HvStatus.INVALID_HYPERCALL_INPUT, 0
    vps = 0
    for contents in banks:
        lowest = valid & -valid
        vps |= contents << (lowest.bit_length() - 1) * BANK_VPS
        valid ^= lowest
    return HvStatus.SUCCESS, vps & existing


def members(vps: int) -> Iterator[int]:
    """The VP indices in a set, lowest first."""
    while vps:
        lowest = vps & -vps
        yield lowest.bit_length() - 1
        vps ^= lowest
