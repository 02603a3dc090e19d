# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters over KVM's registers and the Hyper-V state (TLFS 7.10.1, 7.10.2).

| register | from |
|---|---|
| those that are synthetic MSRs | `vmm.hvmsr`, of any VP |
| those that are CPUID leaves | what CPUID says |
| general, control, segment and table registers | the caller's synchronised registers |
| those that are MSRs of the processor | KVM_GETMSRS, KVM_SETMSRS |
| XMM, debug registers | KVM_GET_XSAVE, KVM_GET_DEBUGREGS |

Registers of a processor can be had while it does not run, so only the caller's own; another VP's are refused with
INVALID_VP_STATE. All others are unknown here: INVALID_PARAMETER.

Implements: REG-001, REG-002
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from kvmapi import KvmError, Vcpu
from vmm.backend.hyperv.register_access import MSRS, READERS, SYNTHETIC, VALUE_BYTES, WRITERS
from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.cpuid import HvCpuidLeaf
from vmm.hv.inputs import HV_INPUT_GET_VP_REGISTERS, HV_INPUT_SET_VP_REGISTERS
from vmm.hv.msrs import HvMsr
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hvmsr.state import HvState
from vmm.hypercall.call import CallInput, Reply, failed
from vmm.hypercall.outside import HypercallContext

_SUCCESS: Final = int(HvStatus.SUCCESS)
_OWN_THREAD_ONLY: Final = frozenset(
    {
        HvMsr.HV_X64_MSR_EOI,
        HvMsr.HV_X64_MSR_ICR,
        HvMsr.HV_X64_MSR_TPR,
        HvMsr.HV_X64_MSR_GUEST_IDLE,
    }
)
"""Synthetic MSRs behind which there is a vCPU."""
_XMM_IN_XSAVE: Final = 160
_XSTATE_BV: Final = 512
_SSE: Final = 1 << 1


_CPUID: Final = {
    int(HvRegisterName.HvRegisterHypervisorVersion): HvCpuidLeaf.HvCpuIdFunctionMsHvVersion,
    int(HvRegisterName.HvRegisterPrivilegesAndFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvFeatures,
    int(HvRegisterName.HvRegisterFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvEnlightenmentInformation,
    int(
        HvRegisterName.HvRegisterImplementationLimitsInfo
    ): HvCpuidLeaf.HvCpuIdFunctionMsHvImplementationLimits,
    int(HvRegisterName.HvRegisterHardwareFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvHardwareFeatures,
}


class RegisterOwner(HypercallContext, Protocol):
    """A caller with its vCPU. Used on the VP's thread."""

    @property
    def vp(self) -> int:
        """VP index."""

    @property
    def vcpu(self) -> Vcpu:
        """Its vCPU, whose `run.regs` and `run.sregs` are valid."""


class RegisterError(Exception):
    """A register cannot be read or written: the status for the guest."""

    def __init__(self, status: HvStatus) -> None:
        super().__init__(status)
        self.status = status


class RegisterCalls:
    """The handlers. As thread-safe as the Hyper-V state; a caller's own registers are its thread's."""

    def __init__(self, state: HvState, leaves: Mapping[int, int]) -> None:
        """leaves: CPUID leaf -> EAX, EBX, ECX, EDX as one 128-bit number, EAX lowest."""
        self._state = state
        self._constants = {register: leaves.get(int(leaf), 0) for register, leaf in _CPUID.items()}

    def get(self, context: RegisterOwner, call: CallInput[HV_INPUT_GET_VP_REGISTERS, int]) -> Reply:
        """Values of registers, up to the first that cannot be had."""
        values: list[bytes] = []
        try:
            vp = self._target(context, call.header)
            for register in call.elements:  # one by one: those before the bad one are the answer
                value = self._read(context, vp, register)
                values.append(value.to_bytes(VALUE_BYTES, "little"))
        except RegisterError as error:
            return failed(error.status, len(values), values)
        return _SUCCESS, len(values), values

    def set(self, context: RegisterOwner, call: CallInput[HV_INPUT_SET_VP_REGISTERS, Any]) -> Reply:
        """Write registers, up to the first that refuses its value."""
        done = 0
        try:
            vp = self._target(context, call.header)
            for element in call.elements:
                self._write(context, vp, element.Name, int.from_bytes(element.Value, "little"))
                done += 1
        except RegisterError as error:
            return failed(error.status, done)
        return _SUCCESS, done, None

    def _target(self, context: RegisterOwner, header: Any) -> int:
        if header.PartitionId != HV_PARTITION_ID_SELF:
            raise RegisterError(HvStatus.INVALID_PARTITION_ID)
        vp: int = header.VpIndex
        if vp == HV_VP_INDEX_SELF:
            return context.vp
        if self._state.vp(vp, context.vtl) is None:
            raise RegisterError(HvStatus.INVALID_VP_INDEX)
        return vp

    # ---- one register --------------------------------------------------------------------------------

    def _read(self, context: RegisterOwner, vp: int, register: int) -> int:
        msr = MSRS.get(register, 0)
        if msr in SYNTHETIC:
            if vp != context.vp and msr in _OWN_THREAD_ONLY:
                raise RegisterError(HvStatus.INVALID_VP_STATE)
            value = self._state.read_msr(vp, context.vtl, msr)
            if value is None:
                raise RegisterError(HvStatus.ACCESS_DENIED)
            return value
        constant = self._constants.get(register)
        if constant is not None:
            return constant
        reader = READERS.get(register)
        if reader is None:
            raise RegisterError(HvStatus.INVALID_PARAMETER)
        if vp != context.vp:
            raise RegisterError(HvStatus.INVALID_VP_STATE)
        try:
            return reader(context.vcpu)
        except KvmError as error:  # an MSR that this processor model does not have
            raise RegisterError(HvStatus.INVALID_PARAMETER) from error

    def _write(self, context: RegisterOwner, vp: int, register: int, value: int) -> None:
        msr = MSRS.get(register, 0)
        if msr in SYNTHETIC:
            if vp != context.vp and msr in _OWN_THREAD_ONLY:
                raise RegisterError(HvStatus.INVALID_VP_STATE)
            if not self._state.write_msr(vp, context.vtl, msr, value & (1 << 64) - 1):
                raise RegisterError(HvStatus.INVALID_PARAMETER)
            return
        writer = WRITERS.get(register)
        if writer is None:
            raise RegisterError(HvStatus.INVALID_PARAMETER)
        if vp != context.vp:
            raise RegisterError(HvStatus.INVALID_VP_STATE)
        try:
            writer(context.vcpu, value)
        except KvmError as error:  # KVM checks what the processor would check
            raise RegisterError(HvStatus.INVALID_PARAMETER) from error
