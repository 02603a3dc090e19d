# SPDX-License-Identifier: Apache-2.0
"""HvCallInstallIntercept: a VTL asks to be told of accesses of the VTLs below it (TLFS 6.1, 6.3).

| type | parameter | taken |
|---|---|---|
| I/O port | port | reads, writes, or both |
| I/O port range (0x11) | first port 15:0, last 31:16 | the same |
| MSR | ignored | the same, of MSRs that the processor does not know |
| MSR index (0xC) | MSR | the same; x2APIC registers are KVM's alone |
| CPUID, exceptions, hypercalls, local APIC, registers, and all others | | no: INVALID_PARAMETER |

No KVM hands CPUID, exceptions and the local APIC's registers over to the VMM before they take effect. No access at all
(mask 0) takes an intercept back. Ports that KVM itself decodes cannot be seen: INVALID_PARAMETER. TLFS 6.1 has reads
and writes of ports and MSRs go together; guests ask for either alone (VSM-120).

HvCallRegisterInterceptResult has no handler: what CPUID answers cannot be changed once a vCPU has run.

Implements: VSM-119, VSM-120, WIN-008
"""

from __future__ import annotations

from typing import Any, Final

from vmm.hv.constants import HV_PARTITION_ID_SELF
from vmm.hv.inputs import HV_INPUT_INSTALL_INTERCEPT
from vmm.hv.memory_bits import HvInterceptType
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, CallInput, Reply, failed
from vmm.vsm.intercept_table import PORTS, READ, WRITE
from vmm.vsm.outside import VsmCaller
from vmm.vsm.partition import VsmPartition

MOST_MSRS: Final = 256
"""MSRs by number that a VTL may ask for: more is INSUFFICIENT_MEMORY."""
_X2APIC_MSRS: Final = range(0x800, 0x900)
_MSRS: Final = 1 << 32
_U16: Final = 0xFFFF


class InterceptCalls:
    """The handler. Thread-safe."""

    def __init__(self, partition: VsmPartition) -> None:
        self._partition = partition

    def install(self, context: VsmCaller, call: CallInput[HV_INPUT_INSTALL_INTERCEPT, Any]) -> Reply:
        """HvCallInstallIntercept. The table keeps VTL0 out."""
        header = call.header
        if header.PartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        accesses, parameter = int(header.AccessTypeMask), int(header.InterceptParameters)
        if accesses & ~(READ | WRITE):
            return failed(HvStatus.INVALID_PARAMETER)
        match header.InterceptType:
            case HvInterceptType.HvInterceptTypeX64IoPort if parameter < PORTS:
                status = self._ports(context, parameter, parameter, accesses)
            case HvInterceptType.HvInterceptTypeX64IoPortRange if parameter < 1 << 32:
                status = self._ports(context, parameter & _U16, parameter >> 16, accesses)
            case HvInterceptType.HvInterceptTypeX64Msr:
                status = self._unknown_msrs(context.vtl, accesses)
            case HvInterceptType.HvInterceptTypeX64MsrIndex if parameter < _MSRS:
                status = self._msr(context.vtl, parameter, accesses)
            case _:
                status = HvStatus.INVALID_PARAMETER
        return status, 0, None

    def _ports(self, context: VsmCaller, first: int, last: int, accesses: int) -> int:
        partition = self._partition
        if first > last or not partition.services.ports_can_be_seen(first, last):
            return HvStatus.INVALID_PARAMETER
        with partition.lock:
            partition.intercepts.set_ports(context.vtl, first, last, accesses)
        return HvStatus.SUCCESS if partition.services.ports_changed(context.vp) else AGAIN

    def _unknown_msrs(self, owner: int, accesses: int) -> int:
        partition = self._partition
        with partition.lock:
            table = partition.intercepts
            before = table.unknown_msrs(owner)
            table.set_unknown_msrs(owner, accesses)
            status = partition.services.msrs_changed()
            if status != HvStatus.SUCCESS:
                table.set_unknown_msrs(owner, before)
                partition.services.msrs_changed()
            return status

    def _msr(self, owner: int, msr: int, accesses: int) -> int:
        partition = self._partition
        if msr in _X2APIC_MSRS:
            return HvStatus.INVALID_PARAMETER
        with partition.lock:
            table = partition.intercepts
            before = table.msrs(owner).get(msr, 0)
            if len(table.msrs(owner)) >= MOST_MSRS and not before:
                return HvStatus.INSUFFICIENT_MEMORY
            table.set_msr(owner, msr, accesses)
            status = partition.services.msrs_changed()
            if status != HvStatus.SUCCESS:
                table.set_msr(owner, msr, before)
                partition.services.msrs_changed()
            return status
