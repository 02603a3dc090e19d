# SPDX-License-Identifier: Apache-2.0
"""HvCallSendSyntheticClusterIpi and its Ex form: a fixed interrupt for a set of VPs (TLFS 10.5).

The dispatcher has resolved the target VTL. VPs that do not have it are left out, as those that do not exist.

Implements: VP-008, VP-009, VP-010, VP-011
"""

from __future__ import annotations

from typing import Any, Final

from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.inputs import HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI, HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI_EX
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import Processors, VpContext
from vmm.hvcalls.vp_sets import members, of_set
from vmm.hypercall.call import DONE, CallInput, Reply, failed
from vmm.synic.interrupts import FIRST_VECTOR

_LAST_VECTOR: Final = 0xFF
_VTL: Final = HV_INPUT_VTL.TargetVtl.mask


class IpiCalls:
    """The handlers. Thread-safe."""

    def __init__(self, processors: Processors) -> None:
        self._processors = processors

    def send(self, context: VpContext, call: CallInput[HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI, Any]) -> Reply:
        """VPs 0 to 63 by a mask."""
        header = call.header
        vtl = header.TargetVtl & _VTL
        return self._send(header.Vector, vtl, header.ProcessorMask & self._processors.vp_mask(vtl))

    def send_ex(
        self, context: VpContext, call: CallInput[HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI_EX, Any]
    ) -> Reply:
        """VPs by a sparse set, or all."""
        header = call.header
        vtl = header.TargetVtl & _VTL
        status, vps = of_set(header.VpSet, call.variable, self._processors.vp_mask(vtl))
        return failed(status) if status else self._send(header.Vector, vtl, vps)

    def _send(self, vector: int, vtl: int, vps: int) -> Reply:
        if not FIRST_VECTOR <= vector <= _LAST_VECTOR:
            return failed(HvStatus.INVALID_PARAMETER)
        request = self._processors.request_interrupt
        for vp in members(vps):
            request(vp, vtl, vector, False)
        return DONE
