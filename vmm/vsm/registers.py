# SPDX-License-Identifier: Apache-2.0
"""The VP registers that VSM itself has, each with who may read and write it and what a write does.

Which VTL a register is asked of is the call's target VTL: never above the caller (the dispatcher sees to it), and
enabled on the target VP (`register_calls`).

Implements: VSM-020, WIN-006, OHCL-002
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hv.register_bits import (
    HV_REGISTER_GUEST_VSM_PARTITION_CONFIG,
    HV_REGISTER_VSM_PARTITION_CONFIG,
    HV_REGISTER_VSM_VINA,
    HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG,
)
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.vsm.config import changed_config
from vmm.vsm.intercept_table import CONTROL_BITS, REGISTER_CONTROL
from vmm.vsm.outside import VsmCaller
from vmm.vsm.partition import VTL0, VsmPartition
from vmm.vsm.vp import VsmVp

_N = HvRegisterName
PARAVISOR_VTL: Final = 2
FIRST_VECTOR: Final = 16
SecureConfig = HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
_SECURE_CONFIG_BITS: Final = SecureConfig.TlbLocked.mask | SecureConfig.MbecEnabled.mask


class RefusedRegisterError(Exception):
    """A register cannot be read or written: an `HvStatus` for the guest, or `AGAIN`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status:#x}")
        self.status = status


def refuse(status: int) -> NoReturn:
    """End the access."""
    raise RefusedRegisterError(status)


class Target(NamedTuple):
    """Who asks, and of which VP and VTL."""

    caller: VsmCaller
    vp: VsmVp
    vtl: int


Get = Callable[[VsmPartition, Target], int]
Set = Callable[[VsmPartition, Target, int], None]


class VsmRegister(NamedTuple):
    """A register's two halves; `set` is None for a read-only one."""

    get: Get
    set: Set | None = None


def _only_for_lower(target: Target) -> None:
    """A VTL does this to lower VTLs, not to itself."""
    if target.vtl >= target.caller.vtl:
        refuse(HvStatus.ACCESS_DENIED)


# ---- HvRegisterVsmPartitionConfig ----------------------------------------------------------------------


def _above_vtl0(target: Target) -> int:
    if target.vtl == VTL0:
        refuse(HvStatus.INVALID_PARAMETER)
    return target.vtl


def _get_config(partition: VsmPartition, target: Target) -> int:
    return partition.config(_above_vtl0(target))


def _set_config(partition: VsmPartition, target: Target, value: int) -> None:
    """Implements: VSM-007"""
    vtl = _above_vtl0(target)
    with partition.lock:
        before = partition.config(vtl)
        changed = changed_config(
            vtl,
            before,
            value,
            partition.offer.config_bits,
            partition.mbec != 0,
            partition.protections,
        )
        if not isinstance(changed, HV_REGISTER_VSM_PARTITION_CONFIG):
            refuse(changed)
        partition.configs = {**partition.configs, vtl: changed}  # another VP may be looking through it
    if changed.DenyLowerVtlStartup != before.DenyLowerVtlStartup:
        for vp in partition.vps:  # those that wait for INIT and SIPI shall not hear, or hear again
            partition.services.wake(vp.index)


# ---- HvRegisterVsmVina ---------------------------------------------------------------------------------


def _get_vina(partition: VsmPartition, target: Target) -> int:
    return target.vp.vtls[_above_vtl0(target)].vina


def _set_vina(partition: VsmPartition, target: Target, value: int) -> None:
    """Reserved bits are kept as they are written.

    Implements: VSM-017
    """
    vina = HV_REGISTER_VSM_VINA(value)
    state = target.vp.vtls[_above_vtl0(target)]
    if vina.Enabled and vina.Vector < FIRST_VECTOR:
        refuse(HvStatus.INVALID_REGISTER_VALUE)
    state.set_vina(vina)
    partition.services.wake(target.vp.index)


# ---- HvRegisterVsmVpSecureConfigVtlN -------------------------------------------------------------------


def _secure_config(configured: int) -> VsmRegister:
    """The register for VTL `configured`; the target VTL is the owner.

    Implements: VSM-014, VSM-015, VSM-016
    """

    def check(partition: VsmPartition, target: Target) -> None:
        if target.vtl <= configured:
            refuse(HvStatus.ACCESS_DENIED)
        if not target.vp.enabled >> configured & 1:
            refuse(HvStatus.INVALID_VTL_STATE)

    def get(partition: VsmPartition, target: Target) -> int:
        check(partition, target)
        return target.vp.vtls[target.vtl].secure_config.get(configured, 0)

    def set_(partition: VsmPartition, target: Target, value: int) -> None:
        check(partition, target)
        mbec = SecureConfig(value).MbecEnabled
        if value & ~_SECURE_CONFIG_BITS or (mbec and not partition.mbec >> configured & 1):
            refuse(HvStatus.INVALID_REGISTER_VALUE)
        partition.tlb_locks.configure(target.vp.index, target.vtl, configured, value)
        with partition.lock:
            owners = target.vp.vtls.values()
            enabled = any(
                SecureConfig(owner.secure_config.get(configured, 0)).MbecEnabled for owner in owners
            )
            target.vp.mbec = target.vp.mbec & ~(1 << configured) | enabled << configured

    return VsmRegister(get, set_)


# ---- HvRegisterVsmVpWaitForTlbLock ---------------------------------------------------------------------


def _get_wait(partition: VsmPartition, target: Target) -> int:
    _only_for_lower(target)
    return bool(target.vp.vtls[target.vtl].waits_for)


def _set_wait(partition: VsmPartition, target: Target, value: int) -> None:
    _only_for_lower(target)
    if target.vp.index != target.caller.vp:
        refuse(HvStatus.INVALID_VP_INDEX)
    if value & ~1:
        refuse(HvStatus.INVALID_REGISTER_VALUE)
    partition.tlb_locks.wait(target.vp.index, target.vtl, bool(value))


# ---- HvRegisterGuestVsmPartitionConfig -----------------------------------------------------------------

GuestConfig = HV_REGISTER_GUEST_VSM_PARTITION_CONFIG


def _check_paravisor(partition: VsmPartition, target: Target) -> None:
    if partition.offer.maximum_vtl < PARAVISOR_VTL:
        refuse(HvStatus.INVALID_PARAMETER)
    if target.caller.vtl < PARAVISOR_VTL:
        refuse(HvStatus.ACCESS_DENIED)


def _get_guest_config(partition: VsmPartition, target: Target) -> int:
    _check_paravisor(partition, target)
    return GuestConfig.make(MaximumVtl=min(partition.guest_maximum_vtl, partition.offer.maximum_vtl))


def _set_guest_config(partition: VsmPartition, target: Target, value: int) -> None:
    """Implements: VSM-019, OHCL-003"""
    _check_paravisor(partition, target)
    maximum = GuestConfig(value).MaximumVtl
    if value & ~GuestConfig.MaximumVtl.mask or maximum > partition.offer.maximum_vtl:
        refuse(HvStatus.INVALID_REGISTER_VALUE)
    partition.guest_maximum_vtl = maximum


# ---- HvX64RegisterCrIntercept* -------------------------------------------------------------------------


def _cr_intercept(register: int) -> VsmRegister:
    """The target VTL is the owner: it is told of accesses of the VTLs below it, on the target VP.

    A mask is kept whatever it is; without its control bit it means nothing.

    Implements: VSM-113, VSM-115, VSM-116
    """

    def owner(target: Target) -> int:
        if target.vtl == VTL0:
            refuse(HvStatus.ACCESS_DENIED)
        return target.vtl

    def get(partition: VsmPartition, target: Target) -> int:
        return partition.intercepts.control(target.vp.index, owner(target), register)

    def set_(partition: VsmPartition, target: Target, value: int) -> None:
        vtl, vp, table = owner(target), target.vp.index, partition.intercepts
        if register != REGISTER_CONTROL:
            with partition.lock:
                table.set_control(vp, vtl, register, value)
            return
        if value & ~CONTROL_BITS:
            refuse(HvStatus.INVALID_REGISTER_VALUE)
        with partition.lock:
            before = table.control(vp, vtl, register)
            table.set_control(vp, vtl, register, value)
            status = partition.services.msrs_changed()
            if status != HvStatus.SUCCESS:
                table.set_control(vp, vtl, register, before)
                partition.services.msrs_changed()
        if status != HvStatus.SUCCESS:
            refuse(status)

    return VsmRegister(get, set_)


def _code_page_offsets(partition: VsmPartition, target: Target) -> int:
    """Implements: VSM-004, VSM-005"""
    return partition.services.code_page_offsets(target.vtl, target.caller.bits_64)


VSM_REGISTERS: Final[dict[int, VsmRegister]] = {
    _N.HvRegisterVsmCodePageOffsets: VsmRegister(_code_page_offsets),
    _N.HvRegisterVsmVpStatus: VsmRegister(lambda partition, target: target.vp.status),
    _N.HvRegisterVsmPartitionStatus: VsmRegister(lambda partition, target: partition.status),
    _N.HvRegisterVsmCapabilities: VsmRegister(lambda partition, target: partition.offer.capabilities),
    _N.HvRegisterVsmPartitionConfig: VsmRegister(_get_config, _set_config),
    _N.HvRegisterVsmVina: VsmRegister(_get_vina, _set_vina),
    _N.GuestVsmPartitionConfig: VsmRegister(_get_guest_config, _set_guest_config),
    **{
        int(_N.HvRegisterVsmVpSecureConfigVtl0) + vtl: _secure_config(vtl)
        for vtl in range(HV_NUM_VTLS_ARCHITECTURAL - 1)
    },
    _N.HvRegisterVsmVpWaitForTlbLock: VsmRegister(_get_wait, _set_wait),
    **{register: _cr_intercept(register) for register in range(REGISTER_CONTROL, REGISTER_CONTROL + 4)},
}
"""By register code."""
