# SPDX-License-Identifier: Apache-2.0
"""What the hyperv-testdev of kvm-unit-tests asks for, done with SynICs and connections.

| request | here |
|---|---|
| SINT route create, destroy | nothing to do: a source is addressed directly |
| assert a SINT | its interrupt, without a message |
| message connection | a port on that source; the connection id is the port id |
| event connection | a port with one flag, whose number is the connection id |

Devices belong to VTL0 (TLFS 15.14), and so does what this one makes.
"""

from __future__ import annotations

from vmm.hv.constants import HV_SYNIC_SINT_COUNT
from vmm.synic.connections import Connections, EventPort, FindSynic, MessagePort

_VTL0 = 0


class TestRoutes:
    """SINT routes and connections made by a guest through the test device. Thread-safe."""

    __test__ = False  # for pytest: not a class of tests

    def __init__(self, find_synic: FindSynic, connections: Connections) -> None:
        self._find_synic = find_synic
        self._connections = connections
        self._made: set[int] = set()

    def assert_sint(self, vp: int, sint: int) -> None:
        """Request the interrupt of source `sint` of VP `vp`. Ignored where there is no such VP or source."""
        synic = self._find_synic(vp, _VTL0)
        if synic is not None and sint < HV_SYNIC_SINT_COUNT:
            synic.assert_sint(sint)

    def create_message_connection(self, vp: int, sint: int, connection_id: int) -> None:
        """Messages posted to `connection_id` go to `sint` of `vp`. Ignored when the id is taken."""
        if sint < HV_SYNIC_SINT_COUNT:
            port = MessagePort(connection_id, vp, _VTL0, sint)
            if self._connections.connect(_VTL0, connection_id, port):
                self._made.add(connection_id)

    def create_event_connection(self, vp: int, sint: int, connection_id: int) -> None:
        """Events signalled to `connection_id` go to flag `connection_id` of `sint` of `vp`."""
        if sint < HV_SYNIC_SINT_COUNT:
            port = EventPort(connection_id, vp, _VTL0, sint, base_flag=connection_id, flag_count=1)
            if self._connections.connect(_VTL0, connection_id, port):
                self._made.add(connection_id)

    def destroy_connection(self, connection_id: int) -> None:
        """Remove a connection made here. Others are left alone."""
        if connection_id in self._made:
            self._made.discard(connection_id)
            self._connections.disconnect(_VTL0, connection_id)

    def reset(self) -> None:
        """Remove all connections made here."""
        for connection_id in list(self._made):
            self.destroy_connection(connection_id)
