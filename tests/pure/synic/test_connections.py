# SPDX-License-Identifier: Apache-2.0
"""Connections: which port a message or an event reaches, and with which status it does not."""

from __future__ import annotations

import pytest

from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hv.constants import HV_ANY_VP
from vmm.hv.status import HvStatus
from vmm.synic.connections import (
    Connections,
    EventPort,
    MessagePort,
    ServiceEventPort,
    ServiceMessagePort,
)
from vmm.synic.synic import Synic

CALLER_VP, VTL = 0, 0
SIMP_PAGE, SIEFP_PAGE, SINT = 5, 6, 8
CONNECTION = 0x10
TYPE = 1


class Rig(FakePartition):
    """VP 0 and 1 in VTL0 with a SynIC each, pages at 5, 6 and 7, 8; SINT 8 unmasked."""

    def __init__(self) -> None:
        super().__init__()
        self.synics = {(vp, VTL): Synic(vp, VTL, self.overlays, self.services) for vp in (0, 1)}
        for (vp, _), synic in self.synics.items():
            synic.write_simp((SIMP_PAGE + 2 * vp) * PAGE | 1)
            synic.write_siefp((SIEFP_PAGE + 2 * vp) * PAGE | 1)
            synic.write_sint(SINT, 0xB0 + vp)
        self.connections = Connections(lambda vp, vtl: self.synics.get((vp, vtl)))

    def post(self, connection: int = CONNECTION, message_type: int = TYPE, payload: bytes = b"p") -> HvStatus:
        return self.connections.post_message(CALLER_VP, VTL, connection, message_type, payload)

    def signal(self, flag: int = 0, connection: int = CONNECTION) -> HvStatus:
        return self.connections.signal_event(CALLER_VP, VTL, connection, flag)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.tlfs("SYN-027")
def test_a_message_reaches_the_ports_vp_and_source(rig: Rig) -> None:
    rig.connections.connect(VTL, CONNECTION, MessagePort(77, 1, VTL, SINT))

    assert rig.post(payload=b"12345678") == HvStatus.SUCCESS

    message = rig.message(SIMP_PAGE + 2, SINT)
    assert (message.MessageType, message.PayloadSize, message.Sender) == (TYPE, 8, 77)
    assert rig.services.taken() == [(1, VTL, 0xB1, False)]


def test_any_vp_means_the_first(rig: Rig) -> None:
    rig.connections.connect(VTL, CONNECTION, MessagePort(77, HV_ANY_VP, VTL, SINT))

    rig.post()

    assert rig.services.taken() == [(0, VTL, 0xB0, False)]


@pytest.mark.tlfs("SYN-027")
@pytest.mark.parametrize(
    ("message_type", "size"), [(0, 0), (0x80000000, 0), (0x80000010, 8), (0xFFFFFFFF, 8), (1, 241)]
)
def test_messages_no_guest_may_post(message_type: int, size: int) -> None:
    rig = Rig()
    rig.connections.connect(VTL, CONNECTION, MessagePort(77, 1, VTL, SINT))

    assert rig.post(message_type=message_type, payload=bytes(size)) == HvStatus.INVALID_PARAMETER
    assert rig.message(SIMP_PAGE + 2, SINT).MessageType == 0


@pytest.mark.tlfs("SYN-027", "SYN-028")
def test_unknown_connections(rig: Rig) -> None:
    rig.connections.connect(1, CONNECTION, MessagePort(77, 1, VTL, SINT))  # VTL1's connection

    assert (rig.post(), rig.signal()) == (HvStatus.INVALID_CONNECTION_ID,) * 2
    assert (rig.post(0xFFFFFFFF), rig.signal(0, 0xFFFFFFFF)) == (HvStatus.INVALID_CONNECTION_ID,) * 2


@pytest.mark.tlfs("SYN-027", "SYN-028")
def test_a_port_of_the_other_kind(rig: Rig) -> None:
    rig.connections.connect(VTL, 1, MessagePort(1, 1, VTL, SINT))
    rig.connections.connect(VTL, 2, EventPort(2, 1, VTL, SINT, 0, 1))

    assert (rig.signal(0, 1), rig.post(2)) == (HvStatus.INVALID_PORT_ID,) * 2


@pytest.mark.tlfs("SYN-027", "SYN-028")
def test_a_port_whose_vp_is_gone(rig: Rig) -> None:
    rig.connections.connect(VTL, 1, MessagePort(1, 9, VTL, SINT))
    rig.connections.connect(VTL, 2, EventPort(2, 0, 1, SINT, 0, 1))

    assert (rig.post(1), rig.signal(0, 2)) == (HvStatus.INVALID_VP_INDEX,) * 2


@pytest.mark.tlfs("SYN-027")
def test_the_synics_own_refusals_come_through(rig: Rig) -> None:
    rig.connections.connect(VTL, CONNECTION, MessagePort(77, 1, VTL, SINT))
    full = [rig.post() for _ in range(18)][-1]  # the slot and 16 that wait
    rig.synics[1, VTL].write_scontrol(0)

    assert (full, rig.post()) == (HvStatus.INSUFFICIENT_BUFFERS, HvStatus.INVALID_SYNIC_STATE)


@pytest.mark.tlfs("SYN-028")
def test_an_event_sets_its_flag_from_the_ports_base(rig: Rig) -> None:
    rig.connections.connect(VTL, CONNECTION, EventPort(77, 1, VTL, SINT, base_flag=100, flag_count=4))

    statuses = [rig.signal(flag) for flag in (0, 3, 4, 0xFFFF)]

    assert statuses == [HvStatus.SUCCESS] * 2 + [HvStatus.INVALID_PARAMETER] * 2
    assert rig.flags(SIEFP_PAGE + 2, SINT) == {100, 103}


def test_services_of_the_vmm_get_what_guests_send(rig: Rig) -> None:
    got: list[object] = []

    def post(vp: int, vtl: int, message_type: int, payload: bytes) -> HvStatus:
        got.append((vp, vtl, message_type, payload))
        return HvStatus.INSUFFICIENT_BUFFERS

    def signal(vp: int, vtl: int, flag: int) -> HvStatus:
        got.append((vp, vtl, flag))
        return HvStatus.SUCCESS

    rig.connections.connect(VTL, 1, ServiceMessagePort(1, post))
    rig.connections.connect(VTL, 2, ServiceEventPort(2, signal, flag_count=2))

    statuses = [rig.post(1, 5, b"abc"), rig.signal(1, 2), rig.signal(2, 2)]

    assert statuses == [HvStatus.INSUFFICIENT_BUFFERS, HvStatus.SUCCESS, HvStatus.INVALID_PARAMETER]
    assert got == [(0, 0, 5, b"abc"), (0, 0, 1)]


def test_ids_are_given_once_and_can_be_given_again(rig: Rig) -> None:
    port = MessagePort(77, 1, VTL, SINT)

    connected = [rig.connections.connect(VTL, 1, port) for _ in range(2)]
    disconnected = [rig.connections.disconnect(VTL, 1) for _ in range(2)]

    assert (connected, disconnected) == ([True, False], [True, False])
    assert rig.connections.connect(VTL, 1, port)
