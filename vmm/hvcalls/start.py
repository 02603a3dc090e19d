# SPDX-License-Identifier: Apache-2.0
"""HvCallStartVirtualProcessor: a VP that waits for its start begins in a given state (TLFS 7.10.3).

| fault | answer |
|---|---|
| partition other than SELF | INVALID_PARTITION_ID |
| HV_VP_INDEX_SELF, the caller's own index, no such VP | INVALID_VP_INDEX |
| target VTL above the caller | ACCESS_DENIED, by the dispatcher |
| a higher VTL forbids it (DenyLowerVtlStartup) | ACCESS_DENIED |
| target VTL not enabled on the VP | INVALID_VTL_STATE |
| a context that no processor can be in; real mode above VTL0 | INVALID_REGISTER_VALUE |
| the VP runs, or has run since its last INIT | INVALID_VP_STATE |

Implements: VP-001, VP-002, VP-003
"""

from __future__ import annotations

from typing import Any, Protocol

from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.inputs import HV_INPUT_START_VIRTUAL_PROCESSOR
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.initial_context import settled_context
from vmm.hvcalls.outside import VpContext
from vmm.hvcalls.register_values import Widths
from vmm.hypercall.call import CallInput, Reply, failed

VTL0 = 0


class VpStarter(Protocol):
    """The VPs of the partition, as far as they can be started. Thread-safe."""

    def has_vp(self, vp: int) -> bool:
        """Whether a VP has this index."""

    def has_vtl(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` is enabled on the VP."""

    def start_denied(self, vp: int, caller_vtl: int) -> bool:
        """Whether a VTL above `caller_vtl` reserves starting of `vp` to itself (VSM-011)."""

    def start(self, caller: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """Let `vp` begin with `context` in `vtl`; `caller` is the VP that asks, on its own thread.

        An `HvStatus`: SUCCESS, INVALID_VP_STATE where it is started already, INVALID_REGISTER_VALUE where the
        processor model does not have what the context turns on. `AGAIN` where the answer takes longer.
        """


class StartCalls:
    """The handler. Thread-safe."""

    def __init__(self, starter: VpStarter, widths: Widths) -> None:
        self._starter = starter
        self._widths = widths

    def start_virtual_processor(
        self, context: VpContext, call: CallInput[HV_INPUT_START_VIRTUAL_PROCESSOR, Any]
    ) -> Reply:
        """See the module."""
        header, starter = call.header, self._starter
        vp, vtl = header.VpIndex, header.TargetVtl
        if header.PartitionId != HV_PARTITION_ID_SELF:
            return failed(HvStatus.INVALID_PARTITION_ID)
        if vp in (HV_VP_INDEX_SELF, context.vp) or not starter.has_vp(vp):
            return failed(HvStatus.INVALID_VP_INDEX)
        if starter.start_denied(vp, context.vtl):
            return failed(HvStatus.ACCESS_DENIED)
        if not starter.has_vtl(vp, vtl):
            return failed(HvStatus.INVALID_VTL_STATE)
        settled = settled_context(header.VpContext, self._widths, real_mode=vtl == VTL0)
        if settled is None:
            return failed(HvStatus.INVALID_REGISTER_VALUE)
        return starter.start(context.vp, vp, vtl, settled), 0, None
