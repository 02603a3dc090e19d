# SPDX-License-Identifier: Apache-2.0
"""A machine whose host enforces rights to memory: each of the VMM's own ways to it keeps to them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

import pytest

from kvmapi import Vcpu, Vm
from tests.pure.backend.vsm.rig import AGAIN, INPUT, IRR, PAGE_GPA, SELF, VTL1, a_rig
from tests.pure.backend.vsm.test_intercepts import CODE, HV_ASSIST, SIMP, InterceptRig
from tests.pure.vsm.protected import Told
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.vp import VirtualProcessor
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.messages import HV_X64_MEMORY_INTERCEPT_MESSAGE
from vmm.hv.status import HvStatus
from vmm.outside import GuestMemoryError
from vmm.vsm.outside import Enforcement, MemoryIntercepts, RightsChange
from vmm.vsm.protections import MemoryProtections

OUTPUT, OTHER = 0x7000, 0xD000
NONE, R, RWX = 0x0, 0x1, 0xF
SELF_VP = 0xFFFF_FFFE
ONE_REP = 1 << 32
RIP, RIP_NAME = 0x1111, 0x0002_0010


class Host:
    """Enforces everything, on vCPUs that run nothing here."""

    over_overlays = False

    def __init__(self) -> None:
        self.enforcement: Enforcement = Told()
        self.adopted: list[tuple[int, list[RightsChange]]] = []

    def adopt(self, vtl: int, vm: Vm, view: object, restricted: Iterable[RightsChange]) -> None:
        self.adopted.append((vtl, list(restricted)))

    def drop_higher(self) -> None:
        pass

    def covering(self, vtl: int, view: OverlayView) -> OverlayView:
        return view

    def attach(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        handlers: dict[int, Callable[[], None]],
        protections: MemoryProtections,
        intercepts: MemoryIntercepts,
    ) -> None:
        pass


class ProtectedRig(InterceptRig):
    """VTL0 runs; VTL1 has enabled protection."""

    def protection(self) -> Host:
        return Host()

    def protect(self, flags: int, *gpas: int) -> None:
        rights = self.hyperv._protections
        assert rights is not None
        assert rights.modify(VTL1, 0, flags, [gpa >> 12 for gpa in gpas]) == (HvStatus.SUCCESS, len(gpas))

    def get_rip(self, output: int = OUTPUT) -> int:
        """RAX after HvCallGetVpRegisters of the VP's own RIP."""
        self.ram.write(INPUT, struct.pack("<QIBxxxI", SELF, SELF_VP, 0, RIP_NAME))
        return self.call(0, Code.HvCallGetVpRegisters | ONE_REP, INPUT, output)

    def intercept(self) -> HV_X64_MEMORY_INTERCEPT_MESSAGE:
        """What VTL1, which runs now, was told."""
        assert self.runs == VTL1
        found = self.told
        self.ram.write(SIMP, bytes(4))
        vcpu = self.vcpu(0, VTL1)
        lapic = vcpu.get_lapic()
        lapic.regs[IRR : IRR + 0x80] = bytes(0x80)
        vcpu.set_lapic(lapic)
        back = self.vtls.partition.vps[0].vtl_return(1, bits_64=True)
        assert back is not None
        self.vtls.schedulers[0].switch(back)
        assert self.runs == 0
        return found


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProtectedRig]:
    with a_rig(ProtectedRig) as made:
        made.prepare(monkeypatch)
        yield made


@pytest.mark.tlfs("HC-005", "HC-022", "VSM-083")
@pytest.mark.parametrize(
    ("page", "flags", "access"),
    [(INPUT, NONE, 0), (OUTPUT, NONE, 1), (OUTPUT, R, 1)],
    ids=["input", "output", "ro"],
)
def test_a_protected_parameter_page_is_an_intercept(
    rig: ProtectedRig, page: int, flags: int, access: int
) -> None:
    rig.protect(flags, page)
    before = rig.ram.read(OUTPUT, 16)

    assert rig.get_rip() == AGAIN

    assert rig.ram.read(OUTPUT, 16) == before
    told = rig.intercept()
    assert (told.GuestPhysicalAddress, told.Header.InterceptAccessType) == (page, access)
    assert rig.vps[0].vcpu.run.regs.rip == page_code.continue_at(PAGE_GPA, page_code.AGAIN)
    rig.protect(RWX, page)
    assert rig.get_rip() & 0xFFFF == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-022", "VSM-079")
def test_vtl1_s_own_calls_use_any_page(rig: ProtectedRig) -> None:
    rig.protect(NONE, INPUT, OUTPUT)
    rig.interrupt(0, VTL1)
    rig.vtls.attend(0)
    assert rig.runs == VTL1
    rig.ring_0(rig.vps[0].vcpu)
    rig.place_page(0)

    assert rig.get_rip() & 0xFFFF == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-083", "VSM-080")
def test_an_emulated_instruction_is_an_intercept(rig: ProtectedRig) -> None:
    """INT 0x20 in 32-bit mode without paging reads its gate."""
    vp = rig.vps[0]
    sregs = vp.vcpu.get_sregs()
    sregs.cr0, sregs.efer = 1, 0
    sregs.cs.l, sregs.cs.db = 0, 1
    sregs.idt.base, sregs.idt.limit = OTHER, 0x3FF
    vp.vcpu.set_sregs(sregs)
    rig.protect(NONE, OTHER)
    assert vp.emulator is not None

    assert vp.emulator.carry_out(b"\xcd\x20") is None

    told = rig.intercept()
    assert (told.GuestPhysicalAddress, told.GuestVirtualAddress) == (OTHER + 8 * 0x20, OTHER + 8 * 0x20)
    assert bytes(told.InstructionBytes)[:2] == b"\xcd\x20"
    assert vp.vcpu.get_regs().rip == CODE


@pytest.mark.tlfs("VSM-084")
def test_devices_obey_vtl0_s_rights(rig: ProtectedRig) -> None:
    devices = rig.machine.device_memory
    assert devices is not None
    devices.write(OTHER, b"\x01")
    rig.protect(R, OTHER)

    assert devices.read(OTHER, 1) == b"\x01"
    with pytest.raises(GuestMemoryError, match="a higher VTL has taken it"):
        devices.write(OTHER, b"\x02")
    assert rig.ram.read(OTHER, 1) == b"\x01"


@pytest.mark.tlfs("VSM-039", "VSM-010")
def test_a_reset_gives_memory_back_and_zeroes_it(rig: ProtectedRig) -> None:
    """Also where VTL1's overlay lay: what it hid comes back before that, not behind it."""
    rig.ram.write(OTHER, b"secret")
    rig.protect(NONE, OTHER)
    vtl1 = rig.hyperv.state.vp(0, VTL1)
    assert vtl1 is not None and vtl1.msrs.write(HV_ASSIST, OTHER | 1)
    assert rig.ram.read(OTHER, 6) == bytes(6), "the overlay"

    rig.hyperv.reset()

    devices = rig.machine.device_memory
    assert devices is not None
    assert devices.read(OTHER, 8) == bytes(8)
