# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters: any register of the caller's or another VP, in its VTL or a lower one.

Order of the checks: partition id, VP index, target VTL on that VP; then for each register its name, access, home
and value. Those before the first bad one are done (REG-001, REG-002).

A register of a vCPU needs its VP stopped. The VP is stopped once for a slice of the list, at the first such register,
and a shared register is the active VTL's, whichever VTL was named (REG-011); while that one is above the caller's, it
is refused.

Implements: REG-005, REG-006, REG-007, REG-008, REG-009, REG-010, REG-011, REG-012, REG-015
"""

from __future__ import annotations

from typing import Any, Final

from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.inputs import HV_INPUT_GET_VP_REGISTERS, HV_INPUT_SET_VP_REGISTERS
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hvcalls.register_values import settled
from vmm.hypercall.call import AGAIN, CallInput, Reply, failed
from vmm.vsm.outside import VpRegisters, VsmCaller
from vmm.vsm.partition import VsmPartition
from vmm.vsm.register_homes import HOMES, SYNTHETIC_MSRS, Home
from vmm.vsm.registers import VSM_REGISTERS, RefusedRegisterError, Target, refuse
from vmm.vsm.scope import is_shared

VALUE_BYTES: Final = 16
_U64: Final = (1 << 64) - 1
_ACCESS_VSM: Final = HV_PARTITION_PRIVILEGE_MASK.AccessVsm.mask
_READABLE: Final = frozenset(int(name) for name in HvRegisterName if name.access.readable)
_WRITABLE: Final = frozenset(
    int(name)
    for name in HvRegisterName
    if name.access.writable and name is not HvRegisterName.HvX64RegisterTsc  # the same in all VTLs (VSM-067)
)


class _StillRunsError(Exception):
    """The target VP has not stopped yet: the call is to be made again."""


class _Slice:
    """The registers of one call's slice: stops the target VP when a vCPU's register is first asked for."""

    def __init__(self, partition: VsmPartition, target: Target) -> None:
        self.target = target
        self._partition = partition
        self._stopped: VpRegisters | None = None

    def stopped(self) -> VpRegisters:
        """The target's vCPUs."""
        if self._stopped is None:
            self._stopped = self._partition.services.stop(self.target.caller.vp, self.target.vp.index)
            if self._stopped is None:
                raise _StillRunsError
        return self._stopped

    def vtl_of(self, register: int) -> int:
        """Whose vCPU has the register; the VP is stopped. What a VTL above the caller's works with is not shown."""
        if not is_shared(register, dr6_shared=self._partition.offer.dr6_shared):
            return self.target.vtl
        active = self.target.vp.active
        if active > self.target.caller.vtl:
            refuse(HvStatus.ACCESS_DENIED)
        return active

    def end(self) -> None:
        """Let the VP run."""
        if self._stopped is not None:
            self._stopped.give_back()


class RegisterCalls:
    """The handlers. Thread-safe."""

    def __init__(self, partition: VsmPartition) -> None:
        self._partition = partition

    def get(self, context: VsmCaller, call: CallInput[HV_INPUT_GET_VP_REGISTERS, int]) -> Reply:
        """Values of registers, up to the first that cannot be had."""
        values: list[bytes] = []
        try:
            part = _Slice(self._partition, self._target(context, call.header))
        except RefusedRegisterError as refused:
            return failed(refused.status)
        try:
            for register in call.elements:  # one by one: those before the bad one are the answer
                values.append(self._read(part, register).to_bytes(VALUE_BYTES, "little"))  # noqa: PERF401  # as above
        except RefusedRegisterError as refused:
            return failed(refused.status, len(values), values)
        except _StillRunsError:
            return AGAIN, len(values), values
        finally:
            part.end()
        return HvStatus.SUCCESS, len(values), values

    def set(self, context: VsmCaller, call: CallInput[HV_INPUT_SET_VP_REGISTERS, Any]) -> Reply:
        """Write registers, up to the first that refuses its value."""
        done = 0
        try:
            part = _Slice(self._partition, self._target(context, call.header))
        except RefusedRegisterError as refused:
            return failed(refused.status)
        try:
            for element in call.elements:
                self._write(part, element.Name, int.from_bytes(element.Value, "little"))
                done += 1
        except RefusedRegisterError as refused:
            return failed(refused.status, done)
        except _StillRunsError:
            return AGAIN, done, None
        finally:
            part.end()
        return HvStatus.SUCCESS, done, None

    def _target(self, context: VsmCaller, header: Any) -> Target:
        if header.PartitionId != HV_PARTITION_ID_SELF:
            refuse(HvStatus.INVALID_PARTITION_ID)
        index: int = context.vp if header.VpIndex == HV_VP_INDEX_SELF else header.VpIndex
        if not self._partition.has_vp(index):
            refuse(HvStatus.INVALID_VP_INDEX)
        vp, vtl = self._partition.vps[index], header.InputVtl.TargetVtl
        if not vp.enabled >> vtl & 1:
            refuse(HvStatus.INVALID_VTL_STATE)
        return Target(context, vp, vtl)

    # ---- one register --------------------------------------------------------------------------------

    def _read(self, part: _Slice, register: int) -> int:
        target = part.target
        if register not in _READABLE:
            refuse(HvStatus.INVALID_PARAMETER)
        match HOMES[register]:
            case Home.PROCESSOR:
                value = part.stopped().read(part.vtl_of(register), register)
            case Home.VSM:
                self._check_privilege(target)
                value = VSM_REGISTERS[register].get(self._partition, target)
            case Home.CPUID:
                value = self._partition.services.cpuid_register(register)
            case Home.SYNTHETIC_MSR | Home.OWN_MSR as home:
                value = target.vp.vtls[target.vtl].msrs.read(self._msr(home, target, register))
                if value is None:
                    refuse(HvStatus.ACCESS_DENIED)
            case Home.ABSENT:
                value = None
        if value is None:
            refuse(HvStatus.INVALID_PARAMETER)
        return value

    def _write(self, part: _Slice, register: int, value: int) -> None:
        target = part.target
        if register not in _WRITABLE or HOMES[register] in (Home.ABSENT, Home.CPUID):
            refuse(HvStatus.INVALID_PARAMETER)
        held = settled(register, value, self._partition.offer.widths)
        if held is None:
            refuse(HvStatus.INVALID_REGISTER_VALUE)
        match HOMES[register]:
            case Home.PROCESSOR:
                stopped = part.stopped()
                if not stopped.write(part.vtl_of(register), register, held):
                    refuse(HvStatus.INVALID_REGISTER_VALUE)
            case Home.VSM:
                self._check_privilege(target)
                setter = VSM_REGISTERS[register].set
                assert setter is not None  # writable, a test compares both tables
                setter(self._partition, target, held)
            case home:
                msrs = target.vp.vtls[target.vtl].msrs
                if not msrs.write(self._msr(home, target, register), held & _U64):
                    refuse(HvStatus.INVALID_PARAMETER)

    def _check_privilege(self, target: Target) -> None:
        if not target.caller.privileges & _ACCESS_VSM:
            refuse(HvStatus.ACCESS_DENIED)

    def _msr(self, home: Home, target: Target, register: int) -> int:
        caller = target.caller
        if home is Home.OWN_MSR and (target.vp.index, target.vtl) != (caller.vp, caller.vtl):
            refuse(HvStatus.INVALID_PARAMETER)
        return SYNTHETIC_MSRS[register]
