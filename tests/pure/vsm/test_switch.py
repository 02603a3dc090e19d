# SPDX-License-Identifier: Apache-2.0
"""VTL call, VTL return, entries by interrupt, and what the VTLs find of them."""

from __future__ import annotations

import pytest

from tests.pure.vsm.world import World
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.vp_pages import HvVtlEntryReason
from vmm.vsm.actions import RaiseVina, ReturnRegisters, Run, SwitchReason, SwitchVtl, WaitForStartup
from vmm.vsm.profile import VsmProfile

CALL, RETURN, INTERRUPT = SwitchReason.CALL, SwitchReason.RETURN, SwitchReason.INTERRUPT
VINA = 0x130  # enabled, vector 0x30
AUTO_RESET, AUTO_EOI = 0x200, 0x400


@pytest.mark.tlfs("VSM-040", "VSM-050")
def test_a_call_enters_the_next_vtl_with_its_reason() -> None:
    world = World().enable(1)

    switch = world.caller().call()

    assert switch == SwitchVtl(0, 0, 1, CALL)
    assert world.services.pages[0, 1].entry_reason == HvVtlEntryReason.HvVtlEntryVtlCall
    assert world.partition.vps[0].next_step(0, 0) == Run(0, 1)


@pytest.mark.tlfs("VSM-003", "LNX-006")
def test_vp_status_tells_the_active_vtl() -> None:
    world = World().enable(1)
    world.caller().call()

    assert world.caller().read(Name.HvRegisterVsmVpStatus) == 0x3_0001


@pytest.mark.tlfs("VSM-041")
def test_a_call_without_a_higher_vtl_is_invalid_opcode() -> None:
    world = World()
    world.caller().enable_partition_vtl(1)  # on no VP yet

    assert world.caller().call() is None
    assert world.partition.vps[0].active == 0


@pytest.mark.tlfs("VSM-041")
@pytest.mark.parametrize("control", [1, 2, 1 << 63])
def test_a_call_with_a_control_value_is_invalid_opcode(control: int) -> None:
    world = World().enable(1)

    assert world.caller().switch_by(Code.HvCallVtlCall, control) is None
    assert world.partition.vps[0].active == 0


@pytest.mark.tlfs("VSM-042")
def test_a_return_from_the_lowest_vtl_is_invalid_opcode() -> None:
    assert World().enable(1).caller().vtl_return() is None


@pytest.mark.tlfs("VSM-042")
@pytest.mark.parametrize("control", [2, 3, 1 << 63])
def test_a_return_with_reserved_control_bits_is_invalid_opcode(control: int) -> None:
    world = World().enable(1)
    world.caller().call()

    assert world.caller().vtl_return(control) is None
    assert world.partition.vps[0].active == 1


@pytest.mark.tlfs("VSM-042", "VSM-046")
def test_a_fast_return_loads_no_registers() -> None:
    world = World().enable(1)
    world.caller().call()

    assert world.caller().vtl_return(1) == SwitchVtl(0, 1, 0, RETURN)


@pytest.mark.tlfs("VSM-045")
def test_a_return_loads_registers_from_the_page_of_the_vtl_that_returns() -> None:
    world = World().enable(1)
    world.caller().call()
    world.services.pages[0, 1].registers = (0xAAAA, 0xCCCC)
    world.services.pages[0, 0].registers = (1, 2)

    assert world.caller().vtl_return(0) == SwitchVtl(0, 1, 0, RETURN, ReturnRegisters(0xAAAA, 0xCCCC))


@pytest.mark.tlfs("VSM-045")
def test_a_32_bit_vtl_returns_three_registers() -> None:
    world = World().enable(1)
    world.caller().call()
    world.services.pages[0, 1].registers_x86 = (0xA, 0xC, 0xD)

    switch = world.caller(bits_64=False).vtl_return(0)

    assert switch == SwitchVtl(0, 1, 0, RETURN, ReturnRegisters(0xA, 0xC, 0xD))


@pytest.mark.tlfs("VSM-054")
def test_a_call_skips_no_vtl() -> None:
    world = World(maximum_vtl=2).enable(1, 2)

    first, second = world.caller().call(), world.caller().call()

    assert (first, second) == (SwitchVtl(0, 0, 1, CALL), SwitchVtl(0, 1, 2, CALL))
    assert world.caller().call() is None


@pytest.mark.tlfs("VSM-037", "VSM-054")
def test_a_call_goes_past_vtls_that_are_not_enabled() -> None:
    world = World(maximum_vtl=3).enable(3)

    assert world.caller().call() == SwitchVtl(0, 0, 3, CALL)


@pytest.mark.tlfs("VSM-042")
def test_returns_go_back_the_way_of_the_calls() -> None:
    world = World(maximum_vtl=2).enable(1, 2)
    world.caller().call()
    world.caller().call()

    assert world.caller().vtl_return() == SwitchVtl(0, 2, 1, RETURN)
    assert world.caller().vtl_return() == SwitchVtl(0, 1, 0, RETURN)


def test_a_return_from_an_interrupt_skips_a_vtl_that_nobody_entered() -> None:
    world = World(maximum_vtl=2).enable(1, 2)
    world.enter(0, 2)

    assert world.caller().vtl_return() == SwitchVtl(0, 2, 0, RETURN)


@pytest.mark.tlfs("VSM-051")
def test_an_entry_works_without_a_vp_assist_page() -> None:
    world = World().enable(1)
    page = world.services.pages[0, 1]
    page.enabled, page.entry_reason = False, 99

    assert world.caller().call() == SwitchVtl(0, 0, 1, CALL)
    assert page.entry_reason == 99


# ---- interrupts ----------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-050", "VSM-124", "VSM-136")
def test_an_interrupt_enters_a_higher_vtl_that_has_never_run() -> None:
    """`taking` is empty: RFLAGS.IF counts nowhere."""
    world = World().enable(1)

    step = world.partition.vps[0].next_step(0b10, 0)

    assert step == SwitchVtl(0, 0, 1, INTERRUPT)
    assert world.services.pages[0, 1].entry_reason == HvVtlEntryReason.HvVtlEntryInterrupt


@pytest.mark.tlfs("VSM-125")
def test_an_interrupt_that_priority_blocks_enters_nothing() -> None:
    world = World().enable(1)

    assert world.partition.vps[0].next_step(0b00, 0b10) == Run(0, 0)


@pytest.mark.tlfs("VSM-127", "IMP-003")
def test_of_several_the_highest_vtl_is_entered_and_the_lower_is_not_told() -> None:
    world = World(maximum_vtl=2).enable(1, 2)
    page = world.services.pages[0, 1]
    page.entry_reason = 99

    assert world.partition.vps[0].next_step(0b110, 0) == SwitchVtl(0, 0, 2, INTERRUPT)
    assert page.entry_reason == 99


@pytest.mark.tlfs("VSM-053", "VSM-128")
def test_an_interrupt_for_a_lower_vtl_waits() -> None:
    world = World().enable(1)
    world.enter(0, 1)

    assert world.partition.vps[0].next_step(0b01, 0b01) == Run(0, 1)


@pytest.mark.tlfs("VSM-055", "VSM-126")
def test_a_pending_interrupt_brings_a_vtl_back_right_after_its_return() -> None:
    world = World().enable(1)
    vp = world.partition.vps[0]
    world.caller().call()

    for _ in range(2):  # until VTL1 takes it
        world.caller().vtl_return()
        assert vp.next_step(0b10, 0) == SwitchVtl(0, 0, 1, INTERRUPT)
    assert world.services.pages[0, 1].entry_reason == HvVtlEntryReason.HvVtlEntryInterrupt


def test_a_vtl_that_is_not_enabled_is_not_entered() -> None:
    world = World(maximum_vtl=2).enable(1)

    assert world.partition.vps[0].next_step(0b100, 0) == Run(0, 0)


def test_a_vp_that_has_not_started_takes_no_interrupt() -> None:
    world = World().enable(1, vps=(0, 1))

    assert world.partition.vps[1].next_step(0b11, 0b11) == WaitForStartup(1)


@pytest.mark.tlfs("VSM-047")
@pytest.mark.parametrize(("profile", "store"), [(VsmProfile.HYPERV, False), (VsmProfile.KVM_V1, True)])
def test_storing_the_interrupted_registers_is_the_profile_s(profile: VsmProfile, store: bool) -> None:
    world = World(profile=profile).enable(1)

    step = world.partition.vps[0].next_step(0b10, 0)

    assert isinstance(step, SwitchVtl)
    assert step.store_registers is store


def test_an_intercept_page_entry_has_its_own_reason() -> None:
    world = World().enable(1)

    switch = world.partition.vps[0].enter(1, SwitchReason.INTERCEPT)

    assert switch == SwitchVtl(0, 0, 1, SwitchReason.INTERCEPT)
    assert world.services.pages[0, 1].entry_reason == HvVtlEntryReason.HvVtlEntryIntercept


# ---- VINA ----------------------------------------------------------------------------------------------


def with_vina(bits: int = 0) -> World:
    """VTL1 runs with VINA enabled."""
    world = World().enable(1)
    world.enter(0, 1)
    world.caller().set((Name.HvRegisterVsmVina, VINA | bits))
    return world


@pytest.mark.tlfs("VSM-132")
def test_vina_is_raised_once_until_the_guest_clears_it() -> None:
    world = with_vina()
    vp, page = world.partition.vps[0], world.services.pages[0, 1]

    assert vp.next_step(0b01, 0b01) == RaiseVina(0, 1, 0x30, False)
    assert page.vina_asserted
    assert vp.next_step(0b01, 0b01) == Run(0, 1)
    page.vina_asserted = False
    assert vp.next_step(0b01, 0b01) == RaiseVina(0, 1, 0x30, False)


@pytest.mark.tlfs("VSM-134")
def test_vina_is_not_raised_for_what_the_lower_vtl_would_not_take() -> None:
    """Its APIC has a vector above PPR, but RFLAGS.IF is clear."""
    assert with_vina().partition.vps[0].next_step(0b01, 0b00) == Run(0, 1)


def test_vina_is_not_raised_for_the_vtl_s_own_interrupts() -> None:
    assert with_vina().partition.vps[0].next_step(0b10, 0b10) == Run(0, 1)


@pytest.mark.tlfs("VSM-133")
def test_vina_can_end_its_own_interrupt() -> None:
    assert with_vina(AUTO_EOI).partition.vps[0].next_step(0, 1) == RaiseVina(0, 1, 0x30, True)


@pytest.mark.tlfs("VSM-057", "VSM-133")
@pytest.mark.parametrize(("bits", "stays"), [(0, True), (AUTO_RESET, False)])
def test_auto_reset_clears_vina_asserted_at_the_next_entry(bits: int, stays: bool) -> None:
    world = with_vina(bits)
    world.partition.vps[0].next_step(0, 1)
    world.leave(0)
    assert world.services.pages[0, 1].vina_asserted

    world.caller().call()

    assert world.services.pages[0, 1].vina_asserted is stays


def test_vina_without_a_page_is_raised_once_per_entry() -> None:
    world = with_vina()
    world.services.pages[0, 1].enabled = False
    vp = world.partition.vps[0]

    assert isinstance(vp.next_step(0, 1), RaiseVina)
    assert vp.next_step(0, 1) == Run(0, 1)
    world.leave(0)
    world.caller().call()
    assert isinstance(vp.next_step(0, 1), RaiseVina)


def test_vina_of_a_vtl_that_is_not_active_is_not_raised() -> None:
    world = with_vina()
    world.leave(0)

    assert world.partition.vps[0].next_step(0, 1) == Run(0, 0)
