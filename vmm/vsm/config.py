# SPDX-License-Identifier: Apache-2.0
"""HvRegisterVsmPartitionConfig: what a write of it may change (TLFS 15.5.1).

A default protection mask that lets lower VTLs read, write and execute restricts nothing, and is taken anywhere. Any
other, and every bit beyond `offer.BASE_CONFIG_BITS`, needs a `Protections` that carries it out. The mask comes into
force with EnableVtlProtection; before that it can be changed.

Implements: VSM-006, VSM-008, VSM-009, VSM-012, VSM-013
"""

from __future__ import annotations

from typing import Final

from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.vsm.offer import BASE_CONFIG_BITS
from vmm.vsm.outside import Protections
from vmm.vsm.rights import ALL, READ, WRITE, map_flags_of, rights_of, tells_modes_apart

Config = HV_REGISTER_VSM_PARTITION_CONFIG

CONFIG_AT_RESET: Final = Config.make(DefaultVtlProtectionMask=map_flags_of(ALL), ZeroMemoryOnReset=1)
_NEEDED: Final = READ | WRITE


def changed_config(
    vtl: int, old: Config, written: int, offered: int, mbec: bool, protections: Protections | None
) -> Config | int:
    """The register of `vtl` behind a write of `written`, or an `HvStatus`: why it is refused.

    offered: bits that may be set. mbec: whether a VTL below distinguishes the two execute bits: then they have to be
    equal, since nobody here carries out a difference.
    """
    new = Config(written)
    if written & ~offered:
        return HvStatus.INVALID_REGISTER_VALUE
    if old.EnableVtlProtection:
        if not new.EnableVtlProtection:
            return HvStatus.INVALID_REGISTER_VALUE
        # Fixed since then, whatever is written (DIS-10).
        new = new.replace(DefaultVtlProtectionMask=old.DefaultVtlProtectionMask)
    mask = new.DefaultVtlProtectionMask
    rights = rights_of(mask)
    if rights is None or rights & _NEEDED != _NEEDED or (mbec and tells_modes_apart(mask)):
        return HvStatus.INVALID_REGISTER_VALUE
    if protections is None:
        harmless = rights == ALL and not new & ~BASE_CONFIG_BITS
        return new if harmless else HvStatus.INVALID_REGISTER_VALUE
    status = protections.configure(vtl, old, new)
    return new if status == HvStatus.SUCCESS else status
