# SPDX-License-Identifier: Apache-2.0
"""hyperv-testdev on top of SynICs and connections, driven as kvm-unit-tests drives it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hv.status import HvStatus
from vmm.machine.devices.hyperv_testdev import PORT, Command, HypervTestdev
from vmm.synic.connections import Connections, MessagePort
from vmm.synic.synic import Synic
from vmm.synic.test_routes import TestRoutes

VP_COUNT, VTL0, MSG_SINT, EVT_SINT = 2, 0, 8, 9


class Rig(FakePartition):
    def __init__(self) -> None:
        super().__init__()
        self.synics = [Synic(vp, VTL0, self.overlays, self.services) for vp in range(VP_COUNT)]
        self.connections = Connections(self.find)
        self.device = HypervTestdev(TestRoutes(self.find, self.connections))
        for vp, synic in enumerate(self.synics):
            synic.write_simp((4 + 2 * vp) * PAGE | 1)
            synic.write_siefp((5 + 2 * vp) * PAGE | 1)

    def find(self, vp: int, vtl: int) -> Synic | None:
        return self.synics[vp] if vtl == VTL0 and vp < VP_COUNT else None

    def command(self, command: int, vp: int, sint: int, connection: int = 0) -> None:
        self.device.write(0, 4, connection << 24 | command << 16 | vp << 8 | sint)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_its_port_is_the_one_the_tests_write() -> None:
    assert PORT == 0x3000


def test_a_source_is_asserted(rig: Rig) -> None:
    rig.synics[1].write_sint(3, 0xB3 | 1 << 17)
    rig.command(Command.SINT_ROUTE_CREATE, 1, 3)

    rig.command(Command.SINT_ROUTE_SET_SINT, 1, 3)

    assert rig.services.taken() == [(1, VTL0, 0xB3, True)]


def test_messages_as_in_hyperv_connections(rig: Rig) -> None:
    """Post to another CPU, post to the busy slot, then empty it: the pending message arrives."""
    rig.command(Command.MESSAGE_CONNECTION_CREATE, 1, MSG_SINT, 0x11)
    rig.synics[1].write_sint(MSG_SINT, 0xB0 | 1 << 17)
    statuses = [
        rig.connections.post_message(0, VTL0, 0x11, 0x12345678, bytes([n]) + bytes(7)) for n in (1, 2)
    ]
    busy = rig.message(6, MSG_SINT)
    interrupts = rig.services.taken()

    rig.empty_slot(6, MSG_SINT)
    rig.synics[1].write_eom(0)

    assert statuses == [HvStatus.SUCCESS] * 2
    assert (busy.Payload[0], bool(busy.MessageFlags.MessagePending)) == (1, True)
    assert interrupts == [(1, VTL0, 0xB0, True)]
    received = rig.message(6, MSG_SINT)
    assert (received.Payload[0], received.PayloadSize, int(received.MessageFlags)) == (2, 8, 0)
    assert rig.services.taken() == [(1, VTL0, 0xB0, True)]


def test_events_as_in_hyperv_connections(rig: Rig) -> None:
    """The flag is the connection id, the signalled number 0; signalling again changes nothing."""
    rig.command(Command.EVENT_CONNECTION_CREATE, 0, EVT_SINT, 0x20)
    rig.synics[0].write_sint(EVT_SINT, 0xB1 | 1 << 17)

    statuses = [rig.connections.signal_event(0, VTL0, 0x20, 0) for _ in range(2)]

    assert statuses == [HvStatus.SUCCESS] * 2
    assert rig.flags(5, EVT_SINT) == {0x20}
    assert rig.services.taken() == [(0, VTL0, 0xB1, True)]


@pytest.mark.parametrize(
    "destroy", [Command.MESSAGE_CONNECTION_DESTROY, Command.EVENT_CONNECTION_DESTROY, None]
)
def test_connections_go_by_command_and_by_reset(rig: Rig, destroy: Command | None) -> None:
    rig.command(Command.MESSAGE_CONNECTION_CREATE, 0, MSG_SINT, 0x10)

    if destroy is None:
        rig.device.reset()
    else:
        rig.command(destroy, 0, 0, 0x10)

    status = rig.connections.post_message(0, VTL0, 0x10, 1, b"")
    assert status == HvStatus.INVALID_CONNECTION_ID


def test_reset_leaves_other_connections_alone(rig: Rig) -> None:
    rig.connections.connect(VTL0, 0x10, MessagePort(1, 0, VTL0, MSG_SINT))
    rig.command(Command.MESSAGE_CONNECTION_CREATE, 0, MSG_SINT, 0x10)  # taken

    rig.command(Command.MESSAGE_CONNECTION_DESTROY, 0, 0, 0x10)
    rig.device.reset()

    assert rig.connections.post_message(0, VTL0, 0x10, 1, b"") == HvStatus.SUCCESS


def test_reads_give_all_ones(rig: Rig) -> None:
    assert [rig.device.read(0, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]


@given(st.integers(0, 3), st.sampled_from([1, 2, 4]), st.integers(0, (1 << 32) - 1))
def test_no_write_raises(offset: int, size: int, value: int) -> None:
    rig = Rig()

    rig.device.write(offset, size, value)

    if (offset, size) != (0, 4):
        assert rig.services.taken() == []
