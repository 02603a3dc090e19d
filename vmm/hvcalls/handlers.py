# SPDX-License-Identifier: Apache-2.0
"""The handlers of this package by call code, for `vmm.hypercall.dispatcher.Dispatcher`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmm.hv.call_codes import HypercallCode
from vmm.hvcalls.assertion import AssertionCalls
from vmm.hvcalls.extended import ExtendedCalls
from vmm.hvcalls.ipi import IpiCalls
from vmm.hvcalls.messages import MessageCalls
from vmm.hvcalls.outside import Processors, Tlbs
from vmm.hvcalls.processors import ProcessorCalls
from vmm.hvcalls.tlb import TlbCalls
from vmm.hypercall.call import Reply
from vmm.synic.connections import Connections, FindSynic


def handlers(
    connections: Connections, find_synic: FindSynic, processors: Processors, tlbs: Tlbs | None
) -> dict[int, Callable[..., Reply]]:
    """tlbs: None where the backend cannot flush another VP's TLB; those calls are then not there."""
    messages = MessageCalls(connections, find_synic)
    ipis = IpiCalls(processors)
    others = ProcessorCalls(processors)
    found: dict[int, Callable[[Any, Any], Reply]] = {
        HypercallCode.HvCallPostMessage: messages.post_message,
        HypercallCode.HvCallSignalEvent: messages.signal_event,
        HypercallCode.HvCallPostMessageDirect: messages.post_message_direct,
        HypercallCode.HvCallSignalEventDirect: messages.signal_event_direct,
        HypercallCode.HvCallSendSyntheticClusterIpi: ipis.send,
        HypercallCode.HvCallSendSyntheticClusterIpiEx: ipis.send_ex,
        HypercallCode.HvCallAssertVirtualInterrupt: AssertionCalls(processors).assert_virtual_interrupt,
        HypercallCode.HvCallGetVpIndexFromApicId: others.vp_index_from_apic_id,
        HypercallCode.HvCallNotifyLongSpinWait: others.notify_long_spin_wait,
        HypercallCode.HvExtCallQueryCapabilities: ExtendedCalls().query_capabilities,
    }
    if tlbs is not None:
        flushes = TlbCalls(processors, tlbs)
        flush_handlers: dict[int, Callable[[Any, Any], Reply]] = {
            HypercallCode.HvCallFlushVirtualAddressSpace: flushes.flush_space,
            HypercallCode.HvCallFlushVirtualAddressList: flushes.flush_list,
            HypercallCode.HvCallFlushVirtualAddressSpaceEx: flushes.flush_space_ex,
            HypercallCode.HvCallFlushVirtualAddressListEx: flushes.flush_list_ex,
        }
        found |= flush_handlers
    return found
