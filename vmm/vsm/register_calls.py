# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters: any register of the caller's or another VP, in its VTL or a lower one.

| fault | answer |
|---|---|
| partition other than SELF | INVALID_PARTITION_ID |
| no such VP | INVALID_VP_INDEX |
| target VTL above the caller's | ACCESS_DENIED, by the dispatcher |
| target VTL not enabled on the VP | INVALID_VTL_STATE |
| unknown register; one that this processor model lacks; a write to one that is only read | INVALID_PARAMETER |
| a shared register while the VP runs a VTL above the caller's | ACCESS_DENIED |
| a synthetic MSR's or VSM's register without its privilege | ACCESS_DENIED |
| an MSR's register, where a VTL above the caller's wants to be told of such accesses | ACCESS_DENIED |
| a value that the register cannot hold | INVALID_REGISTER_VALUE |

A slice of the list that names a register of a vCPU is carried out on the target VP's thread. A shared register is the
active VTL's, whichever VTL was named (REG-011).

Implements: REG-005, REG-006, REG-007, REG-008, REG-009, REG-010, REG-011, REG-012, REG-015
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.inputs import HV_INPUT_GET_VP_REGISTERS, HV_INPUT_SET_VP_REGISTERS
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hvcalls.register_values import settled
from vmm.hypercall.call import AGAIN, CallInput, Reply, failed
from vmm.vsm.intercept_table import READ, WRITE
from vmm.vsm.outside import VpRegisters, VsmCaller
from vmm.vsm.partition import VsmPartition
from vmm.vsm.register_homes import HOMES, ON_ITS_THREAD, SYNTHETIC_MSRS, Home
from vmm.vsm.registers import VSM_REGISTERS, RefusedRegisterError, Target, refuse
from vmm.vsm.scope import is_shared

VALUE_BYTES: Final = 16
_U64: Final = (1 << 64) - 1
_MSRS: Final = {int(name): name.msr for name in HvRegisterName if name.msr is not None}
_ACCESS_VSM: Final = HV_PARTITION_PRIVILEGE_MASK.AccessVsm.mask
_PRESENT: Final = frozenset(register for register, home in HOMES.items() if home is not Home.ABSENT)
READABLE: Final = frozenset(int(name) for name in HvRegisterName if name.access.readable and name in _PRESENT)
WRITABLE: Final = frozenset(
    int(name)
    for name in HvRegisterName
    if name.access.writable
    and name in _PRESENT
    and name is not HvRegisterName.HvX64RegisterTsc  # the same in all VTLs (VSM-067)
)


class RegisterCalls:
    """The handlers. Thread-safe."""

    def __init__(self, partition: VsmPartition) -> None:
        self._partition = partition
        self._visit = partition.services.visit
        self._constant = partition.services.constant_register

    def get(self, context: VsmCaller, call: CallInput[HV_INPUT_GET_VP_REGISTERS, int]) -> Reply:
        """Values of registers, up to the first that cannot be had."""
        target, names = self._target(context, call.header), call.elements
        if isinstance(target, HvStatus):
            return failed(target)
        if ON_ITS_THREAD.isdisjoint(names):
            return self._get(target, None, names)
        reply = self._visit(
            context.vp,
            target.vp.index,
            lambda vcpus: self._get(target, vcpus, names),
        )
        return (AGAIN, 0, ()) if reply is None else reply

    def set(self, context: VsmCaller, call: CallInput[HV_INPUT_SET_VP_REGISTERS, Any]) -> Reply:
        """Write registers, up to the first that refuses its value."""
        target, elements = self._target(context, call.header), call.elements
        if isinstance(target, HvStatus):
            return failed(target)
        if ON_ITS_THREAD.isdisjoint(element.Name for element in elements):
            return self._set(target, None, elements)
        reply = self._visit(
            context.vp,
            target.vp.index,
            lambda vcpus: self._set(target, vcpus, elements),
        )
        return (AGAIN, 0, None) if reply is None else reply

    def _target(self, context: VsmCaller, header: Any) -> Target | HvStatus:
        if header.PartitionId != HV_PARTITION_ID_SELF:
            return HvStatus.INVALID_PARTITION_ID
        index: int = context.vp if header.VpIndex == HV_VP_INDEX_SELF else header.VpIndex
        if not self._partition.has_vp(index):
            return HvStatus.INVALID_VP_INDEX
        vp, vtl = self._partition.vps[index], header.InputVtl.TargetVtl
        return Target(context, vp, vtl) if vp.enabled >> vtl & 1 else HvStatus.INVALID_VTL_STATE

    # ---- a slice -------------------------------------------------------------------------------------

    def _get(self, target: Target, vcpus: VpRegisters | None, names: Iterable[int]) -> Reply:
        values: list[bytes] = []
        try:
            for register in names:  # one by one: those before the bad one are the answer
                value = self._read(target, vcpus, register)
                values.append(value.to_bytes(VALUE_BYTES, "little"))
        except RefusedRegisterError as refused:
            return refused.status, len(values), values
        return HvStatus.SUCCESS, len(values), values

    def _set(self, target: Target, vcpus: VpRegisters | None, elements: Iterable[Any]) -> Reply:
        done = 0
        try:
            for element in elements:
                self._write(target, vcpus, element.Name, int.from_bytes(element.Value, "little"))
                done += 1
        except RefusedRegisterError as refused:
            return refused.status, done, None
        return HvStatus.SUCCESS, done, None

    # ---- one register --------------------------------------------------------------------------------

    def _read(self, target: Target, vcpus: VpRegisters | None, register: int) -> int:
        if register not in READABLE:
            refuse(HvStatus.INVALID_PARAMETER)
        self._check_intercepts(target, register, READ)
        home = HOMES[register]
        value: int | None
        if home is Home.PROCESSOR:
            assert vcpus is not None  # the slice names such a register, so it is a visit
            value = vcpus.read(self._vtl_of(target, register), register)
        elif home is Home.VSM:
            self._check_privilege(target)
            value = VSM_REGISTERS[register].get(self._partition, target)
        elif home is Home.CONSTANT:
            value = self._constant(register)
        else:
            value = target.vp.vtls[target.vtl].msrs.value(SYNTHETIC_MSRS[register])
            if value is None:
                refuse(HvStatus.ACCESS_DENIED)
        if value is None:
            refuse(HvStatus.INVALID_PARAMETER)
        return value

    def _write(self, target: Target, vcpus: VpRegisters | None, register: int, value: int) -> None:
        if register not in WRITABLE:
            refuse(HvStatus.INVALID_PARAMETER)
        self._check_intercepts(target, register, WRITE)
        held = settled(register, value, self._partition.offer.widths)
        if held is None:
            refuse(HvStatus.INVALID_REGISTER_VALUE)
        home = HOMES[register]
        if home is Home.PROCESSOR:
            assert vcpus is not None  # the slice names such a register, so it is a visit
            status = vcpus.write(self._vtl_of(target, register), register, held)
            if status != HvStatus.SUCCESS:
                refuse(status)
        elif home is Home.VSM:
            self._check_privilege(target)
            setter = VSM_REGISTERS[register].set
            assert setter is not None  # writable, a test compares both tables
            setter(self._partition, target, held)
        else:
            status = target.vp.vtls[target.vtl].msrs.put(SYNTHETIC_MSRS[register], held & _U64)
            if status != HvStatus.SUCCESS:
                refuse(status)

    def _vtl_of(self, target: Target, register: int) -> int:
        """Whose vCPU has the register. What a VTL above the caller's is working with is not shown."""
        if not is_shared(register, dr6_shared=self._partition.offer.dr6_shared):
            return target.vtl
        active = target.vp.active
        if active > target.caller.vtl:
            refuse(HvStatus.ACCESS_DENIED)
        return active

    def _check_intercepts(self, target: Target, register: int, access: int) -> None:
        """A hypercall is no way around an intercept of RDMSR or WRMSR."""
        msr = _MSRS.get(register)
        if msr is None:
            return
        table, caller = self._partition.intercepts, target.caller.vtl
        # What a write changes is not looked at: a mask excepts bits of a WRMSR, which can still be made.
        owner = table.msr_owner(target.vp.index, target.vtl, msr, access, lambda: _U64)
        if owner is not None and owner > caller:
            refuse(HvStatus.ACCESS_DENIED)

    def _check_privilege(self, target: Target) -> None:
        if not target.caller.privileges & _ACCESS_VSM:
            refuse(HvStatus.ACCESS_DENIED)
