# SPDX-License-Identifier: Apache-2.0
"""HvCallAssertVirtualInterrupt as VTL1 and VTL2 make it: 70 VPs whose APIC id is twice their index, VTL1 on two."""

from __future__ import annotations

import struct

import pytest

from tests.pure.hvcalls.rig import SELF, VPS, Rig
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import MessageInterrupt

pytestmark = pytest.mark.tlfs("SYN-030")

FIXED, LOWEST, SMI, REMOTE_READ, NMI, INIT, SIPI, EXT_INT, LINT0, LINT1 = range(10)
LEVEL, LOGICAL = 1 << 32, 1 << 33
VECTOR, NO_VECTOR = 0x41, 0xFFFF_FFFF
APIC_ID = 6  # VP 3
NONE = 2 * VPS


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.context.vtl = 2
    return made


def assert_interrupt(
    rig: Rig,
    control: int = FIXED,
    destination: int = APIC_ID,
    vector: int = VECTOR,
    vtl: int = 0,
    partition: int = SELF,
) -> int:
    """The status of a call with its 32 bytes in memory."""
    block = struct.pack("<QQQIB3x", partition, control, destination, vector, vtl)
    assert len(block) == 32
    return rig.slow(Code.HvCallAssertVirtualInterrupt, block)


@pytest.mark.parametrize("kind", [FIXED, LOWEST])
@pytest.mark.parametrize("vector", [16, VECTOR, 255])
def test_a_vector_for_a_lower_vtl(rig: Rig, kind: int, vector: int) -> None:
    assert assert_interrupt(rig, kind, vector=vector) == HvStatus.SUCCESS

    assert rig.messages == [(0, MessageInterrupt(kind, vector, APIC_ID, logical=False, level=False))]


def test_an_nmi_has_no_vector(rig: Rig) -> None:
    assert assert_interrupt(rig, NMI, vector=0) == HvStatus.SUCCESS
    assert assert_interrupt(rig, NMI, vector=VECTOR) == HvStatus.INVALID_PARAMETER

    assert rig.messages == [(0, MessageInterrupt(NMI, 0, APIC_ID, logical=False, level=False))]


def test_trigger_and_destination_modes(rig: Rig) -> None:
    assert assert_interrupt(rig, FIXED | LEVEL) == HvStatus.SUCCESS
    assert assert_interrupt(rig, LOWEST | LOGICAL, destination=0x81) == HvStatus.SUCCESS
    assert assert_interrupt(rig, FIXED, destination=0xFFFF_FFFF) == HvStatus.SUCCESS

    assert [message for _, message in rig.messages] == [
        MessageInterrupt(FIXED, VECTOR, APIC_ID, logical=False, level=True),
        MessageInterrupt(LOWEST, VECTOR, 0x81, logical=True, level=False),
        MessageInterrupt(FIXED, VECTOR, 0xFFFF_FFFF, logical=False, level=False),
    ]


@pytest.mark.parametrize("kind", [SMI, REMOTE_READ, INIT, SIPI, EXT_INT, LINT0, LINT1, 10, 0xFFFF_FFFF])
@pytest.mark.parametrize("vector", [0, VECTOR, NO_VECTOR])
def test_what_only_kvm_could_do_is_refused(rig: Rig, kind: int, vector: int) -> None:
    assert assert_interrupt(rig, kind, vector=vector) == HvStatus.INVALID_PARAMETER
    assert rig.messages == []


@pytest.mark.parametrize("vector", [0, 15, 256, NO_VECTOR])
def test_a_vector_that_no_local_apic_has(rig: Rig, vector: int) -> None:
    assert assert_interrupt(rig, vector=vector) == HvStatus.INVALID_PARAMETER
    assert rig.messages == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"partition": 42}, HvStatus.INVALID_PARTITION_ID),
        ({"destination": 7}, HvStatus.INVALID_VP_INDEX),
        ({"destination": NONE}, HvStatus.INVALID_VP_INDEX),
        ({"destination": 1 << 32}, HvStatus.INVALID_PARAMETER),
        ({"vtl": 1}, HvStatus.INVALID_VTL_STATE),  # not on VP 3
        ({"vtl": 1, "destination": 2}, HvStatus.SUCCESS),  # but on VP 1
        ({"vtl": 2}, HvStatus.ACCESS_DENIED),
        ({"vtl": 3}, HvStatus.ACCESS_DENIED),
        ({"vtl": 16}, HvStatus.INVALID_PARAMETER),
    ],
)
def test_who_is_meant(rig: Rig, arguments: dict[str, int], status: HvStatus) -> None:
    assert assert_interrupt(rig, **arguments) == status
    assert len(rig.messages) == (status == HvStatus.SUCCESS)


def test_a_vtl_that_no_vp_has(rig: Rig) -> None:
    rig.context.vtl = 3

    assert assert_interrupt(rig, FIXED | LOGICAL, destination=1, vtl=2) == HvStatus.INVALID_VTL_STATE
    assert rig.messages == []


@pytest.mark.parametrize(("caller", "status"), [(0, HvStatus.ACCESS_DENIED), (1, HvStatus.SUCCESS)])
def test_it_is_for_vtls_that_have_one_below(rig: Rig, caller: int, status: HvStatus) -> None:
    rig.context.vtl = caller

    assert assert_interrupt(rig) == status
    assert len(rig.messages) == (status == HvStatus.SUCCESS)
