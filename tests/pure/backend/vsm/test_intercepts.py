# SPDX-License-Identifier: Apache-2.0
"""Intercepts over a scripted KVM: to whom the message goes, and who runs next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.pure.backend.vsm.rig import IRR, PAGE_GPA, VTL1, Rig, a_rig
from vmm.backend.stats.counts import VpCounts
from vmm.backend.vsm import vtls as vtls_module
from vmm.backend.vsm.intercepts import NOT_TOLD
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.messages import HV_MESSAGE, HV_X64_MEMORY_INTERCEPT_MESSAGE
from vmm.hv.status import HvStatus
from vmm.hv.vp_pages import HV_VP_ASSIST_PAGE
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.outside import MemoryAccess, RightsChange
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ, WRITE

SIMP, ASSIST, CODE, STACK, DATA = 0x8000, 0x9000, 0xA000, 0xB000, 0xC000
HV_SINT0, HV_SIMP, HV_ASSIST = 0x4000_0090, 0x4000_0083, 0x4000_0073
VECTOR = 0x23
AUTO_EOI = 1 << 17
READABLE = 1
LOAD = bytes.fromhex("488b00")


class InterceptRig(Rig):
    """VTL1 is there with SynIC and SINT0; VTL0 runs, without paging, at CODE."""

    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_vtl1()
        assert self.vtls.partition.has_vtl(0, VTL1)

        def signal(vm: object, address: int, data: int) -> bool:
            vcpu = self.vcpu(0, VTL1)
            lapic = vcpu.get_lapic()
            lapic.regs[IRR + data // 32 * 16 + data % 32 // 8] |= 1 << data % 8
            vcpu.set_lapic(lapic)
            return True

        monkeypatch.setattr(vtls_module, "signal", signal)
        state = self.hyperv.state.vp(0, VTL1)
        assert state is not None
        state.msrs.write(HV_SIMP, SIMP | 1)
        state.msrs.write(HV_SINT0, VECTOR)
        regs = self.vps[0].vcpu.run.regs
        regs.rip, regs.rax, regs.rsp, regs.rflags = CODE, DATA, STACK, 2
        self.vps[0].vcpu.set_regs(regs)
        self.ram.write(CODE, LOAD + b"\x90" * 20)

    @property
    def message(self) -> HV_MESSAGE:
        return HV_MESSAGE.unpack(self.ram.read(SIMP, 256))

    @property
    def told(self) -> HV_X64_MEMORY_INTERCEPT_MESSAGE:
        return HV_X64_MEMORY_INTERCEPT_MESSAGE.unpack(self.message.Payload)

    def access(self, wanted: int = READ, **fields: Any) -> None:
        """fields: of `MemoryAccess`."""
        access = MemoryAccess(DATA, wanted)._replace(**fields)
        self.vtls.intercepts.memory(0, 0, VTL1, access)

    @property
    def runs(self) -> int:
        vtls = self.vtls.schedulers[0].vtls
        return next(number for number, vtl in vtls.items() if vtl.vcpu is self.vps[0].vcpu)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[InterceptRig]:
    with a_rig(InterceptRig) as made:
        made.prepare(monkeypatch)
        yield made


@pytest.mark.tlfs("VSM-080", "VSM-100", "VSM-101", "VSM-102")
def test_the_owner_gets_a_message_and_runs_next(rig: InterceptRig) -> None:
    counts = rig.vtls.schedulers[0].counts = VpCounts(0)
    rig.access()

    assert rig.runs == VTL1
    message = rig.message
    assert (message.MessageType, message.PayloadSize, message.MessageFlags) == (0x8000_0001, 240, 0)
    assert message.Sender == 0
    assert rig.told.GuestPhysicalAddress == DATA
    assert rig.vcpu(0, 0).run.regs.rip == CODE  # VTL0 is still at its instruction
    assert counts.switches == {(0, VTL1, "interrupt"): 1}
    assert counts.vtl(0).intercepts == {"read": 1}
    assert rig.vtls.intercepts.counts[0] == {(0, "read"): 1}


@pytest.mark.tlfs("VSM-109")
@pytest.mark.parametrize("known", [b"", LOAD[:2], LOAD + b"\x90" * 12])
def test_bytes_and_length_are_those_of_the_one_instruction(rig: InterceptRig, known: bytes) -> None:
    """What hosts tell of it: nothing, a part of it, more than it."""
    rig.access(instruction=known, length=len(known))

    assert rig.told.Header.InstructionLength == len(LOAD)
    assert rig.told.InstructionBytes[: rig.told.InstructionByteCount] == LOAD


@pytest.mark.tlfs("VSM-103")
def test_a_slot_in_use_loses_nothing(rig: InterceptRig) -> None:
    rig.ram.write(SIMP, b"\x01\x00\x00\x00")

    rig.access()

    assert rig.runs == 0
    assert rig.message.MessageType == 1 and rig.message.MessageFlags == 0
    assert rig.vtls.intercepts.counts[0] == {(0, "read"): 1, (0, NOT_TOLD): 1}
    rig.ram.write(SIMP, bytes(4))
    rig.access(WRITE)
    assert rig.runs == VTL1 and rig.told.Header.InterceptAccessType == 1


@pytest.mark.tlfs("VSM-104", "VSM-107", "SYN-007")
def test_a_handler_has_only_to_empty_the_slot(rig: InterceptRig) -> None:
    """As OTMK's does: its SINT0 ends its interrupts by itself, and EOM is never written."""
    state = rig.hyperv.state.vp(0, VTL1)
    assert state is not None
    state.msrs.write(HV_SINT0, VECTOR | AUTO_EOI)
    rig.access()
    rig.ram.write(SIMP, bytes(4))
    lapic = rig.vcpu(0, VTL1).get_lapic()
    lapic.regs[IRR + VECTOR // 32 * 16 + VECTOR % 32 // 8] = 0  # taken
    rig.vcpu(0, VTL1).set_lapic(lapic)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.switch(0, Code.HvCallVtlReturn, 1)
    assert rig.runs == 0

    rig.access(WRITE)

    assert rig.runs == VTL1 and rig.message.MessageType == 0x8000_0001
    assert rig.told.Header.InterceptAccessType == 1


@pytest.mark.tlfs("VSM-103")
def test_a_vp_without_the_owner_goes_on_at_its_instruction(rig: InterceptRig) -> None:
    rig.vcpu(1, 0).run.regs.rip = CODE

    rig.vtls.intercepts.memory(1, 0, VTL1, MemoryAccess(DATA, READ))

    assert rig.vps[1].vcpu is rig.vcpu(1, 0) and rig.vcpu(1, 0).run.regs.rip == CODE
    assert rig.vtls.intercepts.counts[1] == {(0, "read"): 1, (0, NOT_TOLD): 1}


@pytest.mark.tlfs("VSM-102")
def test_without_a_message_page_the_lower_vtl_goes_on_at_its_instruction(rig: InterceptRig) -> None:
    state = rig.hyperv.state.vp(0, VTL1)
    assert state is not None
    state.msrs.write(HV_SIMP, 0)

    rig.access()

    assert rig.runs == 0 and rig.vcpu(0, 0).run.regs.rip == CODE


@pytest.mark.tlfs("VSM-102")
def test_a_masked_source_stores_the_message_without_an_entry(rig: InterceptRig) -> None:
    state = rig.hyperv.state.vp(0, VTL1)
    assert state is not None
    state.msrs.write(HV_SINT0, VECTOR | 1 << 16)

    rig.access()

    assert rig.runs == 0 and rig.message.MessageType == 0x8000_0001


@pytest.mark.tlfs("VSM-105", "OHCL-010")
def test_an_intercept_page_takes_the_message_in_place_of_sint0(rig: InterceptRig) -> None:
    rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(InterceptPage=1)
    state = rig.hyperv.state.vp(0, VTL1)
    assert state is not None
    state.msrs.write(HV_ASSIST, ASSIST | 1)

    counts = rig.vtls.schedulers[0].counts = VpCounts(0)
    rig.access(EXECUTE)

    page = HV_VP_ASSIST_PAGE.unpack(rig.ram.read(ASSIST, HV_VP_ASSIST_PAGE.SIZE))
    assert page.VtlControl.EntryReason == 3
    assert HV_MESSAGE.unpack(page.InterceptMessage).MessageType == 0x8000_0001
    assert rig.message.MessageType == 0
    assert rig.runs == VTL1 and counts.switches == {(0, VTL1, "intercept"): 1}


@pytest.mark.tlfs("VSM-105")
def test_an_intercept_page_that_is_not_there_leaves_sint0(rig: InterceptRig) -> None:
    rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(InterceptPage=1)
    counts = rig.vtls.schedulers[0].counts = VpCounts(0)

    rig.access()

    assert rig.message.MessageType == 0x8000_0001
    assert rig.runs == VTL1 and counts.switches == {(0, VTL1, "interrupt"): 1}


class Permissive:
    """An enforcement that takes everything."""

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        return HvStatus.SUCCESS

    def reset(self) -> None:
        raise AssertionError("no reset here")


@pytest.mark.tlfs("HC-005", "VSM-083")
def test_a_protected_hypercall_parameter_is_an_intercept_and_the_call_is_made_again(
    rig: InterceptRig,
) -> None:
    caller = rig.caller(0)
    protections = MemoryProtections(rig.ram.ranges(), Permissive())
    assert protections.modify(VTL1, 0, READABLE, [DATA >> 12]) == (HvStatus.SUCCESS, 1)
    rig.vtls.intercepts.protections = protections
    caller.intercept_memory_access(DATA, True)
    rig.vps[0].vcpu.run.regs.rip = PAGE_GPA

    caller.on_refused_parameter(*caller._refused_parameter)

    assert rig.told.Header.InterceptAccessType == 1
    assert (rig.told.GuestPhysicalAddress, rig.told.MemoryAccessInfo) == (DATA, 0)
    assert rig.runs == VTL1
    assert rig.vtls.intercepts.counts[0] == {(0, "hypercall"): 1}
