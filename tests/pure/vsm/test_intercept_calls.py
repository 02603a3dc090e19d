# SPDX-License-Identifier: Apache-2.0
"""HvCallInstallIntercept and the CrIntercept registers: who may, what is taken, what is refused, who is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.vsm.world import SELF, VpCaller, World
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.inputs import HV_INPUT_INSTALL_INTERCEPT
from vmm.hv.memory_bits import HV_INTERCEPT_ACCESS_MASK
from vmm.hv.memory_bits import HvInterceptType as Type
from vmm.hv.register_bits import HV_REGISTER_CR_INTERCEPT_CONTROL
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.intercept_calls import MOST_MSRS
from vmm.vsm.intercept_table import CONTROLS

READ, WRITE, EXECUTE = 1, 2, 4
PORT = 0x80
LSTAR, APIC_BASE, MISC_ENABLE = 0xC000_0082, 0x1B, 0x1A0
Control = HV_REGISTER_CR_INTERCEPT_CONTROL
CONTROL = int(Name.HvX64RegisterCrInterceptControl)
CR0_MASK, CR4_MASK, MISC_MASK = CONTROL + 1, CONTROL + 2, CONTROL + 3
IO_PORT, PORT_RANGE = Type.HvInterceptTypeX64IoPort, Type.HvInterceptTypeX64IoPortRange
MSR, MSR_INDEX = Type.HvInterceptTypeX64Msr, Type.HvInterceptTypeX64MsrIndex


def in_vtl1(vps: tuple[int, ...] = (0,), **offer: Any) -> World:
    """VTL1 runs on VP 0."""
    world = World(**offer).enable(1, vps=vps)
    world.enter(0, 1)
    return world


def install(
    caller: VpCaller, kind: int, parameter: int, accesses: int = READ | WRITE, partition: int = SELF
) -> int:
    block = HV_INPUT_INSTALL_INTERCEPT(partition, HV_INTERCEPT_ACCESS_MASK(accesses), kind, parameter)
    return caller.status(Code.HvCallInstallIntercept, block.pack())


def port_owner(world: World, port: int, access: int, size: int = 1, vtl: int = 0) -> int | None:
    return world.partition.intercepts.port_owner(vtl, port, size, access)


def msr_owner(world: World, msr: int, access: int, vp: int = 0, changes: int = 0) -> int | None:
    return world.partition.intercepts.msr_owner(vp, 0, msr, access, lambda: changes)


# ---- HvCallInstallIntercept ------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-120")
def test_vtl0_may_not_install_intercepts() -> None:
    assert install(World().enable(1).caller(), IO_PORT, PORT) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-119")
def test_intercepts_are_of_the_caller_s_own_partition() -> None:
    assert install(in_vtl1().caller(), IO_PORT, PORT, partition=5) == HvStatus.INVALID_PARTITION_ID


@pytest.mark.tlfs("VSM-119", "VSM-120", "WIN-008")
@pytest.mark.parametrize("accesses", [READ, WRITE, READ | WRITE])
def test_a_port_is_intercepted_for_the_accesses_asked_for(accesses: int) -> None:
    world = in_vtl1()

    assert install(world.caller(), IO_PORT, PORT, accesses) == HvStatus.SUCCESS

    for access in (READ, WRITE):
        assert port_owner(world, PORT, access) == (1 if accesses & access else None)
    assert port_owner(world, PORT + 1, WRITE) is None
    assert world.services.told == ["ports"]


@pytest.mark.tlfs("VSM-119")
def test_an_access_to_several_ports_counts_for_each() -> None:
    world = in_vtl1()
    install(world.caller(), IO_PORT, PORT)

    assert port_owner(world, PORT - 3, WRITE, size=4) == 1
    assert port_owner(world, PORT - 4, WRITE, size=4) is None


@pytest.mark.tlfs("VSM-119")
def test_no_accesses_take_an_intercept_back() -> None:
    world = in_vtl1()
    install(world.caller(), PORT_RANGE, 0x100 | 0x1FF << 16)

    assert install(world.caller(), IO_PORT, 0x180, 0) == HvStatus.SUCCESS

    assert [port_owner(world, port, WRITE) for port in (0xFF, 0x100, 0x180, 0x1FF, 0x200)] == [
        None, 1, None, 1, None,
    ]  # fmt: skip
    install(world.caller(), PORT_RANGE, 0x100 | 0x1FF << 16, 0)
    assert world.partition.intercepts.ports(0) is None


@pytest.mark.tlfs("VSM-119")
@pytest.mark.parametrize(
    ("kind", "parameter"), [(IO_PORT, 0x1_0000), (PORT_RANGE, 0x200 | 0x1FF << 16), (PORT_RANGE, 1 << 32)]
)
def test_a_port_that_there_is_not_is_refused(kind: int, parameter: int) -> None:
    assert install(in_vtl1().caller(), kind, parameter) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("VSM-119")
@pytest.mark.parametrize(("kind", "parameter"), [(IO_PORT, 0x40), (PORT_RANGE, 0x30 | 0x4F << 16)])
def test_a_port_that_kvm_decodes_cannot_be_intercepted(kind: int, parameter: int) -> None:
    world = in_vtl1()

    assert install(world.caller(), kind, parameter) == HvStatus.INVALID_PARAMETER
    assert world.partition.intercepts.ports(0) is None


@pytest.mark.tlfs("VSM-119")
@pytest.mark.parametrize("kind", [IO_PORT, PORT_RANGE, MSR, MSR_INDEX])
def test_there_is_no_execution_of_ports_and_msrs(kind: int) -> None:
    assert install(in_vtl1().caller(), kind, PORT, EXECUTE) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("VSM-119", "VSM-120")
@pytest.mark.parametrize(
    "kind",
    [kind for kind in (*Type, 4, 5, 0x14, 0xFFFF_FFFF) if kind not in (IO_PORT, PORT_RANGE, MSR, MSR_INDEX)],
)
@pytest.mark.parametrize("accesses", [0, READ, EXECUTE])
def test_what_no_host_can_show_is_refused(kind: int, accesses: int) -> None:
    assert install(in_vtl1().caller(), kind, 0, accesses) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("VSM-119")
def test_unknown_msrs_are_one_intercept() -> None:
    world = in_vtl1()

    assert install(world.caller(), MSR, 0, WRITE) == HvStatus.SUCCESS

    table = world.partition.intercepts
    assert (table.unknown_msr_owner(0, WRITE), table.unknown_msr_owner(0, READ)) == (1, None)
    assert world.services.told == ["msrs"]


@pytest.mark.tlfs("VSM-119")
def test_an_msr_is_intercepted_on_all_vps() -> None:
    world = in_vtl1()

    assert install(world.caller(), MSR_INDEX, LSTAR, READ) == HvStatus.SUCCESS

    assert [msr_owner(world, LSTAR, READ, vp) for vp in (0, 1)] == [1, 1]
    assert msr_owner(world, LSTAR, WRITE) is None
    assert world.partition.intercepts.msr_accesses(0) == {LSTAR: READ}


@pytest.mark.tlfs("VSM-119")
@pytest.mark.parametrize("msr", [0x800, 0x8FF, 1 << 32])
def test_an_msr_that_kvm_never_hands_over_is_refused(msr: int) -> None:
    assert install(in_vtl1().caller(), MSR_INDEX, msr) == HvStatus.INVALID_PARAMETER


def test_a_filter_that_the_host_refuses_leaves_what_was() -> None:
    world = in_vtl1()
    install(world.caller(), MSR_INDEX, LSTAR, READ)
    world.services.msr_answer = HvStatus.INSUFFICIENT_MEMORY

    assert install(world.caller(), MSR_INDEX, LSTAR, WRITE) == HvStatus.INSUFFICIENT_MEMORY
    assert install(world.caller(), MSR_INDEX, APIC_BASE) == HvStatus.INSUFFICIENT_MEMORY
    assert install(world.caller(), MSR, 0) == HvStatus.INSUFFICIENT_MEMORY
    assert world.partition.intercepts.unknown_msr_accesses(0) == 0

    assert world.partition.intercepts.msrs(1) == {LSTAR: READ}


def test_a_vtl_may_not_ask_for_any_number_of_msrs() -> None:
    world = in_vtl1()
    caller = world.caller()
    for msr in range(MOST_MSRS):
        assert install(caller, MSR_INDEX, 0x1000 + msr) == HvStatus.SUCCESS

    assert install(caller, MSR_INDEX, LSTAR) == HvStatus.INSUFFICIENT_MEMORY
    assert install(caller, MSR_INDEX, 0x1000, 0) == HvStatus.SUCCESS
    assert install(caller, MSR_INDEX, LSTAR) == HvStatus.SUCCESS


def test_the_call_is_made_again_until_all_vps_know() -> None:
    world = in_vtl1()
    world.services.busy.add(1)
    assert install(world.caller(), IO_PORT, PORT) == -1
    world.services.busy.clear()

    assert install(world.caller(), IO_PORT, PORT) == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-106", "VSM-119")
def test_the_ports_of_a_vtl_are_those_of_all_vtls_above() -> None:
    table = World(maximum_vtl=3).partition.intercepts
    for owner in (1, 2, 3):
        table.set_ports(owner, owner, owner, owner)

    seen = [table.ports(vtl) for vtl in range(4)]

    assert [ports and list(ports[1:4]) for ports in seen] == [[1, 2, 3], [0, 2, 3], [0, 0, 3], None]


@pytest.mark.tlfs("VSM-106")
def test_of_several_vtls_the_lowest_is_told() -> None:
    world = World(maximum_vtl=2).enable(1, 2)
    world.enter(0, 2)
    install(world.caller(), IO_PORT, PORT)
    world.leave(0)
    assert port_owner(world, PORT, WRITE) == 2
    world.enter(0, 1)
    install(world.caller(), IO_PORT, PORT)

    assert [port_owner(world, PORT, WRITE, vtl=vtl) for vtl in (0, 1, 2)] == [1, 2, None]


@pytest.mark.tlfs("VSM-039")
def test_a_reset_forgets_them() -> None:
    world = in_vtl1()
    install(world.caller(), IO_PORT, PORT)
    install(world.caller(), MSR_INDEX, LSTAR)
    world.caller().set((CONTROL, Control.MsrEferWrite.mask))

    world.partition.reset()

    table = world.partition.intercepts
    assert table.ports(0) is None and table.msr_accesses(0) == {} and table.control(0, 1, CONTROL) == 0


# ---- CrIntercept registers -------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-113")
def test_the_control_register_is_read_back_and_intercepts_on_its_vp() -> None:
    """As OTMK does: 0x1000 is the write of APIC_BASE."""
    world = in_vtl1(vps=(0, 1))
    caller = world.caller()

    assert caller.set((CONTROL, 0x1000)) == HvStatus.SUCCESS

    assert caller.read(CONTROL) == 0x1000
    assert [msr_owner(world, APIC_BASE, WRITE, vp) for vp in (0, 1)] == [1, None]
    assert msr_owner(world, APIC_BASE, READ) is None
    assert world.services.told == ["msrs"]
    assert caller.read(CONTROL, vp=1) == 0
    assert caller.set((CONTROL, 0x1000), vp=1) == HvStatus.SUCCESS
    assert msr_owner(world, APIC_BASE, WRITE, 1) == 1


@pytest.mark.tlfs("VSM-113", "WIN-007")
@pytest.mark.parametrize("bit", CONTROLS)
def test_each_msr_bit_intercepts_its_msrs(bit: int) -> None:
    world = in_vtl1()
    msrs, access = CONTROLS[bit]

    assert world.caller().set((CONTROL, bit), (MISC_MASK, 1)) == HvStatus.SUCCESS

    assert world.partition.intercepts.msr_accesses(0) == dict.fromkeys(msrs, access)
    assert [msr_owner(world, msr, access, changes=1) for msr in msrs] == [1] * len(msrs)
    world.caller().set((CONTROL, 0))
    assert world.partition.intercepts.msr_accesses(0) == {}


@pytest.mark.tlfs("VSM-113", "VSM-116")
@pytest.mark.parametrize("position", [0, 1, 2, 15, 16, 17, 18, 29, 63])
def test_a_bit_that_no_host_can_show_is_refused(position: int) -> None:
    caller = in_vtl1().caller()
    caller.set((CONTROL, 0x1000))

    assert caller.set((CONTROL, 0x1000 | 1 << position)) == HvStatus.INVALID_REGISTER_VALUE
    assert caller.read(CONTROL) == 0x1000


@pytest.mark.tlfs("VSM-116")
def test_the_registers_are_not_vtl0_s() -> None:
    world = World().enable(1)
    for register in range(CONTROL, CONTROL + 4):
        assert world.caller().get(register) == HvStatus.ACCESS_DENIED
        assert world.caller().set((register, 0)) == HvStatus.ACCESS_DENIED
        assert world.caller().get(register, vtl=1) == HvStatus.ACCESS_DENIED
    world.enter(0, 1)
    assert world.caller().get(CONTROL, vtl=0) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-114", "VSM-115")
def test_a_write_counts_only_if_it_changes_a_bit_of_the_mask() -> None:
    world = in_vtl1()
    world.caller().set((CONTROL, Control.IA32MiscEnableWrite.mask | Control.IA32MiscEnableRead.mask))
    assert msr_owner(world, MISC_ENABLE, WRITE, changes=0xFFFF) is None  # the mask is 0 at first

    world.caller().set((MISC_MASK, 1 << 16))

    assert msr_owner(world, MISC_ENABLE, WRITE, changes=1 << 16 | 1) == 1
    assert msr_owner(world, MISC_ENABLE, WRITE, changes=1) is None
    assert msr_owner(world, MISC_ENABLE, READ) == 1  # the mask is of writes


@pytest.mark.tlfs("VSM-114")
def test_masks_are_kept_and_mean_nothing_without_their_control_bit() -> None:
    world = in_vtl1()
    caller = world.caller()
    for mask in (CR0_MASK, CR4_MASK, MISC_MASK):
        assert caller.read(mask) == 0
        assert caller.set((mask, 0x1234)) == HvStatus.SUCCESS
        assert caller.read(mask) == 0x1234
    assert world.partition.intercepts.msr_accesses(0) == {}


def test_a_control_value_that_the_host_refuses_is_not_kept() -> None:
    world = in_vtl1()
    world.services.msr_answer = HvStatus.INSUFFICIENT_MEMORY

    assert world.caller().set((CONTROL, 0x1000)) == HvStatus.INSUFFICIENT_MEMORY
    assert world.caller().read(CONTROL) == 0


# ---- no way around ---------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-117")
def test_a_hypercall_of_vtl0_is_no_way_around_an_msr_intercept() -> None:
    world = in_vtl1()
    name = Name.HvX64RegisterLstar
    world.caller().set((CONTROL, Control.MsrLstarWrite.mask))
    assert world.caller().set((name, 0x1000), vtl=0) == HvStatus.SUCCESS  # VTL1 itself
    world.leave(0)

    assert world.caller().set((name, 0x2000)) == HvStatus.ACCESS_DENIED
    assert world.caller().read(name) == 0x1000  # reads are not intercepted
    assert world.caller().set((Name.HvX64RegisterStar, 0)) == HvStatus.SUCCESS
