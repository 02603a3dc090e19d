# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpIndexFromApicId and HvCallNotifyLongSpinWait (TLFS 7.10.4, 14.5).

Implements: VP-006, VP-007, MISC-001
"""

from __future__ import annotations

from typing import Any

from vmm.hv.constants import HV_PARTITION_ID_SELF
from vmm.hv.inputs import HV_INPUT_GET_VP_INDEX_FROM_APIC_ID, HV_INPUT_NOTIFY_LONG_SPIN_WAIT
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import Processors, VpContext
from vmm.hypercall.call import DONE, CallInput, Reply, failed


class ProcessorCalls:
    """The handlers. Thread-safe."""

    def __init__(self, processors: Processors) -> None:
        self._processors = processors

    def vp_index_from_apic_id(
        self, context: VpContext, call: CallInput[HV_INPUT_GET_VP_INDEX_FROM_APIC_ID, int]
    ) -> Reply:
        """VP indices of APIC ids; INVALID_PARAMETER at the first that no VP has.

        The target VTL need not be enabled yet: guests ask before they start it (VP-007).
        """
        if call.header.PartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        found: list[int] = []
        for apic_id in call.elements:
            vp = self._processors.vp_of_apic_id(apic_id)
            if vp is None:
                return failed(HvStatus.INVALID_PARAMETER, len(found), found)
            found.append(vp)
        return HvStatus.SUCCESS, len(found), found

    def notify_long_spin_wait(
        self, context: VpContext, call: CallInput[HV_INPUT_NOTIFY_LONG_SPIN_WAIT, Any]
    ) -> Reply:
        """A hint; always succeeds."""
        self._processors.spin_wait(context.vp, call.header.SpinCount)
        return DONE
