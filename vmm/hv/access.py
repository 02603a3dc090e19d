# SPDX-License-Identifier: Apache-2.0
"""Who may do what to a register, and how many instances of it there are."""

from __future__ import annotations

import enum


class Access(enum.Enum):
    """What a guest may do to a register or MSR."""

    R = "R"
    W = "W"
    RW = "RW"

    @property
    def readable(self) -> bool:
        """Whether a read is defined."""
        return self is not Access.W

    @property
    def writable(self) -> bool:
        """Whether a write is defined."""
        return self is not Access.R


class VtlScope(enum.Enum):
    """How many instances of a register there are, and so what a VTL switch does with it (TLFS 15.11).

    Where neither TLFS nor its markdown says it, `UNSPECIFIED` leaves the choice to the implementation.
    """

    SHARED = "shared"
    """One per VP: a VTL switch carries it over."""
    PRIVATE = "private"
    """One per VP and VTL."""
    PARTITION = "one per partition"
    """One, the same from every VTL."""
    PARTITION_PER_VTL = "one per VTL of the partition"
    """One for each VTL, the same on every VP."""
    VP = "one per VP"
    """One per VP that describes all its VTLs: never copied, always the same."""
    OWNER_AND_LOWER = "one per VP, owning VTL and lower VTL"
    """The owner (the call's target VTL) configures one lower VTL (part of the register's name)."""
    SHARED_IF_DR6_SHARED = "shared if Dr6Shared, else private"
    """DR6: HvRegisterVsmCapabilities.Dr6Shared decides."""
    UNSPECIFIED = "unspecified"
