# SPDX-License-Identifier: Apache-2.0
"""The state machine over the real Hyper-V state: VP assist pages in guest memory, synthetic MSRs per VTL, a reboot."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.hypercall.fakes import ALL_PRIVILEGES
from tests.pure.synic.partition import PAGE, FakePartition
from tests.pure.vsm.world import Services, World
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.msrs import HvMsr
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hv.vp_pages import HV_VP_ASSIST_PAGE
from vmm.hvmsr.state import HvOffer, HvState
from vmm.overlay.copying import CopyingBackend
from vmm.vsm.actions import RaiseVina, ReturnRegisters, SwitchReason, SwitchVtl
from vmm.vsm.offer import VsmOffer
from vmm.vsm.partition import VsmPartition

NUMBER = 5  # the guest page of VTL1's VP assist page
RAM = b"\xcc" * PAGE  # what a page holds that nobody has written


class StateServices(Services):
    """A backend with the real state and no vCPUs."""

    def __init__(self, state: HvState) -> None:
        super().__init__()
        self.state = state

    def add_vtl(self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        self.state.enable_vtl(vp, vtl)
        return HvStatus.SUCCESS

    def assist_page(self, vp: int, vtl: int) -> Any:
        return self.state.enable_vtl(vp, vtl).vp_assist

    def synthetic_msrs(self, vp: int, vtl: int) -> Any:
        return self.state.enable_vtl(vp, vtl).msrs


class Rig(World):
    """VTL1 on VP 0 has placed its VP assist page."""

    def __init__(self) -> None:
        super().__init__()
        self.outside = FakePartition()
        offer = HvOffer(
            HV_PARTITION_PRIVILEGE_MASK(ALL_PRIVILEGES),
            HV_HYPERVISOR_FEATURES_EDX(0xFFFF_FFFF),
            gpa_bits=40,
            tsc_hz=2_500_000_000,
            apic_hz=1_000_000_000,
        )
        memory = self.outside.memory
        self.state = HvState(offer, self.outside.services, memory, self.outside.clock, CopyingBackend(memory))
        self.services = StateServices(self.state)
        self.partition = VsmPartition(2, VsmOffer(), self.services)
        self.rebuild()

    def begin(self) -> None:
        """What a guest does at boot."""
        self.enable(1)
        self.enter(0, 1)
        assert self.state.write_msr(0, 1, HvMsr.HV_X64_MSR_VP_ASSIST_PAGE, NUMBER * PAGE | 1)

    def page(self) -> HV_VP_ASSIST_PAGE:
        return HV_VP_ASSIST_PAGE.unpack(self.outside.memory.read(NUMBER * PAGE, PAGE))


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.begin()
    return made


@pytest.mark.tlfs("VSM-045", "VSM-049", "VSM-050")
def test_entry_reason_and_return_registers_travel_through_guest_memory(rig: Rig) -> None:
    rig.outside.memory.write(
        NUMBER * PAGE + 16, (0xAAAA).to_bytes(8, "little") + (0xCCCC).to_bytes(8, "little")
    )

    assert rig.caller().vtl_return(0) == SwitchVtl(
        0, 1, 0, SwitchReason.RETURN, ReturnRegisters(0xAAAA, 0xCCCC)
    )
    rig.caller().call()
    assert rig.page().VtlControl.EntryReason == 1
    rig.leave(0)
    rig.enter(0, 1)
    assert rig.page().VtlControl.EntryReason == 2


@pytest.mark.tlfs("VSM-132", "VSM-133")
def test_vina_asserted_is_the_guest_s_to_clear(rig: Rig) -> None:
    rig.caller().set((Name.HvRegisterVsmVina, 0x130))
    vp = rig.partition.vps[0]

    assert isinstance(vp.next_step(0, 1), RaiseVina)
    assert rig.page().VtlControl.VinaStatus == 1
    assert not isinstance(vp.next_step(0, 1), RaiseVina)
    rig.outside.memory.write(NUMBER * PAGE + 12, b"\0")
    assert isinstance(vp.next_step(0, 1), RaiseVina)


@pytest.mark.tlfs("VSM-062")
def test_synthetic_registers_are_each_vtl_s_own(rig: Rig) -> None:
    caller = rig.caller()

    assert caller.set((Name.HvRegisterSint0, 0x31)) == HvStatus.SUCCESS
    assert caller.set((Name.HvRegisterSint0, 0x32), vtl=0) == HvStatus.SUCCESS
    assert (caller.read(Name.HvRegisterSint0), caller.read(Name.HvRegisterSint0, vtl=0)) == (0x31, 0x32)
    assert rig.state.read_msr(0, 0, HvMsr.HV_X64_MSR_SINT0) == 0x32


@pytest.mark.tlfs("REG-007")
def test_the_idle_register_is_only_read_as_its_msr_is(rig: Rig) -> None:
    caller = rig.caller()

    assert caller.read(Name.HvRegisterGuestIdle) == 0
    assert caller.set((Name.HvRegisterGuestIdle, 0)) == HvStatus.INVALID_PARAMETER
    assert caller.set((Name.HvRegisterGuestIdle, 0), vtl=0) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("VSM-021", "VSM-039")
def test_a_guest_boots_again_after_a_reset(rig: Rig) -> None:
    for _ in range(3):
        rig.partition.reset()
        rig.state.reset()
        assert rig.outside.memory.read(NUMBER * PAGE, PAGE) == RAM  # the overlay is gone
        assert rig.state.vp(0, 1) is None

        rig.begin()

        rig.leave(0)
        rig.caller().call()
        assert rig.page().VtlControl.EntryReason == 1
