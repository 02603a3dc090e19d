# SPDX-License-Identifier: Apache-2.0
"""HvCallAssertVirtualInterrupt: a VTL makes an interrupt for a lower one, as a device's message would (TLFS 10.5).

| type | taken | vector |
|---|---|---|
| fixed, lowest priority | yes, edge or level | 16 to 255 |
| NMI | yes | 0 |
| SMI, INIT, SIPI, ExtInt, LINT0, LINT1 | no: INVALID_PARAMETER | |

What is not taken is KVM's: its local APICs carry INIT and SIPI out untold, which a VP with a higher VTL must not hear
(VSM-129), and its PICs own ExtInt, for which alone a vector can be taken back (0xFFFFFFFF, ACKNOWLEDGED).

| destination | |
|---|---|
| physical | the APIC id of a VP (INVALID_VP_INDEX) that has the VTL (INVALID_VTL_STATE); 0xFF and 0xFFFFFFFF are all |
| logical | whom the local APICs of the target VTL take it to be for, which may be nobody |

The dispatcher refuses a VTL above the caller. No document says that a VTL may name itself, and OpenVMM refuses it:
ACCESS_DENIED.

Implements: SYN-030
"""

from __future__ import annotations

import enum
from typing import Any, Final

from vmm.hv.constants import HV_PARTITION_ID_SELF
from vmm.hv.inputs import HV_INPUT_ASSERT_VIRTUAL_INTERRUPT
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import MessageInterrupt, Processors, VpContext
from vmm.hypercall.call import DONE, CallInput, Reply, failed
from vmm.synic.interrupts import FIRST_VECTOR

_LAST_VECTOR: Final = 0xFF
_DESTINATIONS: Final = 1 << 32
_EVERYBODY: Final = (0xFF, 0xFFFF_FFFF)
"""Destination of all local APICs, in xAPIC and in x2APIC mode."""


class InterruptType(enum.IntEnum):
    """HV_INTERRUPT_TYPE of what is taken, which is also the delivery mode of a message (SDM volume 3, 11.11.2)."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    NMI = 4


class AssertionCalls:
    """The handler. Thread-safe."""

    def __init__(self, processors: Processors) -> None:
        self._processors = processors

    def assert_virtual_interrupt(
        self, context: VpContext, call: CallInput[HV_INPUT_ASSERT_VIRTUAL_INTERRUPT, Any]
    ) -> Reply:
        """HvCallAssertVirtualInterrupt."""
        header = call.header
        vtl, how, destination = header.TargetVtl, header.InterruptControl, header.DestinationAddress
        if header.TargetPartition != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        if vtl >= context.vtl:
            return failed(HvStatus.ACCESS_DENIED)
        if not self._known(how.InterruptType, header.RequestedVector) or destination >= _DESTINATIONS:
            return failed(HvStatus.INVALID_PARAMETER)
        status = self._reachable(vtl, destination, logical=how.LogicalDestinationMode)
        if status != HvStatus.SUCCESS:
            return failed(status)
        interrupt = MessageInterrupt(
            how.InterruptType,
            header.RequestedVector,
            destination,
            logical=how.LogicalDestinationMode,
            level=how.LevelTriggered,
        )
        self._processors.message_interrupt(vtl, interrupt)
        return DONE

    @staticmethod
    def _known(kind: int, vector: int) -> bool:
        if kind == InterruptType.NMI:
            return vector == 0
        return kind in (InterruptType.FIXED, InterruptType.LOWEST_PRIORITY) and (
            FIRST_VECTOR <= vector <= _LAST_VECTOR
        )

    def _reachable(self, vtl: int, destination: int, *, logical: bool) -> HvStatus:
        vps = self._processors.vp_mask(vtl)
        if not vps:
            return HvStatus.INVALID_VTL_STATE
        if logical:
            return HvStatus.SUCCESS
        vp = self._processors.vp_of_apic_id(destination)
        if vp is None:
            return HvStatus.SUCCESS if destination in _EVERYBODY else HvStatus.INVALID_VP_INDEX
        return HvStatus.SUCCESS if vps >> vp & 1 else HvStatus.INVALID_VTL_STATE
