# SPDX-License-Identifier: Apache-2.0
"""A new VTL's state on its vCPU, what a switch changes of it, and what it leaves alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from kvmapi import Vcpu
from kvmapi.uapi import x86
from tests.pure.backend.vsm.rig import AGAIN, INPUT, PAGE_GPA, SELF, VTL1, Rig, a_rig
from tests.pure.hvcalls.contexts import context
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.starts import load
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.msrs import HvMsr
from vmm.hv.register_bits import HV_X64_SEGMENT_ATTRIBUTES
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER, HV_X64_TABLE_REGISTER

ASSIST, OUTPUT = 0x9000, 0x7000
RAX_AT, RCX_AT = 16, 24  # VtlReturnX64Rax and Rcx in the VP assist page
ONE_REP, SELF_VP = 1 << 32, 0xFFFF_FFFE
PAT = 0x277
BEHIND_THE_CALL = PAGE_GPA + len(page_code.OUT)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig(Rig) as made:
        yield made


def into_vtl1(rig: Rig) -> None:
    """A VTL call whose VTL1 has placed its hypercall page."""
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)


def register(rig: Rig, name: int) -> int:
    """HvCallGetVpRegisters as Linux makes it: in memory, of the caller's own VP and VTL."""
    rig.ram.write(INPUT, struct.pack("<QIB3xI", SELF, SELF_VP, 0, name))
    assert rig.call(0, Code.HvCallGetVpRegisters | ONE_REP, INPUT, OUTPUT) == ONE_REP
    return int.from_bytes(rig.ram.read(OUTPUT, 16), "little")


# ---- the initial context -------------------------------------------------------------------------------


def segment(found: x86.kvm_segment) -> HV_X64_SEGMENT_REGISTER:
    attributes = found.type | found.s << 4 | found.dpl << 5 | found.present << 7
    attributes |= found.avl << 12 | found.l << 13 | found.db << 14 | found.g << 15
    return HV_X64_SEGMENT_REGISTER(
        found.base, found.limit, found.selector, HV_X64_SEGMENT_ATTRIBUTES(attributes)
    )


@pytest.mark.tlfs("VSM-027")
def test_every_field_of_a_context_gets_where_a_processor_has_it(rig: Rig) -> None:
    """Each value is another one, so that none can stand for its neighbour."""
    names = ("Cs", "Ds", "Es", "Fs", "Gs", "Ss", "Tr", "Ldtr")
    segments = {
        name: HV_X64_SEGMENT_REGISTER(
            0x1000 * number, 0x100 * number, 8 * number, HV_X64_SEGMENT_ATTRIBUTES(0xA080 + number)
        )
        for number, name in enumerate(names, 1)
    }
    wanted = context(
        **segments,
        Idtr=HV_X64_TABLE_REGISTER(Limit=0xFF0, Base=0x40_0000),
        Gdtr=HV_X64_TABLE_REGISTER(Limit=0x7F, Base=0x50_0000),
    )
    assert wanted.SIZE == 224
    vcpu = rig.vcpu(0, 0)

    load(vcpu, wanted)

    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    places = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
    assert {name: segment(getattr(sregs, at)) for name, at in zip(names, places, strict=True)} == segments
    assert (regs.rip, regs.rsp, regs.rflags) == (wanted.Rip, wanted.Rsp, wanted.Rflags)
    assert (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) == (wanted.Cr0, wanted.Cr3, wanted.Cr4, wanted.Efer)
    assert (sregs.idt.limit, sregs.idt.base) == (0xFF0, 0x40_0000)
    assert (sregs.gdt.limit, sregs.gdt.base) == (0x7F, 0x50_0000)
    assert vcpu.get_msrs([PAT]) == [(PAT, wanted.MsrCrPat)]


@pytest.mark.tlfs("VSM-033")
def test_a_new_vtl_s_synthetic_msrs_are_as_after_power_on(rig: Rig) -> None:
    """Whatever VTL0 has written into its own."""
    lower = rig.hyperv.state.vp(0, 0)
    assert lower is not None
    assert lower.msrs.write(HvMsr.HV_X64_MSR_SIMP, 0x8001)
    assert lower.msrs.write(HvMsr.HV_X64_MSR_SINT3, 0x44)

    rig.with_vtl1()

    upper = rig.hyperv.state.vp(0, VTL1)
    assert upper is not None
    masked = [HvMsr.HV_X64_MSR_SINT0 + number for number in range(16)]
    zero = [
        HvMsr.HV_X64_MSR_GUEST_OS_ID,
        HvMsr.HV_X64_MSR_HYPERCALL,
        HvMsr.HV_X64_MSR_VP_ASSIST_PAGE,
        HvMsr.HV_X64_MSR_REFERENCE_TSC,
        HvMsr.HV_X64_MSR_SIEFP,
        HvMsr.HV_X64_MSR_SIMP,
        HvMsr.HV_X64_MSR_STIMER0_CONFIG,
        HvMsr.HV_X64_MSR_STIMER0_COUNT,
    ]
    assert [upper.msrs.value(msr) for msr in masked] == [0x1_0000] * 16
    assert [upper.msrs.value(msr) for msr in zero] == [0] * len(zero)


@pytest.mark.tlfs("VSM-052")
def test_only_the_first_entry_has_the_context(rig: Rig) -> None:
    rig.with_vtl1()
    into_vtl1(rig)
    rig.vcpu(0, VTL1).run.regs.rsp = 0x7777
    rig.vcpu(0, VTL1).run.sregs.cr3 = 0x8000
    rig.switch(0, Code.HvCallVtlReturn, 1)
    rig.vcpu(0, 0).run.regs.rsp = 0x1111

    rig.switch(0, Code.HvCallVtlCall)

    regs, sregs = rig.vcpu(0, VTL1).run.regs, rig.vcpu(0, VTL1).run.sregs
    assert (regs.rsp, sregs.cr3, regs.rip) == (0x7777, 0x8000, BEHIND_THE_CALL)


@pytest.mark.tlfs("VSM-067", "IMP-004")
def test_a_new_vtl_reads_the_tsc_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each vCPU of this KVM begins with a TSC of its own."""
    offsets: dict[Vcpu, int] = {}

    def read(vcpu: Vcpu) -> int:
        return offsets.setdefault(vcpu, 0x1000 * (1 + len(offsets)))

    def write(vcpu: Vcpu, value: int) -> None:
        offsets[vcpu] = value

    monkeypatch.setattr(Vcpu, "get_tsc_offset", read)
    monkeypatch.setattr(Vcpu, "set_tsc_offset", write)
    with a_rig(Rig) as rig:
        rig.with_vtl1()
        into_vtl1(rig)
        assert rig.enable(1) == AGAIN  # by VTL1; VP 1 has to look first
        rig.vps[1].after_kick()
        assert rig.enable(1) == 0

        vcpus = [rig.vcpu(vp, vtl) for vp in (0, 1) for vtl in (0, VTL1)]

        assert len(set(vcpus)) == 4
        assert [read(vcpu) for vcpu in vcpus] == [0x1000] * 4


@pytest.mark.tlfs("VSM-067", "IMP-004")
def test_reference_time_is_the_partition_s_and_the_page_for_it_each_vtl_s(rig: Rig) -> None:
    rig.with_vtl1()
    lower, upper = (rig.hyperv.state.vp(0, vtl) for vtl in (0, VTL1))
    assert lower is not None and upper is not None
    rig.hyperv.state.reference.resume()

    assert upper.msrs.write(HvMsr.HV_X64_MSR_REFERENCE_TSC, 0xA001)

    times = [each.msrs.value(HvMsr.HV_X64_MSR_TIME_REF_COUNT) or 0 for each in (lower, upper, lower, upper)]
    assert times == sorted(times) and 0 < times[-1] - times[0] < 10_000_000  # a second, in 100 ns
    assert lower.msrs.value(HvMsr.HV_X64_MSR_REFERENCE_TSC) == 0
    assert not lower.msrs.write(HvMsr.HV_X64_MSR_TIME_REF_COUNT, 0)


# ---- a switch ------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-043", "IMP-001")
@pytest.mark.parametrize("moved", [0, len(page_code.OUT)], ids=["at the trap", "behind it"])
def test_a_vtl_that_is_left_stands_behind_its_call(rig: Rig, moved: int) -> None:
    """Wherever KVM's exit has left RIP: a higher VTL can see it."""
    rig.with_vtl1()
    lower = rig.vcpu(0, 0)
    lower.run.regs.rcx, lower.run.regs.rax = int(Code.HvCallVtlCall), 0
    lower.run.regs.rip = PAGE_GPA + moved
    lower.run.regs.rbx = 0xB0B

    rig.caller(0).hypercall()

    upper = rig.vcpu(0, VTL1)
    assert rig.vps[0].vcpu is upper and lower.run.regs.rip == BEHIND_THE_CALL
    assert upper.run.regs.rbx == 0xB0B
    rig.ring_0(upper)
    rig.place_page(0)
    upper.run.regs.rcx, upper.run.regs.rax = int(Code.HvCallVtlReturn), 1
    upper.run.regs.rip = PAGE_GPA + moved
    rig.caller(0).hypercall()
    assert rig.vps[0].vcpu is lower
    assert upper.run.regs.rip == lower.run.regs.rip == BEHIND_THE_CALL


@pytest.mark.tlfs("VSM-045", "IMP-002")
def test_rax_and_rcx_are_copied_by_a_call_and_loaded_by_a_return_that_is_not_fast(rig: Rig) -> None:
    rig.with_vtl1()
    into_vtl1(rig)
    regs = rig.vcpu(0, VTL1).run.regs
    assert (regs.rax, regs.rcx) == (0, Code.HvCallVtlCall)
    assert rig.write_msr(0, HvMsr.HV_X64_MSR_VP_ASSIST_PAGE, ASSIST | 1)
    rig.ram.write(ASSIST + RAX_AT, struct.pack("<QQ", 0xAAAA, 0xCCCC))

    rig.switch(0, Code.HvCallVtlReturn, 0)
    regs = rig.vcpu(0, 0).run.regs
    assert (regs.rax, regs.rcx) == (0xAAAA, 0xCCCC)

    rig.switch(0, Code.HvCallVtlCall)
    rig.switch(0, Code.HvCallVtlReturn, 1)
    assert (regs.rax, regs.rcx) == (1, Code.HvCallVtlReturn)


# ---- the hypercall page and what is read through it ---------------------------------------------------------


@pytest.mark.tlfs("HCP-010")
@pytest.mark.parametrize("vtl", [0, VTL1])
def test_the_offsets_that_a_vtl_reads_lead_to_the_sequences(rig: Rig, vtl: int) -> None:
    rig.with_vtl1()
    if vtl:
        into_vtl1(rig)
    page = rig.ram.read(PAGE_GPA, 4096)

    offsets = register(rig, Name.HvRegisterVsmCodePageOffsets)

    for at, code in ((offsets & 0xFFF, 0x11), (offsets >> 12 & 0xFFF, 0x12)):
        found = [
            f"{i.mnemonic} {i.op_str}".strip() for i in Cs(CS_ARCH_X86, CS_MODE_64).disasm(page[at:], at, 4)
        ]
        assert found == ["mov rax, rcx", f"mov ecx, {code:#x}", f"out {page_code.PORT:#x}, al", "ret"]
    assert offsets >> 24 == 0
    assert set(page[len(page_code.CODE) :]) == {0xCC}


@pytest.mark.tlfs("WIN-014")
def test_the_hypercall_page_never_changes_while_it_is_there(rig: Rig) -> None:
    rig.with_vtl1()
    before = rig.ram.read(PAGE_GPA, 4096)

    rig.call(0, Code.HvCallPostMessage)  # answered with a status
    rig.switch(0, Code.HvCallVtlReturn)  # refused: VTL0 is the lowest
    rig.switch(0, Code.HvCallVtlCall)
    rig.vps[0].after_kick()

    assert rig.ram.read(PAGE_GPA, 4096) == before
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)  # VTL1's own
    assert rig.ram.read(PAGE_GPA, 4096) == before


@pytest.mark.tlfs("LNX-006")
def test_a_kernel_learns_its_vtl_as_linux_asks_for_it(rig: Rig) -> None:
    active_vtl = 0xF
    rig.with_vtl1()
    assert register(rig, Name.HvRegisterVsmVpStatus) & active_vtl == 0

    into_vtl1(rig)

    assert register(rig, Name.HvRegisterVsmVpStatus) & active_vtl == VTL1


@pytest.mark.tlfs("IMP-009", "VSM-140")
def test_a_flush_of_a_locked_tlb_stays_at_its_call(rig: Rig) -> None:
    """RIP leads to the page's jump back; what the guest had in RAX is still there."""
    rig.with_vtl1()
    rig.ram.write(INPUT, struct.pack("<QQQ", 0, 0, 0b01))  # address space 0 of VP 0 alone
    rig.vtls.partition.tlb_locks.take(0, VTL1, 0)

    assert rig.call(0, Code.HvCallFlushVirtualAddressSpace, INPUT) == AGAIN
    assert rig.vcpu(0, 0).run.regs.rip == PAGE_GPA + page_code.AGAIN
    assert rig.vcpu(0, 0).run.regs.rcx == Code.HvCallFlushVirtualAddressSpace

    rig.vtls.partition.tlb_locks.release(0, VTL1)
    assert rig.call(0, Code.HvCallFlushVirtualAddressSpace, INPUT) == 0
