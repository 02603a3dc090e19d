# SPDX-License-Identifier: Apache-2.0
"""The processor registers of a VP, of any of its VTLs (`vmm.vsm.outside.VpRegisters`), on the VP's own thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvmapi import KvmError, Vcpu
from vmm.backend.hyperv import apic_registers, event_registers, fpu_registers, register_access
from vmm.backend.hyperv.register_access import MSRS, Read, RegisterValueError, Write
from vmm.backend.vsm.scheduler import VtlVcpu
from vmm.backend.vsm.shared_msrs import MSRS as SHARED_MSRS
from vmm.backend.vsm.shared_msrs import SharedMsrs
from vmm.backend.vsm.shared_state import SharedState
from vmm.hv.register_bits import HV_X64_PENDING_EXCEPTION_EVENT
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus

HARDWARE: Final[dict[int, tuple[Read, Write | None]]] = (
    register_access.ACCESSORS | fpu_registers.ACCESSORS | event_registers.ACCESSORS | apic_registers.ACCESSORS
)


_PENDING_EVENT: Final = int(HvRegisterName.HvRegisterPendingEvent0)
_PAGE_FAULT: Final = 14


class OwnRegisters:
    """One VP between two entries into the guest."""

    def __init__(
        self, vtls: Mapping[int, VtlVcpu], running: Vcpu, shared: SharedState, shared_msrs: SharedMsrs
    ) -> None:
        """running: the vCPU whose exit is being handled, whose registers in kvm_run are valid."""
        self._running = running
        self._shared = shared
        self._vtls = vtls
        self._shared_msrs = shared_msrs
        self._fresh = {running}

    def read(self, vtl: int, register: int) -> int | None:
        """See `vmm.vsm.outside.VpRegisters`."""
        read, _ = HARDWARE.get(register, (None, None))
        if read is None:
            return None
        try:
            return read(self._vcpu(vtl))
        except KvmError:  # an MSR that this processor model does not have
            return None

    def write(self, vtl: int, register: int, value: int) -> HvStatus:
        """See `vmm.vsm.outside.VpRegisters`."""
        read, write = HARDWARE.get(register, (None, None))
        if write is None:
            return HvStatus.INVALID_PARAMETER
        vcpu = self._vcpu(vtl)
        msr = MSRS.get(register)
        if msr in SHARED_MSRS:
            done = self._shared_msrs.write(msr, value)
            return HvStatus.SUCCESS if done else HvStatus.INVALID_REGISTER_VALUE
        try:
            write(vcpu, value)
        except RegisterValueError:
            return HvStatus.INVALID_REGISTER_VALUE
        except KvmError:  # KVM checks what the processor would check
            there = read is None or self.read(vtl, register) is not None
            return HvStatus.INVALID_REGISTER_VALUE if there else HvStatus.INVALID_PARAMETER
        if register == _PENDING_EVENT and vcpu is not self._running:
            event = HV_X64_PENDING_EXCEPTION_EVENT(value)
            if event.EventPending and event.Vector == _PAGE_FAULT:
                self._shared.expect_fault(vcpu, event.ExceptionParameter)
        return HvStatus.SUCCESS

    def _vcpu(self, vtl: int) -> Vcpu:
        vcpu = self._vtls[vtl].vcpu
        if vcpu not in self._fresh:
            # A vCPU that has not run since it was given its registers may have older ones in kvm_run.
            register_access.refresh(vcpu)
            self._fresh.add(vcpu)
        return vcpu
