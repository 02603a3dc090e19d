# SPDX-License-Identifier: Apache-2.0
"""HvCallPostMessage, HvCallSignalEvent and their Direct forms (TLFS 11.11; markdown).

The Direct forms reach the SynIC of a lower VTL without a connection; the call table lets only VTL2 use them.

Implements: SYN-027, SYN-028, SYN-029
"""

from __future__ import annotations

from typing import Any

from vmm.hv.constants import (
    HV_MESSAGE_PAYLOAD_SIZE,
    HV_PARTITION_ID_SELF,
    HV_SYNIC_SINT_COUNT,
    HV_VP_INDEX_SELF,
)
from vmm.hv.inputs import (
    HV_INPUT_POST_MESSAGE,
    HV_INPUT_POST_MESSAGE_DIRECT,
    HV_INPUT_SIGNAL_EVENT,
    HV_INPUT_SIGNAL_EVENT_DIRECT,
)
from vmm.hv.messages import HV_MESSAGE
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import VpContext
from vmm.hypercall.call import CallInput, Reply, failed
from vmm.synic.connections import Connections, FindSynic
from vmm.synic.messages import MESSAGE_TYPE_NONE, PostedMessage
from vmm.synic.synic import Synic


class MessageCalls:
    """The handlers. Thread-safe, as what they call is."""

    def __init__(self, connections: Connections, find_synic: FindSynic) -> None:
        self._connections = connections
        self._find_synic = find_synic

    def post_message(self, context: VpContext, call: CallInput[HV_INPUT_POST_MESSAGE, Any]) -> Reply:
        """To the port behind a connection of the caller's VTL."""
        header = call.header
        if header.PayloadSize > HV_MESSAGE_PAYLOAD_SIZE:
            return failed(HvStatus.INVALID_PARAMETER)
        payload = header.Payload[: header.PayloadSize]
        status = self._connections.post_message(
            context.vp, context.vtl, header.ConnectionId, header.MessageType, payload
        )
        return status, 0, None

    def signal_event(self, context: VpContext, call: CallInput[HV_INPUT_SIGNAL_EVENT, Any]) -> Reply:
        """To the port behind a connection of the caller's VTL."""
        header = call.header
        status = self._connections.signal_event(
            context.vp, context.vtl, header.ConnectionId, header.FlagNumber
        )
        return status, 0, None

    def post_message_direct(
        self, context: VpContext, call: CallInput[HV_INPUT_POST_MESSAGE_DIRECT, Any]
    ) -> Reply:
        """Into a message queue of a lower VTL. The message's own flags are not taken over."""
        header = call.header
        found = self._target(context, header.PartitionId, header.VpIndex, header.Vtl, header.Sint)
        if isinstance(found, HvStatus):
            return failed(found)
        message = HV_MESSAGE.unpack(header.Message)
        if message.MessageType == MESSAGE_TYPE_NONE or message.PayloadSize > HV_MESSAGE_PAYLOAD_SIZE:
            return failed(HvStatus.INVALID_PARAMETER)
        posted = PostedMessage(message.MessageType, message.Payload[: message.PayloadSize], message.Sender)
        return found.post(header.Sint, posted), 0, None

    def signal_event_direct(
        self, context: VpContext, call: CallInput[HV_INPUT_SIGNAL_EVENT_DIRECT, Any]
    ) -> Reply:
        """Set an event flag of a lower VTL; output 1 when it was clear before."""
        header = call.header
        found = self._target(
            context, header.TargetPartition, header.TargetVp, header.TargetVtl, header.TargetSint
        )
        if isinstance(found, HvStatus):
            return failed(found)
        status, newly = found.signal_event(header.TargetSint, header.FlagNumber)
        return status, 0, int(newly)

    def _target(self, context: VpContext, partition: int, vp: int, vtl: int, sint: int) -> Synic | HvStatus:
        if partition != HV_PARTITION_ID_SELF:
            return HvStatus.INVALID_PARTITION_ID
        if sint >= HV_SYNIC_SINT_COUNT:
            return HvStatus.INVALID_PARAMETER
        synic = self._find_synic(context.vp if vp == HV_VP_INDEX_SELF else vp, vtl)
        return HvStatus.INVALID_VP_INDEX if synic is None else synic
