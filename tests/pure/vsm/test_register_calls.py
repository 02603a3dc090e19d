# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters across VPs and VTLs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.vsm.world import World
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.register_calls import READABLE, WRITABLE
from vmm.vsm.register_homes import HOMES, ON_ITS_THREAD, Home

RAX, RSP, RIP, CR0, CR3, DR6 = (
    Name.HvX64RegisterRax, Name.HvX64RegisterRsp, Name.HvX64RegisterRip, Name.HvX64RegisterCr0,
    Name.HvX64RegisterCr3, Name.HvX64RegisterDr6,
)  # fmt: skip
UNKNOWN = 0xACAC_ACAC
SINT0, EOM = Name.HvRegisterSint0, Name.HvRegisterEom


def in_vtl1(**offer: Any) -> World:
    """Both VPs have VTL1; VP 0 runs it, VP 1 runs VTL0."""
    world = World(**offer).enable(1, vps=(0, 1))
    assert world.caller().start_vp(1, 0) == HvStatus.SUCCESS
    world.leave(1)
    world.enter(0, 1)
    return world


# ---- whose ---------------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-008", "REG-009")
def test_a_private_register_is_the_target_vtl_s() -> None:
    world = in_vtl1()
    world.services.registers.update({(0, 0, CR3): 0x1000, (0, 1, CR3): 0x2000})

    assert world.caller().read(CR3, vtl=0) == 0x1000
    assert world.caller().read(CR3) == 0x2000


@pytest.mark.tlfs("REG-010")
def test_a_vtl_may_read_its_own_registers() -> None:
    world = World()
    world.services.registers[0, 0, CR3] = 0x1000

    assert world.caller().read(CR3, vtl=0) == 0x1000


@pytest.mark.tlfs("REG-011")
def test_a_shared_register_is_the_active_vtl_s() -> None:
    world = in_vtl1()
    world.services.registers.update({(0, 0, RAX): 0xDEAD, (0, 1, RAX): 7})

    assert world.caller().read(RAX, vtl=0) == 7
    assert world.caller().set((RAX, 8), vtl=0) == HvStatus.SUCCESS
    assert world.services.registers[0, 1, RAX] == 8
    assert world.services.registers[0, 0, RAX] == 0xDEAD


@pytest.mark.parametrize(("shared", "vtl"), [(False, 0), (True, 1)])
def test_dr6_is_whose_the_capabilities_say(shared: bool, vtl: int) -> None:
    world = in_vtl1(dr6_shared=shared)

    world.caller().set((DR6, 5), vtl=0)

    assert world.services.registers[0, vtl, DR6] == 5


@pytest.mark.tlfs("REG-015")
def test_another_vp_s_registers_are_had_on_its_thread() -> None:
    world = in_vtl1()

    assert world.caller().set((RIP, 0x40_0000), (RSP, 0x50_0000), vp=1, vtl=0) == HvStatus.SUCCESS
    assert (world.services.registers[1, 0, RIP], world.services.registers[1, 0, RSP]) == (
        0x40_0000,
        0x50_0000,
    )
    assert world.services.visits == [(0, 1)]


@pytest.mark.tlfs("REG-015")
def test_vsm_s_own_registers_need_no_visit() -> None:
    world = in_vtl1()

    world.caller().get(Name.HvRegisterVsmVpStatus, SINT0, vp=1, vtl=0)

    assert world.services.visits == []


def test_a_vp_that_cannot_be_visited_yet_has_the_call_made_again() -> None:
    world = in_vtl1()
    world.services.busy.add(1)
    assert world.caller().get(RIP, vp=1, vtl=0) == -1
    assert world.caller().set((RIP, 1), vp=1, vtl=0) == -1
    assert (1, 0, RIP) not in world.services.registers

    world.services.busy.clear()

    assert world.caller().set((RIP, 1), vp=1, vtl=0) == HvStatus.SUCCESS


# ---- no right gained -----------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-004")
@pytest.mark.parametrize("vp", [0, 1])
def test_a_higher_vtl_is_out_of_reach(vp: int) -> None:
    world = in_vtl1()
    world.leave(0)

    assert world.caller().get(CR3, vp=vp, vtl=1) == HvStatus.ACCESS_DENIED
    assert world.caller().set((RIP, 0), vp=vp, vtl=1) == HvStatus.ACCESS_DENIED
    assert world.services.visits == []


def test_shared_registers_of_a_vp_that_runs_a_higher_vtl_are_out_of_reach() -> None:
    """VTL0 of VP 1 must not look at, or change, what VTL1 of VP 0 is working with."""
    world = in_vtl1()
    world.services.registers[0, 1, RAX] = 0x5EC2E7
    vtl0 = world.caller(1)

    assert vtl0.get(RAX, vp=0) == HvStatus.ACCESS_DENIED
    assert vtl0.set((RAX, 0), vp=0) == HvStatus.ACCESS_DENIED
    assert world.services.registers[0, 1, RAX] == 0x5EC2E7
    assert vtl0.get(RIP, vp=0) == HvStatus.SUCCESS  # its own level's


@pytest.mark.tlfs("REG-004")
def test_the_highest_vtl_that_can_be_named_is_out_of_reach() -> None:
    caller = World().caller()

    assert caller.get(RAX, vtl=15) == HvStatus.ACCESS_DENIED
    assert caller.set((RAX, 0), vtl=15) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("REG-003")
@pytest.mark.parametrize("input_vtl", [0x20, 0x40, 0x80, 0x30, 0x50, 0x90])  # with and without a target, VTL0
def test_an_input_vtl_with_reserved_bits_is_refused(input_vtl: int) -> None:
    world = World()
    caller = world.caller()
    target = HV_PARTITION_ID_SELF.to_bytes(8, "little") + HV_VP_INDEX_SELF.to_bytes(4, "little")
    header = target + bytes((input_vtl, 0, 0, 0))
    name = int(RAX).to_bytes(4, "little")
    element = name + bytes(12) + (7).to_bytes(16, "little")

    assert caller.status(Code.HvCallGetVpRegisters, header + name, 1) == HvStatus.INVALID_PARAMETER
    assert caller.status(Code.HvCallSetVpRegisters, header + element, 1) == HvStatus.INVALID_PARAMETER
    assert world.services.registers == {} and world.services.visits == []


# ---- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-005")
def test_another_partition_or_vp_does_not_exist() -> None:
    caller = World().caller()

    assert caller.get(RAX, partition=42) == HvStatus.INVALID_PARTITION_ID
    assert caller.get(RAX, vp=0xACAC_ACAC, vtl=0) == HvStatus.INVALID_VP_INDEX
    assert caller.set((RAX, 0), vp=0xACAC_ACAC, vtl=0) == HvStatus.INVALID_VP_INDEX


def test_a_vtl_that_the_vp_does_not_have_has_no_registers() -> None:
    world = World().enable(1)
    world.enter(0, 1)

    assert world.caller().get(RAX, vp=1) == HvStatus.INVALID_VTL_STATE
    assert world.caller().get(RAX, vp=1, vtl=0) == HvStatus.SUCCESS


@pytest.mark.tlfs("REG-006")
@pytest.mark.parametrize("register", [UNKNOWN, 0, 0x000D_0009])
def test_an_unknown_register(register: int) -> None:
    caller = in_vtl1().caller()

    assert caller.get(register) == HvStatus.INVALID_PARAMETER
    assert caller.set((register, 0)) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-006")
@pytest.mark.parametrize("vtl", [0, 1, 2])
def test_nobody_is_told_when_a_lower_vtl_can_take_an_interrupt(vtl: int) -> None:
    """Refused, and not taken and forgotten: a paravisor would wait for ever for its message."""
    world = World(maximum_vtl=2).enable(1, 2)
    world.enter(0, 2)
    caller, notifications = world.caller(), Name.HvRegisterDeliverabilityNotifications

    assert caller.set((notifications, 0b11), vtl=vtl) == HvStatus.INVALID_PARAMETER
    assert caller.get(notifications, vtl=vtl) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-007")
@pytest.mark.parametrize(
    "register",
    [
        Name.HvRegisterVsmVpStatus,
        Name.HvRegisterVsmPartitionStatus,
        Name.HvRegisterVsmCapabilities,
        Name.HvRegisterVsmCodePageOffsets,
        Name.HvRegisterVpIndex,
        Name.HvRegisterPrivilegesAndFeaturesInfo,
        Name.HvX64RegisterTsc,
    ],
)
def test_a_register_that_is_only_read(register: int) -> None:
    assert in_vtl1().caller().set((register, 0)) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-012")
@pytest.mark.parametrize(
    ("register", "value"),
    [
        (CR0, 1 << 31),  # PG without PE
        (CR0, 1 << 32),
        (RIP, 1 << 63),  # not canonical
        (RAX, 1 << 64),  # beyond its size
        (Name.HvX64RegisterPat, 2),  # no memory type
        (Name.HvX64RegisterRflags, 1 << 15),
    ],
)
def test_a_value_that_no_register_holds(register: int, value: int) -> None:
    world = in_vtl1()

    assert world.caller().set((register, value), vtl=0) == HvStatus.INVALID_REGISTER_VALUE
    assert world.services.registers == {}


def test_what_the_processor_model_lacks_or_refuses() -> None:
    world = in_vtl1()
    world.services.lacking.add(Name.HvX64RegisterXss)
    world.services.refused.add(0x1234)

    assert world.caller().get(Name.HvX64RegisterXss) == HvStatus.INVALID_PARAMETER
    assert world.caller().set((Name.HvX64RegisterXss, 0)) == HvStatus.INVALID_PARAMETER
    assert world.caller().set((CR3, 0x1234), vtl=0) == HvStatus.INVALID_REGISTER_VALUE


def test_synthetic_msrs_are_the_target_vtl_s_with_its_rules() -> None:
    world = in_vtl1()
    msrs = world.services.msrs[1, 0]
    msrs.faults.add(0x4000_0084)
    msrs.refused.add(15)

    assert world.caller().set((SINT0, 0x30), vp=1, vtl=0) == HvStatus.SUCCESS
    assert msrs.values == {0x4000_0090: 0x30}
    assert world.caller().read(SINT0, vp=1, vtl=0) == 0x30
    assert world.caller().set((SINT0, 15), vp=1, vtl=0) == HvStatus.INVALID_REGISTER_VALUE
    assert world.caller().set((EOM, 0), vp=1, vtl=0) == HvStatus.ACCESS_DENIED
    assert world.services.msrs[0, 1].values == {}


def test_msrs_with_a_vcpu_behind_them_are_had_on_its_thread() -> None:
    world = in_vtl1()

    assert world.caller().set((Name.HvX64RegisterSyntheticTpr, 2), vp=1, vtl=0) == HvStatus.SUCCESS
    assert world.services.visits == [(0, 1)]


def test_constants_are_what_the_machine_announces() -> None:
    caller = World().caller()

    assert caller.read(Name.HvRegisterPrivilegesAndFeaturesInfo) == 0xCAFE
    assert caller.get(Name.HvRegisterProcessorClockFrequency) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-001", "REG-002")
def test_registers_before_the_bad_one_are_done() -> None:
    world = in_vtl1()
    world.services.registers[0, 0, RSP] = 5
    caller = world.caller()

    assert caller.get(RSP, UNKNOWN, RIP, vtl=0) == HvStatus.INVALID_PARAMETER
    assert (caller.reps_done, caller.values(1)) == (1, [5])
    assert caller.set((RSP, 6), (CR0, 1 << 32), (RIP, 7), vtl=0) == HvStatus.INVALID_REGISTER_VALUE
    assert caller.reps_done == 1
    assert world.services.registers == {(0, 0, RSP): 6}


@pytest.mark.tlfs("REG-001")
def test_a_list_of_256_registers_is_read_in_slices() -> None:
    world = in_vtl1()
    caller = world.caller()
    world.services.registers[0, 0, RIP] = 9

    status = caller.get(*[RIP] * 256, vtl=0)
    while status == -1:  # a continuation
        caller.registers.rdx, caller.registers.r8 = 0x1000, 0x3000
        outcome = world.dispatcher.dispatch(caller, caller.registers, 2)
        status = -1 if outcome.name == "RETRY" else int(caller.registers.rax & 0xFFFF)

    assert (status, caller.reps_done) == (HvStatus.SUCCESS, 256)
    assert caller.values(256) == [9] * 256


# ---- every register ------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-017")
@pytest.mark.parametrize("vtl", [None, 0])
def test_every_register_is_answered_as_its_row_says(vtl: int | None) -> None:
    """433 registers read and written: with success where it has a home, else as unknown."""
    world = in_vtl1(maximum_vtl=2)
    caller = world.caller()
    lists = {name for name, home in HOMES.items() if home is Home.VSM}
    for name in Name:
        if name in lists:
            continue
        expected = HvStatus.SUCCESS if name in READABLE else HvStatus.INVALID_PARAMETER
        if HOMES[name] is Home.CONSTANT and name != 0x200:
            expected = HvStatus.INVALID_PARAMETER  # this machine announces one
        assert caller.get(name, vtl=vtl) == expected, name.name
        assert caller.set((name, 0), vtl=vtl) == (
            HvStatus.SUCCESS
            if name in WRITABLE and HOMES[name] is not Home.CONSTANT
            else HvStatus.INVALID_PARAMETER
        ), name.name
    assert caller.world.dispatcher.internal_errors == 0


@pytest.mark.tlfs("REG-004")
def test_no_register_of_a_higher_vtl_is_in_reach() -> None:
    world = in_vtl1()
    world.leave(0)
    caller = world.caller()

    for name in Name:
        assert caller.get(name, vtl=1) == HvStatus.ACCESS_DENIED, name.name
        assert caller.set((name, 0), vtl=1) == HvStatus.ACCESS_DENIED, name.name


def test_registers_of_a_vcpu_are_the_ones_that_need_its_thread() -> None:
    assert {RAX, RIP, CR3, Name.HvX64RegisterSyntheticEoi} <= ON_ITS_THREAD
    assert ON_ITS_THREAD.isdisjoint({Name.HvRegisterVsmVina, SINT0, Name.HvRegisterVpIndex})
