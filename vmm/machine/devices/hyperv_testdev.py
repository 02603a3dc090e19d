# SPDX-License-Identifier: Apache-2.0
"""hyperv-testdev of kvm-unit-tests: routes, connections and interrupts of the SynIC, made by a port write.

A 32-bit write to port 0x3000 (QEMU's hw/hyperv/hyperv_testdev.c is where the tests have it from):

| bits | |
|---|---|
| 7:0 | synthetic interrupt source |
| 15:8 | VP index |
| 23:16 | command |
| 31:24 | connection id |
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final, Protocol

PORT: Final = 0x3000
PORT_COUNT: Final = 4
_ACCESS_SIZE: Final = 4


class Command(IntEnum):
    """What the guest asks for."""

    SINT_ROUTE_CREATE = 1
    SINT_ROUTE_DESTROY = 2
    SINT_ROUTE_SET_SINT = 3
    MESSAGE_CONNECTION_CREATE = 4
    MESSAGE_CONNECTION_DESTROY = 5
    EVENT_CONNECTION_CREATE = 6
    EVENT_CONNECTION_DESTROY = 7


class SynicRoutes(Protocol):
    """The SynIC as this device sees it. Numbers come from a guest, unchecked; what makes no sense is ignored."""

    def assert_sint(self, vp: int, sint: int) -> None:
        """Request the interrupt of source `sint` of VP `vp`."""

    def create_message_connection(self, vp: int, sint: int, connection_id: int) -> None:
        """HvPostMessage to `connection_id` shall reach `sint` of `vp`."""

    def create_event_connection(self, vp: int, sint: int, connection_id: int) -> None:
        """HvSignalEvent to `connection_id` shall set flag `connection_id` of `sint` of `vp`."""

    def destroy_connection(self, connection_id: int) -> None:
        """Remove a connection made before."""

    def reset(self) -> None:
        """Remove all connections made before."""


class HypervTestdev:
    """The device: a region of four ports. Thread-safe, as its routes are."""

    name = "hyperv-testdev"

    def __init__(self, routes: SynicRoutes) -> None:
        self._routes = routes
        self._commands: dict[int, Callable[[int, int, int], None]] = {
            # A source needs no route to be addressed here.
            Command.SINT_ROUTE_CREATE: lambda vp, sint, connection_id: None,
            Command.SINT_ROUTE_DESTROY: lambda vp, sint, connection_id: None,
            Command.SINT_ROUTE_SET_SINT: lambda vp, sint, connection_id: routes.assert_sint(vp, sint),
            Command.MESSAGE_CONNECTION_CREATE: routes.create_message_connection,
            Command.MESSAGE_CONNECTION_DESTROY: lambda vp, sint, connection_id: routes.destroy_connection(
                connection_id
            ),
            Command.EVENT_CONNECTION_CREATE: routes.create_event_connection,
            Command.EVENT_CONNECTION_DESTROY: lambda vp, sint, connection_id: routes.destroy_connection(
                connection_id
            ),
        }

    def reset(self) -> None:
        """No connections."""
        self._routes.reset()

    def read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Do what `value` says. Writes of another size and unknown commands are ignored."""
        if offset != 0 or size != _ACCESS_SIZE:
            return
        command = self._commands.get(value >> 16 & 0xFF)
        if command is not None:
            command(value >> 8 & 0xFF, value & 0xFF, value >> 24 & 0xFF)
