# SPDX-License-Identifier: Apache-2.0
"""The hypercalls of VSM by call code, for `vmm.hypercall.dispatcher.Dispatcher`.

The dispatcher has checked form, privileges, processor mode (#UD outside ring 0) and that a target VTL is not above the
caller where the row says so. HvCallStartVirtualProcessor's handler is `vmm.hvcalls.start.StartCalls` over the
partition. On a machine that cannot protect memory, HvCallModifyVtlProtectionMask gives lower VTLs all access, which
they have, and denies what would restrict them.

Implements: VSM-022, VSM-026, VSM-041, VSM-073, VSM-074, VSM-090, WIN-003
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmm.hv.call_codes import HypercallCode
from vmm.hv.constants import HV_PAGE_SHIFT, HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.inputs import (
    HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS,
    HV_INPUT_ENABLE_PARTITION_VTL,
    HV_INPUT_ENABLE_VP_VTL,
    HV_INPUT_MODIFY_VTL_PROTECTION_MASK,
)
from vmm.hv.memory_bits import HV_ACCESS_CHECK_RESULT
from vmm.hv.status import HvStatus
from vmm.hvcalls.start import StartCalls
from vmm.hypercall.call import CallInput, Reply, failed
from vmm.vsm.intercept_calls import InterceptCalls
from vmm.vsm.outside import Protections, VsmCaller
from vmm.vsm.partition import VsmPartition
from vmm.vsm.register_calls import RegisterCalls
from vmm.vsm.rights import ALL, EXECUTE, READ, WRITE, accesses_of, map_flags_of, rights_of, tells_modes_apart


class VsmCalls:
    """The handlers. Thread-safe; a VTL switch is its VP's thread's."""

    def __init__(self, partition: VsmPartition) -> None:
        self._partition = partition
        self._vps = partition.vps

    def enable_partition_vtl(
        self, context: VsmCaller, call: CallInput[HV_INPUT_ENABLE_PARTITION_VTL, Any]
    ) -> Reply:
        """HvCallEnablePartitionVtl."""
        header = call.header
        if header.TargetPartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        return failed(self._partition.enable_partition_vtl(context.vtl, header.TargetVtl, header.Flags))

    def enable_vp_vtl(self, context: VsmCaller, call: CallInput[HV_INPUT_ENABLE_VP_VTL, Any]) -> Reply:
        """HvCallEnableVpVtl."""
        header = call.header
        if header.TargetPartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        vp = context.vp if header.VpIndex == HV_VP_INDEX_SELF else header.VpIndex
        if not self._partition.has_vp(vp):
            return failed(HvStatus.INVALID_VP_INDEX)
        status = self._partition.enable_vp_vtl(
            context.vp, context.vtl, vp, header.TargetVtl, header.VpVtlContext
        )
        return status, 0, None

    def modify_vtl_protection_mask(
        self, context: VsmCaller, call: CallInput[HV_INPUT_MODIFY_VTL_PROTECTION_MASK, int]
    ) -> Reply:
        """HvCallModifyVtlProtectionMask."""
        header = call.header
        if header.TargetPartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        if not self._partition.config(context.vtl).EnableVtlProtection:
            return failed(HvStatus.ACCESS_DENIED)
        flags, protections = int(header.MapFlags), self._partition.protections
        if self._partition.mbec and tells_modes_apart(flags):
            return failed(HvStatus.OPERATION_DENIED)  # nobody here could carry that out
        if protections is None:
            if rights_of(flags) != ALL:
                return failed(HvStatus.OPERATION_DENIED)
            return HvStatus.SUCCESS, len(call.elements), None
        status, done = protections.modify(context.vtl, header.TargetVtl.TargetVtl, flags, call.elements)
        return status, done, None

    def check_vtl_access(
        self, context: VsmCaller, call: CallInput[HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS, int]
    ) -> Reply:
        """HvCallCheckSparseGpaPageVtlAccess: whether the target VTL may access pages, and who would hear of it."""
        header = call.header
        if header.PartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        wanted, vtl = accesses_of(header.DesiredAccess), header.TargetVtl.TargetVtl
        if wanted is None:
            return failed(HvStatus.INVALID_PARAMETER)
        protections = self._partition.protections
        if protections is None:
            found = [0] * len(call.elements)
        else:
            found = [_checked(protections, vtl, gpn << HV_PAGE_SHIFT, wanted) for gpn in call.elements]
        return HvStatus.SUCCESS, len(found), found

    def vtl_call(self, context: VsmCaller, control: int) -> bool:
        """HvCallVtlCall: the switch is in `context.switch`; False: #UD."""
        context.switch = self._vps[context.vp].vtl_call()
        return context.switch is not None

    def vtl_return(self, context: VsmCaller, control: int) -> bool:
        """HvCallVtlReturn: the switch is in `context.switch`; False: #UD."""
        context.switch = self._vps[context.vp].vtl_return(control, bits_64=context.bits_64)
        return context.switch is not None


def _checked(protections: Protections, vtl: int, gpa: int, wanted: int) -> int:
    refused = protections.refusing(vtl, gpa, 1, wanted)
    if refused is None:
        return 0
    denied = sum(each for each in (READ, WRITE, EXECUTE) if protections.refusing(vtl, gpa, 1, wanted & each))
    return HV_ACCESS_CHECK_RESULT.make(
        ResultCode=1, DeniedAccess=map_flags_of(denied), InterceptingVtl=refused.owner
    )


def handlers(partition: VsmPartition) -> dict[int, Callable[..., Any]]:
    """All calls that this package carries out."""
    calls, registers = VsmCalls(partition), RegisterCalls(partition)
    return {
        HypercallCode.HvCallEnablePartitionVtl: calls.enable_partition_vtl,
        HypercallCode.HvCallEnableVpVtl: calls.enable_vp_vtl,
        HypercallCode.HvCallModifyVtlProtectionMask: calls.modify_vtl_protection_mask,
        HypercallCode.HvCallCheckSparseGpaPageVtlAccess: calls.check_vtl_access,
        HypercallCode.HvCallInstallIntercept: InterceptCalls(partition).install,
        HypercallCode.HvCallVtlCall: calls.vtl_call,
        HypercallCode.HvCallVtlReturn: calls.vtl_return,
        HypercallCode.HvCallGetVpRegisters: registers.get,
        HypercallCode.HvCallSetVpRegisters: registers.set,
        HypercallCode.HvCallStartVirtualProcessor: StartCalls(
            partition, partition.offer.widths
        ).start_virtual_processor,
    }
