# SPDX-License-Identifier: Apache-2.0
"""Connections: what HvPostMessage and HvSignalEvent name, and the ports behind them (TLFS 11.2, 11.11).

A guest knows connection ids, one space per VTL. The port behind one belongs either to a VP's SynIC (guest to
guest) or to a service of the VMM. Guests cannot make either here; the VMM does (HvConnectPort and the like belong to
parent partitions).

Implements: SYN-027, SYN-028
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vmm.hv.constants import HV_ANY_VP, HV_MESSAGE_PAYLOAD_SIZE
from vmm.hv.status import HvStatus
from vmm.synic.messages import MESSAGE_TYPE_HYPERVISOR, MESSAGE_TYPE_NONE, PostedMessage
from vmm.synic.synic import Synic

PostHandler = Callable[[int, int, int, bytes], HvStatus]
"""`(vp, vtl, message type, payload) -> status`: a service of the VMM that takes messages. Must not block."""

SignalHandler = Callable[[int, int, int], HvStatus]
"""`(vp, vtl, flag) -> status`: a service of the VMM that takes events. Must not block."""

FindSynic = Callable[[int, int], Synic | None]
"""`(vp, vtl)` -> its SynIC, None when there is no such VP or VTL."""


@dataclass(frozen=True, slots=True)
class MessagePort:
    """Messages go to source `sint` of `vtl` on `vp` (HV_ANY_VP: the first VP)."""

    port_id: int
    vp: int
    vtl: int
    sint: int


@dataclass(frozen=True, slots=True)
class EventPort:
    """Events go to flags `base_flag` to `base_flag + flag_count - 1` of source `sint` of `vtl` on `vp`."""

    port_id: int
    vp: int
    vtl: int
    sint: int
    base_flag: int
    flag_count: int


@dataclass(frozen=True, slots=True)
class ServiceMessagePort:
    """Messages go to the VMM."""

    port_id: int
    handler: PostHandler


@dataclass(frozen=True, slots=True)
class ServiceEventPort:
    """Events go to the VMM."""

    port_id: int
    handler: SignalHandler
    flag_count: int


Port = MessagePort | EventPort | ServiceMessagePort | ServiceEventPort


class Connections:
    """The connections of a partition. Thread-safe: the table is replaced whole, posting takes no lock."""

    def __init__(self, find_synic: FindSynic) -> None:
        self._find_synic = find_synic
        self._lock = threading.Lock()
        self._table: dict[tuple[int, int], Port] = {}

    def connect(self, vtl: int, connection_id: int, port: Port) -> bool:
        """Let guests of `vtl` reach `port` as `connection_id`. False when the id is taken."""
        with self._lock:
            if (vtl, connection_id) in self._table:
                return False
            self._table = {**self._table, (vtl, connection_id): port}
            return True

    def disconnect(self, vtl: int, connection_id: int) -> bool:
        """Remove a connection. False when there is none."""
        with self._lock:
            table = dict(self._table)
            found = table.pop((vtl, connection_id), None) is not None
            self._table = table
            return found

    def post_message(
        self, vp: int, vtl: int, connection_id: int, message_type: int, payload: bytes
    ) -> HvStatus:
        """HvPostMessage of `vtl` on `vp`. payload: as long as its PayloadSize says.

        Errors: INVALID_PARAMETER (type 0 or a type of the hypervisor's, more than 240 bytes),
        INVALID_CONNECTION_ID, INVALID_PORT_ID (a port for events), INVALID_VP_INDEX (the port's VP is gone), and
        those of `Synic.post`.
        """
        if (
            message_type == MESSAGE_TYPE_NONE
            or message_type & MESSAGE_TYPE_HYPERVISOR
            or len(payload) > HV_MESSAGE_PAYLOAD_SIZE
        ):
            return HvStatus.INVALID_PARAMETER
        port = self._table.get((vtl, connection_id))
        match port:
            case None:
                return HvStatus.INVALID_CONNECTION_ID
            case ServiceMessagePort():
                return port.handler(vp, vtl, message_type, payload)
            case MessagePort():
                synic = self._synic(port)
                if synic is None:
                    return HvStatus.INVALID_VP_INDEX
                return synic.post(port.sint, PostedMessage(message_type, payload, port.port_id))
            case _:
                return HvStatus.INVALID_PORT_ID

    def signal_event(self, vp: int, vtl: int, connection_id: int, flag: int) -> HvStatus:
        """HvSignalEvent of `vtl` on `vp`.

        Errors: INVALID_CONNECTION_ID, INVALID_PORT_ID (a port for messages), INVALID_PARAMETER (a flag the port does
        not have), INVALID_VP_INDEX, and those of `Synic.signal_event`.
        """
        port = self._table.get((vtl, connection_id))
        if port is None:
            return HvStatus.INVALID_CONNECTION_ID
        if not isinstance(port, EventPort | ServiceEventPort):
            return HvStatus.INVALID_PORT_ID
        if not 0 <= flag < port.flag_count:
            return HvStatus.INVALID_PARAMETER
        if isinstance(port, ServiceEventPort):
            return port.handler(vp, vtl, flag)
        synic = self._synic(port)
        if synic is None:
            return HvStatus.INVALID_VP_INDEX
        return synic.signal_event(port.sint, port.base_flag + flag)[0]

    def _synic(self, port: MessagePort | EventPort) -> Synic | None:
        return self._find_synic(0 if port.vp == HV_ANY_VP else port.vp, port.vtl)
