# SPDX-License-Identifier: Apache-2.0
"""HvRegisterVsmPartitionConfig: what a write of it may change (TLFS 15.5.1).

A default protection mask that lets lower VTLs read, write and execute restricts nothing, and is taken anywhere. Any
other, and every intercept bit, needs a `Protections` that carries it out.

Implements: VSM-006, VSM-008, VSM-013
"""

from __future__ import annotations

from typing import Final

from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.vsm.outside import Protections

Config = HV_REGISTER_VSM_PARTITION_CONFIG

READ, WRITE = 1 << 0, 1 << 1
EXECUTE: Final = 1 << 2 | 1 << 3
"""Kernel and user execute; without MBEC either is execute (DIS-03)."""
ALL: Final = READ | WRITE | EXECUTE

CONFIG_AT_RESET: Final = Config.make(DefaultVtlProtectionMask=ALL, ZeroMemoryOnReset=1)
_HARMLESS: Final = (
    Config.EnableVtlProtection.mask
    | Config.DefaultVtlProtectionMask.mask
    | Config.ZeroMemoryOnReset.mask
    | Config.DenyLowerVtlStartup.mask
)


def changed_config(
    vtl: int, old: Config, written: int, offered: int, mbec: bool, protections: Protections | None
) -> Config | int:
    """The register of `vtl` behind a write of `written`, or an `HvStatus`: why it is refused.

    offered: bits that may be set. mbec: whether a VTL below distinguishes the two execute bits.
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
    if not mask & READ or not mask & WRITE:
        return HvStatus.INVALID_REGISTER_VALUE
    restricts = mask & EXECUTE != EXECUTE if mbec else not mask & EXECUTE
    if not restricts and not new & ~_HARMLESS and not old & ~_HARMLESS and protections is None:
        return new
    if protections is None:
        return HvStatus.INVALID_REGISTER_VALUE
    status = protections.configure(vtl, old, new)
    return new if status == HvStatus.SUCCESS else status
