# SPDX-License-Identifier: Apache-2.0
"""HvRegisterVsmCapabilities, VsmPartitionConfig, VsmVina and VsmCodePageOffsets as guests see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.pure.hypercall.fakes import without
from tests.pure.vsm.world import OFFSETS, World
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.register_bits import HV_REGISTER_VSM_CAPABILITIES, HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.offer import BASE_CONFIG_BITS, VsmOffer
from vmm.vsm.outside import Refused

CONFIG = Name.HvRegisterVsmPartitionConfig
ENABLE = 1
REFUSED, BAD = HvStatus.INVALID_REGISTER_VALUE, HvStatus.INVALID_PARAMETER


def in_vtl1(**offer: Any) -> World:
    """VTL1 of VP 0 runs."""
    world = World(**offer).enable(1)
    world.enter(0, 1)
    return world


def mask(rights: int) -> int:
    """DefaultVtlProtectionMask in its place."""
    return rights << 1


@pytest.mark.tlfs("VSM-001")
def test_capabilities_say_what_is_offered() -> None:
    always = 1 << 17 | 1 << 27  # DenyLowerVtlStartup, InterceptPageAvailable
    assert World().caller().read(Name.HvRegisterVsmCapabilities) == always
    offered = World(mbec_vtls=0b10, dr6_shared=True).caller().read(Name.HvRegisterVsmCapabilities)
    assert HV_REGISTER_VSM_CAPABILITIES(offered) == HV_REGISTER_VSM_CAPABILITIES.make(
        DenyLowerVtlStartup=1, InterceptPageAvailable=1, MbecVtlMask=0b10, Dr6Shared=1
    )


@pytest.mark.tlfs("VSM-006", "VSM-010")
def test_config_at_first_restricts_nothing_and_zeroes_memory() -> None:
    assert in_vtl1().caller().read(CONFIG) == mask(0xF) | 1 << 5


@pytest.mark.tlfs("VSM-006", "VSM-009")
@pytest.mark.parametrize("rights", [0xF, 0xB, 0x7], ids=hex)
def test_config_with_a_mask_that_restricts_nothing_is_kept(rights: int) -> None:
    """0xF: OpenVMM's guest tests; 0xB: kvm-unit-tests. Without MBEC either execute bit lets execute (DIS-03)."""
    caller = in_vtl1().caller()

    assert caller.set((CONFIG, ENABLE | mask(rights))) == HvStatus.SUCCESS
    assert caller.read(CONFIG) == ENABLE | mask(rights)


@pytest.mark.tlfs("VSM-009")
def test_default_mask_stays_once_protection_is_enabled() -> None:
    """DIS-10: kvm-unit-tests writes another mask, needs success, and reads the old one."""
    caller = in_vtl1().caller()
    caller.set((CONFIG, ENABLE | mask(0xB)))

    assert caller.set((CONFIG, ENABLE)) == HvStatus.SUCCESS
    assert caller.read(CONFIG) == ENABLE | mask(0xB)


@pytest.mark.tlfs("VSM-008")
def test_protection_cannot_be_disabled() -> None:
    caller = in_vtl1().caller()
    caller.set((CONFIG, ENABLE | mask(0xF)))

    assert caller.set((CONFIG, mask(0xF))) == REFUSED
    assert caller.read(CONFIG) == ENABLE | mask(0xF)


@pytest.mark.tlfs("VSM-009")
@pytest.mark.parametrize("rights", [0x0, 0x1, 0x2, 0x3, 0xC, 0xD, 0xE], ids=hex)
def test_a_default_mask_that_restricts_is_refused_where_nothing_applies_it(rights: int) -> None:
    caller = in_vtl1().caller()

    assert caller.set((CONFIG, mask(rights))) == REFUSED


@pytest.mark.tlfs("VSM-012", "VSM-013")
@pytest.mark.parametrize("position", [*range(7, 12), *range(13, 16), 16, 20, 63])
def test_config_bits_that_are_not_offered_are_refused(position: int) -> None:
    caller = in_vtl1().caller()

    assert caller.set((CONFIG, mask(0xF) | 1 << position)) == REFUSED
    assert caller.read(CONFIG) == mask(0xF) | 1 << 5


@pytest.mark.tlfs("VSM-007")
def test_config_of_a_higher_vtl_is_denied() -> None:
    caller = World().enable(1).caller()

    assert caller.set((CONFIG, mask(0xF)), vtl=1) == HvStatus.ACCESS_DENIED
    assert caller.get(CONFIG, vtl=1) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-007")
def test_vtl0_has_no_config() -> None:
    caller = in_vtl1().caller()

    assert caller.set((CONFIG, mask(0xF)), vtl=0) == BAD
    assert caller.get(CONFIG, vtl=0) == BAD


@pytest.mark.tlfs("VSM-007")
def test_a_higher_vtl_writes_a_lower_one_s_config() -> None:
    world = World(maximum_vtl=2).enable(1, 2)
    world.enter(0, 2)

    assert world.caller().set((CONFIG, mask(0xB)), vtl=1) == HvStatus.SUCCESS
    assert (world.caller().read(CONFIG, vtl=1), world.caller().read(CONFIG)) == (
        mask(0xB),
        mask(0xF) | 1 << 5,
    )


@pytest.mark.tlfs("VSM-006")
def test_config_is_the_same_on_every_vp() -> None:
    world = World().enable(1, vps=(0, 1))
    world.enter(0, 1)
    world.caller().set((CONFIG, ENABLE | mask(0xF)))

    assert world.caller().read(CONFIG, vp=1) == ENABLE | mask(0xF)


class Recording:
    """Protections that take what they are told to take."""

    def __init__(self, answer: HvStatus = HvStatus.SUCCESS) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int]] = []

    def configure(
        self, vtl: int, old: HV_REGISTER_VSM_PARTITION_CONFIG, new: HV_REGISTER_VSM_PARTITION_CONFIG
    ) -> HvStatus:
        self.asked.append((vtl, int(new)))
        return self.answer

    def modify(
        self, caller_vtl: int, target_vtl: int, map_flags: int, gpns: Sequence[int]
    ) -> tuple[HvStatus, int]:
        raise AssertionError("no list of pages here")

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        return None

    def reset(self) -> None:
        raise AssertionError("no reset here")


@pytest.mark.parametrize("value", [ENABLE | mask(0x3), ENABLE | mask(0xF) | 1 << 12])
def test_what_restricts_is_carried_out_before_it_is_stored(value: int) -> None:
    protections = Recording()
    world = World(protections=protections, config_bits=BASE_CONFIG_BITS | 1 << 12).enable(1)
    world.enter(0, 1)

    assert world.caller().set((CONFIG, value)) == HvStatus.SUCCESS
    assert protections.asked == [(1, value)]
    assert world.caller().read(CONFIG) == value


def test_what_cannot_be_carried_out_is_not_stored() -> None:
    world = World(protections=Recording(HvStatus.INSUFFICIENT_MEMORY)).enable(1)
    world.enter(0, 1)

    assert world.caller().set((CONFIG, ENABLE | mask(0x3))) == HvStatus.INSUFFICIENT_MEMORY
    assert world.caller().read(CONFIG) == mask(0xF) | 1 << 5


@pytest.mark.tlfs("VSM-020")
@pytest.mark.parametrize(
    "name",
    [
        Name.HvRegisterVsmCapabilities,
        Name.HvRegisterVsmVpStatus,
        Name.HvRegisterVsmPartitionStatus,
        Name.HvRegisterVsmCodePageOffsets,
    ],
)
def test_vsm_registers_need_access_vsm(name: Name) -> None:
    caller = World().caller(privileges=without(HV_PARTITION_PRIVILEGE_MASK.AccessVsm.mask))

    assert caller.get(name) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VSM-004")
def test_code_page_offsets_are_the_page_s() -> None:
    assert World().caller().read(Name.HvRegisterVsmCodePageOffsets) == OFFSETS


@pytest.mark.tlfs("VSM-005")
def test_code_page_offsets_follow_the_reader_s_mode() -> None:
    caller = World().caller(bits_64=False)

    assert caller.read(Name.HvRegisterVsmCodePageOffsets) == OFFSETS + 1


@pytest.mark.tlfs("VSM-017")
def test_vina_is_kept_per_vp_and_vtl_with_its_reserved_bits() -> None:
    world = World().enable(1, vps=(0, 1))
    world.enter(0, 1)
    caller = world.caller()

    assert caller.set((Name.HvRegisterVsmVina, 0xFFFF_F730)) == HvStatus.SUCCESS
    assert caller.read(Name.HvRegisterVsmVina) == 0xFFFF_F730
    assert caller.read(Name.HvRegisterVsmVina, vp=1) == 0


@pytest.mark.tlfs("VSM-017")
def test_vtl0_has_no_vina() -> None:
    caller = in_vtl1().caller()

    assert caller.set((Name.HvRegisterVsmVina, 0x130), vtl=0) == BAD
    assert caller.get(Name.HvRegisterVsmVina, vtl=0) == BAD


def test_vina_with_a_vector_that_is_no_interrupt_is_refused() -> None:
    assert in_vtl1().caller().set((Name.HvRegisterVsmVina, 0x10F)) == REFUSED


@pytest.mark.parametrize("maximum", [0, 16])
def test_a_machine_with_no_higher_vtl_or_too_many_is_not_made(maximum: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 15"):
        VsmOffer(maximum_vtl=maximum)
