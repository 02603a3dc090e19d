# SPDX-License-Identifier: Apache-2.0
"""HvCallEnablePartitionVtl and HvCallEnableVpVtl: who may, and what each mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.vsm.world import CODE, CONTEXT, SELF, SETTLED_CONTEXT, VpCaller, World
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_ANY_VP, HV_VP_INDEX_SELF
from vmm.hv.inputs import HV_INPUT_ENABLE_VP_VTL
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN
from vmm.vsm.profile import VsmProfile

BOTH_PROFILES = pytest.mark.parametrize("profile", list(VsmProfile))
MBEC = 1


def enabled(caller: VpCaller) -> int:
    """EnabledVtlSet of the partition."""
    return caller.read(Name.HvRegisterVsmPartitionStatus) & 0xFFFF


# ---- the partition -------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-002", "VSM-022", "VSM-025")
def test_a_vtl_is_added_to_the_partition_and_nothing_runs_in_it() -> None:
    world = World()
    caller = world.caller()
    before = caller.read(Name.HvRegisterVsmPartitionStatus)

    status = caller.enable_partition_vtl(1)

    assert (before, status) == (0x1_0001, HvStatus.SUCCESS)
    assert caller.read(Name.HvRegisterVsmPartitionStatus) == 0x1_0003
    assert caller.read(Name.HvRegisterVsmVpStatus) == 0x1_0000


@pytest.mark.tlfs("VSM-024")
@BOTH_PROFILES
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"vtl": 0, "partition": 42}, HvStatus.INVALID_PARTITION_ID),
        ({"vtl": 0}, HvStatus.INVALID_PARAMETER),
        ({"vtl": 2}, HvStatus.INVALID_PARAMETER),  # MaximumVtl is 1
        ({"vtl": 16}, HvStatus.INVALID_PARAMETER),  # no VTL number
        ({"vtl": 1, "flags": MBEC}, HvStatus.INVALID_PARAMETER),  # not in MbecVtlMask
        ({"vtl": 1, "flags": 2}, HvStatus.INVALID_PARAMETER),  # shadow stacks: not offered
        ({"vtl": 1, "flags": 0x80}, HvStatus.INVALID_PARAMETER),
    ],
)
def test_partition_mistakes(profile: VsmProfile, arguments: dict[str, Any], status: HvStatus) -> None:
    caller = World(profile=profile).caller()

    assert caller.enable_partition_vtl(**arguments) == status
    assert enabled(caller) == 1


@pytest.mark.tlfs("VSM-024")
@pytest.mark.parametrize(
    ("profile", "status"),
    [(VsmProfile.HYPERV, HvStatus.INVALID_VTL_STATE), (VsmProfile.KVM_V1, HvStatus.INVALID_PARAMETER)],
)
def test_a_vtl_twice_for_the_partition(profile: VsmProfile, status: HvStatus) -> None:
    caller = World(profile=profile).caller()
    caller.enable_partition_vtl(1)

    assert caller.enable_partition_vtl(1) == status


@pytest.mark.tlfs("VSM-025")
def test_mbec_is_enabled_with_the_vtl_where_it_is_offered() -> None:
    caller = World(mbec_vtls=0b10).caller()

    assert caller.enable_partition_vtl(1, MBEC) == HvStatus.SUCCESS
    assert caller.read(Name.HvRegisterVsmPartitionStatus) == 0x1_0003 | 1 << 21  # MbecEnabledVtlSet 35:20


@pytest.mark.tlfs("VSM-023")
def test_a_vtl_cannot_enable_past_one_that_is_enabled() -> None:
    caller = World(maximum_vtl=2).caller()
    caller.enable_partition_vtl(1)

    assert caller.enable_partition_vtl(2) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-023", "VSM-037")
def test_a_vtl_may_enable_past_one_that_is_not() -> None:
    caller = World(maximum_vtl=2).caller()

    assert caller.enable_partition_vtl(2) == HvStatus.SUCCESS
    assert enabled(caller) == 0b101


@pytest.mark.tlfs("VSM-023")
def test_a_higher_vtl_enables_a_lower_one() -> None:
    world = World(maximum_vtl=2).enable(2)
    world.enter(0, 2)

    assert world.caller().enable_partition_vtl(1) == HvStatus.SUCCESS


# ---- a VP ----------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-026", "VSM-032")
def test_a_vp_gets_the_vtl_and_goes_on_in_its_own() -> None:
    world = World()
    caller = world.caller()
    caller.enable_partition_vtl(1)

    assert caller.enable_vp_vtl(HV_VP_INDEX_SELF, 1) == HvStatus.SUCCESS
    assert caller.read(Name.HvRegisterVsmVpStatus) == 0x3_0000  # EnabledVtlSet 0b11, ActiveVtl 0
    assert world.services.contexts[0, 1] == SETTLED_CONTEXT
    assert world.services.woken == [0]


@pytest.mark.tlfs("VSM-031")
@BOTH_PROFILES
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        # As kvm-unit-tests: before VTL1 is enabled for the partition.
        ({"vp": HV_VP_INDEX_SELF, "vtl": 1, "partition": 42}, HvStatus.INVALID_PARTITION_ID),
        ({"vp": HV_ANY_VP, "vtl": 1}, HvStatus.INVALID_VP_INDEX),
        ({"vp": 2, "vtl": 1}, HvStatus.INVALID_VP_INDEX),
        ({"vp": HV_VP_INDEX_SELF, "vtl": 0}, HvStatus.INVALID_PARAMETER),
        ({"vp": HV_VP_INDEX_SELF, "vtl": 16}, HvStatus.INVALID_PARAMETER),
    ],
)
def test_vp_mistakes(profile: VsmProfile, arguments: dict[str, Any], status: HvStatus) -> None:
    world = World(profile=profile)

    assert world.caller().enable_vp_vtl(**arguments) == status
    assert world.services.contexts == {}


@pytest.mark.tlfs("VSM-030")
@pytest.mark.parametrize(
    ("profile", "status"),
    [(VsmProfile.HYPERV, HvStatus.INVALID_VTL_STATE), (VsmProfile.KVM_V1, HvStatus.INVALID_PARAMETER)],
)
def test_vp_before_the_partition(profile: VsmProfile, status: HvStatus) -> None:
    assert World(profile=profile).caller().enable_vp_vtl(0, 1) == status


@pytest.mark.tlfs("VSM-031")
@pytest.mark.parametrize(
    ("profile", "status"),
    [(VsmProfile.HYPERV, HvStatus.VTL_ALREADY_ENABLED), (VsmProfile.KVM_V1, HvStatus.INVALID_PARAMETER)],
)
def test_a_vtl_twice_on_a_vp(profile: VsmProfile, status: HvStatus) -> None:
    world = World(profile=profile).enable(1)
    world.enter(0, 1)

    assert world.caller().enable_vp_vtl(0, 1) == status


@pytest.mark.tlfs("VSM-026")
def test_the_context_does_not_fit_a_fast_call() -> None:
    caller = World().caller()
    caller.enable_partition_vtl(1)
    caller.registers.rcx = Code.HvCallEnableVpVtl | 1 << 16

    caller.world.dispatcher.dispatch(caller, caller.registers, 2)

    assert caller.registers.rax == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("VSM-029")
def test_the_lower_vtl_may_begin_only_with_its_own_vp() -> None:
    world = World()
    caller = world.caller()
    caller.enable_partition_vtl(1)

    assert caller.enable_vp_vtl(1, 1) == HvStatus.ACCESS_DENIED
    assert world.partition.vp_mask(1) == 0


@pytest.mark.tlfs("VSM-028")
def test_once_a_vp_has_the_vtl_a_lower_one_may_not_enable_it() -> None:
    world = World().enable(1)

    assert world.caller(0).enable_vp_vtl(0, 1) == HvStatus.ACCESS_DENIED
    assert world.caller(1).enable_vp_vtl(1, 1) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-028")
def test_the_vtl_itself_enables_it_on_other_vps() -> None:
    world = World().enable(1)
    world.enter(0, 1)

    assert world.caller(0).enable_vp_vtl(1, 1) == HvStatus.SUCCESS
    assert world.partition.vp_mask(1) == 0b11


@pytest.mark.tlfs("VSM-028")
def test_a_vtl_is_not_given_to_a_vp_past_one_between() -> None:
    world = World(maximum_vtl=2)
    caller = world.caller()
    caller.enable_partition_vtl(1)
    world.partition.enabled |= 1 << 2  # as if VTL1 had enabled it

    assert caller.enable_vp_vtl(0, 2) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-031", "VSM-035")
def test_a_context_that_no_processor_can_be_in() -> None:
    caller = World().caller()
    caller.enable_partition_vtl(1)

    status = caller.enable_vp_vtl(0, 1, CONTEXT.replace(Cr0=0x8000_0000))  # paging without protection

    assert status == HvStatus.INVALID_REGISTER_VALUE
    assert caller.read(Name.HvRegisterVsmVpStatus) == 0x1_0000


@pytest.mark.tlfs("VSM-038")
def test_a_higher_vtl_has_no_real_mode() -> None:
    caller = World().caller()
    caller.enable_partition_vtl(1)

    assert (
        caller.enable_vp_vtl(0, 1, CONTEXT.replace(Cr0=0x10, Efer=0, Cs=CODE))
        == HvStatus.INVALID_REGISTER_VALUE
    )


@pytest.mark.parametrize("answer", [HvStatus.INSUFFICIENT_MEMORY, HvStatus.INVALID_REGISTER_VALUE])
def test_what_the_backend_refuses_changes_nothing(answer: HvStatus) -> None:
    world = World()
    caller = world.caller()
    caller.enable_partition_vtl(1)
    world.services.answer = answer

    assert caller.enable_vp_vtl(0, 1) == answer
    assert world.partition.vp_mask(1) == 0


def test_a_backend_that_needs_time_has_the_call_made_again() -> None:
    world = World()
    caller = world.caller()
    caller.enable_partition_vtl(1)
    world.services.answer = AGAIN
    assert caller.enable_vp_vtl(0, 1) == -1
    world.services.answer = HvStatus.SUCCESS

    assert caller.enable_vp_vtl(0, 1) == HvStatus.SUCCESS


def test_reserved_bytes_of_the_input_are_not_looked_at() -> None:
    """Released guests leave them uninitialised (kut.md 3.G)."""
    caller = World().caller()
    caller.enable_partition_vtl(1)
    block = bytearray(HV_INPUT_ENABLE_VP_VTL(SELF, 0, 1, CONTEXT).pack())
    block[13:16] = b"\xff\xff\xff"

    assert caller.status(Code.HvCallEnableVpVtl, bytes(block)) == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-019", "OHCL-003")
def test_vtl2_decides_how_high_the_guest_may_go() -> None:
    world = World(maximum_vtl=2).enable(2)
    guest = world.caller()
    assert guest.get(Name.GuestVsmPartitionConfig) == HvStatus.ACCESS_DENIED
    world.enter(0, 2)
    paravisor = world.caller()

    assert paravisor.read(Name.GuestVsmPartitionConfig) == 2
    assert paravisor.set((Name.GuestVsmPartitionConfig, 0)) == HvStatus.SUCCESS
    assert paravisor.read(Name.GuestVsmPartitionConfig) == 0
    assert paravisor.set((Name.GuestVsmPartitionConfig, 3)) == HvStatus.INVALID_REGISTER_VALUE
    assert paravisor.set((Name.GuestVsmPartitionConfig, 0x10)) == HvStatus.INVALID_REGISTER_VALUE
    world.leave(0)
    assert world.caller().enable_partition_vtl(1) == HvStatus.INVALID_PARAMETER
