# SPDX-License-Identifier: Apache-2.0
"""VTLs over a scripted KVM: what enabling, calls, returns, interrupts and a reset do to VMs and vCPUs."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Iterator

import pytest

from kvmapi import KvmError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_vcpu import kvm_enable_cap
from tests.pure.backend.vsm.rig import FAST, INPUT, PAGE_GPA, SELF, SPIV, VTL1, Rig, a_rig
from tests.pure.hvcalls.contexts import context
from tests.pure.vsm.world import CONTEXT
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.caller import Caller
from vmm.backend.partition import VtlVm
from vmm.backend.protection.view import RamPages
from vmm.backend.stats.counts import VpCounts
from vmm.backend.vsm import vtls
from vmm.backend.vsm.scheduler import VtlVcpu
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.register_bits import HV_REGISTER_VSM_VINA
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus

MTRR_DEF_TYPE = 0x2FF
TPR = 0x80  # in the local APIC's page
RFLAGS_IF = 1 << 9


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig(Rig) as made:
        yield made


@pytest.mark.tlfs("IMP-010", "VSM-034", "WIN-004")
def test_a_vtl_gets_a_vm_and_a_vcpu_of_its_own_with_its_context(rig: Rig) -> None:
    rig.with_vtl1()

    vcpu = rig.vcpu(0, VTL1)
    assert len(rig.vms) == 1 and rig.vms[0].vcpus == [vcpu]
    assert vcpu is not rig.vcpu(0, 0) and rig.vps[0].vcpu is rig.vcpu(0, 0)  # it does not run by that
    assert (vcpu.get_regs().rip, vcpu.get_sregs().cr3) == (CONTEXT.Rip, CONTEXT.Cr3)
    assert vcpu.get_lapic().regs[SPIV + 1] & 1  # software enabled (VSM-034)
    assert vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE


@pytest.mark.tlfs("HCP-011")
def test_a_call_and_a_return_change_what_runs_and_carry_registers(rig: Rig) -> None:
    """Made at the start of the page, with the call code in RCX."""
    rig.with_vtl1()
    counts = rig.vtls.schedulers[0].counts = VpCounts(0)
    rig.vcpu(0, 0).run.regs.rbx = 0xB0B

    rig.switch(0, Code.HvCallVtlCall)
    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)
    assert rig.vcpu(0, VTL1).run.regs.rbx == 0xB0B
    assert rig.vcpu(0, VTL1).run.regs.rip == CONTEXT.Rip

    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)  # VTL1's own
    rig.vcpu(0, VTL1).run.regs.rbx = 0xCAFE
    rig.switch(0, Code.HvCallVtlReturn, 1)  # a fast one
    assert rig.vps[0].vcpu is rig.vcpu(0, 0)
    assert rig.vcpu(0, 0).run.regs.rbx == 0xCAFE
    assert counts.switches == {(0, 1, "VTL call"): 1, (1, 0, "VTL return"): 1}


def state_ioctls(rig: Rig, since: int) -> list[str]:
    """What was asked of vCPUs."""
    return sorted(call.name for call in rig.fake.calls[since:])


def test_a_call_and_its_return_take_five_ioctls_besides_kvm_run(rig: Rig) -> None:
    rig.with_vtl1()
    for _ in range(2):  # by the second one each vCPU's state is known
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        if not rig.vtls._state(0, VTL1).vp_assist.enabled:
            rig.place_page(0)
        since = len(rig.fake.calls)
        rig.switch(0, Code.HvCallVtlReturn, 1)
        back = state_ioctls(rig, since)
    since = len(rig.fake.calls)
    rig.switch(0, Code.HvCallVtlCall)
    there = state_ioctls(rig, since)

    assert there == ["KVM_GET_DEBUGREGS", "KVM_GET_XSAVE"]
    assert back == ["KVM_GET_DEBUGREGS", "KVM_GET_LAPIC", "KVM_GET_XSAVE"]


@pytest.mark.parametrize("what", ["nmi.pending", "nmi.injected", "interrupt.injected"])
@pytest.mark.tlfs("VSM-055")
def test_what_is_on_its_way_at_the_exit_brings_the_vtl_back(rig: Rig, what: str) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    event, _, flag = what.partition(".")
    setattr(getattr(rig.vcpu(0, VTL1).run.events, event), flag, 1)

    rig.switch(0, Code.HvCallVtlReturn, 1)

    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)


def test_events_come_with_the_exits_of_higher_vtls(rig: Rig) -> None:
    rig.with_vtl1()

    synced = [rig.vcpu(0, vtl).run.u64[run_page.VALID_REGS // 8] for vtl in (0, VTL1)]

    assert synced == [
        x86.KVM_SYNC_X86_REGS | x86.KVM_SYNC_X86_SREGS,
        x86.KVM_SYNC_X86_REGS | x86.KVM_SYNC_X86_SREGS | x86.KVM_SYNC_X86_EVENTS,
    ]


@pytest.mark.tlfs("VSM-132", "VSM-134")
def test_the_lower_vtls_local_apic_is_looked_at_for_vina_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.with_vtl1()
    rig.vcpu(0, 0).run.regs.rflags = RFLAGS_IF  # it would take it
    rig.switch(0, Code.HvCallVtlCall)
    lapic = rig.vcpu(0, 0).get_lapic()
    lapic.regs[SPIV + 1] |= 1  # software enabled
    rig.vcpu(0, 0).set_lapic(lapic)
    rig.interrupt(0, 0)
    raised: list[int] = []
    monkeypatch.setattr(rig.vtls, "raise_vina", lambda vp, vtl, vector, auto_eoi: raised.append(vector))

    rig.vps[0].after_kick()
    assert raised == []

    rig.vtls.partition.vps[0].vtls[VTL1].set_vina(HV_REGISTER_VSM_VINA.make(Vector=0x77, Enabled=1))
    rig.vcpu(0, 0).run.regs.rflags = 0  # it would not
    rig.vps[0].after_kick()
    assert raised == []

    rig.vcpu(0, 0).run.regs.rflags = RFLAGS_IF
    rig.vps[0].after_kick()
    assert raised == [0x77]


@pytest.mark.tlfs("VSM-125", "VSM-134", "APIC-002")
def test_a_priority_that_a_higher_vtl_sets_holds_before_the_lower_one_runs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As KVM has it, the TPR of KVM_GET_LAPIC is what KVM_SET_SREGS gave for CR8."""
    set_sregs = Vcpu.set_sregs

    def into_local_apic(vcpu: Vcpu, sregs: x86.kvm_sregs) -> None:
        set_sregs(vcpu, sregs)
        lapic = vcpu.get_lapic()
        lapic.regs[TPR] = sregs.cr8 << 4
        vcpu.set_lapic(lapic)

    monkeypatch.setattr(Vcpu, "set_sregs", into_local_apic)
    rig.with_vtl1()
    rig.vcpu(0, 0).run.regs.rflags = RFLAGS_IF
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    lapic = rig.vcpu(0, 0).get_lapic()
    lapic.regs[SPIV + 1] |= 1  # software enabled
    rig.vcpu(0, 0).set_lapic(lapic)
    rig.vtls.partition.vps[0].vtls[VTL1].set_vina(HV_REGISTER_VSM_VINA.make(Vector=0x77, Enabled=1))
    raised: list[int] = []
    monkeypatch.setattr(rig.vtls, "raise_vina", lambda vp, vtl, vector, auto_eoi: raised.append(vector))

    assert set_tpr_of_vtl0(rig, 0xF0) == 0
    rig.interrupt(0, 0)
    rig.vps[0].after_kick()
    assert raised == []

    assert set_tpr_of_vtl0(rig, 0) == 0
    rig.vps[0].after_kick()
    assert raised == [0x77]


def set_tpr_of_vtl0(rig: Rig, value: int) -> int:
    use_vtl0, register = 0x10, Register.HvX64RegisterSyntheticTpr
    rig.ram.write(INPUT, struct.pack("<QIB3xI12xQQ", SELF, 0xFFFF_FFFE, use_vtl0, register, value, 0))
    return rig.call(0, Code.HvCallSetVpRegisters | 1 << 32, INPUT) & 0xFFFF


def test_a_call_without_a_vtl_above_is_refused(rig: Rig) -> None:
    rig.switch(0, Code.HvCallVtlCall)

    assert rig.vcpu(0, 0).run.regs.rip == PAGE_GPA + page_code.REFUSE


@pytest.mark.tlfs("VSM-055", "VSM-124", "VSM-126", "IMP-003")
def test_an_interrupt_brings_the_higher_vtl_and_is_found_again_behind_its_return(rig: Rig) -> None:
    """RFLAGS.IF is clear in both."""
    rig.with_vtl1()
    assert not (rig.vcpu(0, 0).run.regs.rflags | rig.vcpu(0, VTL1).get_regs().rflags) & RFLAGS_IF
    counts = rig.vtls.schedulers[0].counts = VpCounts(0)
    rig.interrupt(0, VTL1)

    rig.vps[0].after_kick()
    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)

    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.switch(0, Code.HvCallVtlReturn, 1)
    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)  # nobody has taken it: VSM-055
    assert counts.switches == {(0, 1, "interrupt"): 2, (1, 0, "VTL return"): 1}


@pytest.mark.tlfs("VSM-123", "IMP-003")
def test_an_interrupt_for_the_lower_vtl_waits(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.interrupt(0, 0)

    rig.vps[0].after_kick()

    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)


def into_vtl1(rig: Rig) -> None:
    """VTL1 of VP 0, in ring 0, with a hypercall page."""
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)


@pytest.fixture
def waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """VP 1 has a VTL1, waits for its start, and does at once what it is kicked for."""
    into_vtl1(rig)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
    rig.enable(1)
    rig.vps[1].after_kick()
    assert rig.enable(1) == 0
    monkeypatch.setattr(rig.vps[1], "kick", rig.vps[1].after_kick)
    return rig


def begin(rig: Rig, vtl: int, rip: int) -> int:
    """What the backend does of a start of VP 1 before the partition says that it is started."""
    return rig.vtls.start_vtl(0, 1, vtl, context(Rip=rip))


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize("first", [0, VTL1])
def test_of_several_that_start_a_vp_at_once_one_succeeds(waiting: Rig, first: int) -> None:
    """Each has found it not started yet."""
    first_rip = waiting.vcpu(1, VTL1).get_regs().rip if first == 0 else 0xA000

    assert begin(waiting, first, 0xA000) == HvStatus.SUCCESS
    waiting.vps[1].after_kick()  # it stays so until the partition knows
    assert begin(waiting, VTL1, 0xB000) == HvStatus.INVALID_VP_STATE
    waiting.vtls.partition.vps[1].start(first)
    waiting.vps[1].after_kick()
    assert begin(waiting, VTL1, 0xC000) == HvStatus.INVALID_VP_STATE

    assert waiting.vcpu(1, VTL1).get_regs().rip == first_rip
    assert waiting.vcpu(1, first).get_regs().rip == 0xA000


@pytest.mark.tlfs("VP-003")
def test_vtl0_may_be_started_while_a_higher_one_begins(waiting: Rig) -> None:
    assert begin(waiting, VTL1, 0xA000) == HvStatus.SUCCESS
    assert begin(waiting, 0, 0xB000) == HvStatus.SUCCESS
    assert begin(waiting, 0, 0xC000) == HvStatus.INVALID_VP_STATE

    assert [waiting.vcpu(1, vtl).get_regs().rip for vtl in (0, VTL1)] == [0xB000, 0xA000]


@pytest.mark.tlfs("VP-003")
def test_a_context_that_kvm_refuses_has_begun_nothing(waiting: Rig) -> None:
    waiting.fake.fail("KVM_SET_SREGS", errno.EINVAL)

    assert begin(waiting, VTL1, 0xA000) == HvStatus.INVALID_REGISTER_VALUE
    assert begin(waiting, VTL1, 0xB000) == HvStatus.SUCCESS


@pytest.mark.parametrize(
    "call",
    [
        "KVM_CREATE_VM",
        "KVM_X86_SET_MSR_FILTER",
        "KVM_CREATE_VCPU",
        "KVM_SET_CPUID2",
        "KVM_GET_LAPIC",
        "KVM_SET_MP_STATE",
    ],
)
@pytest.mark.tlfs("VSM-031")
def test_a_host_without_room_for_a_vtl_leaves_the_vp_without_it(rig: Rig, call: str) -> None:
    """The guest is told so, and can try again when there is."""
    assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
    open_before = len(rig.fake.leaks())
    rig.fake.fail(call, errno.ENOMEM)

    assert rig.enable(0) == HvStatus.INSUFFICIENT_MEMORY

    assert rig.hyperv.dispatcher.internal_errors == 0
    assert rig.hyperv.state.vp(0, VTL1) is None
    assert (rig.vtls.partition.vps[0].enabled, list(rig.vtls.schedulers[0].vtls)) == (1, [0])
    if call in ("KVM_CREATE_VM", "KVM_X86_SET_MSR_FILTER"):
        assert len(rig.fake.leaks()) == open_before
    assert rig.enable(0) == 0
    assert len(rig.fake.called("KVM_CREATE_VCPU")) <= 4  # one for each VP's VTL0, at most one that failed
    assert rig.vcpu(0, VTL1).get_regs().rip == CONTEXT.Rip


@pytest.mark.tlfs("VSM-031")
def test_a_host_without_room_for_memory_refuses_a_vtl_as_well(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is told once."""
    assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0

    def full(vtl: int) -> tuple[VtlVm, RamPages | None]:
        raise OSError(errno.ENOMEM, "guest memory of 64 MiB cannot be mapped")

    monkeypatch.setattr(rig, "make_vm", full)
    assert [rig.enable(0), rig.enable(0)] == [HvStatus.INSUFFICIENT_MEMORY] * 2

    assert [record.getMessage() for record in caplog.records] == [
        "VTL1 of VP 0 cannot be enabled: [Errno 12] guest memory of 64 MiB cannot be mapped"
    ]


@pytest.mark.tlfs("VSM-031", "REG-012")
def test_a_context_that_kvm_refuses_is_the_guest_s_mistake(rig: Rig) -> None:
    assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
    rig.fake.fail("KVM_SET_SREGS", errno.EINVAL)

    assert rig.enable(0) == HvStatus.INVALID_REGISTER_VALUE
    assert rig.enable(0) == 0


def test_what_a_vtl_has_on_a_vp_is_dropped_where_its_calls_cannot_be_had(rig: Rig) -> None:
    assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
    attach = Caller.attach

    def refused(caller: Caller) -> None:
        raise KvmError(errno.ENOMEM, "KVM_ENABLE_CAP")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Caller, "attach", refused)
        assert rig.enable(0) == HvStatus.INSUFFICIENT_MEMORY
    assert rig.hyperv.state.vp(0, VTL1) is None
    assert Caller.attach is attach and rig.enable(0) == 0


@pytest.mark.tlfs("VSM-063")
def test_an_mtrr_is_written_for_all_vtls_and_for_later_ones(rig: Rig) -> None:
    assert rig.write_msr(0, MTRR_DEF_TYPE, 0x806)
    rig.with_vtl1()
    assert rig.vcpu(0, VTL1).get_msrs([MTRR_DEF_TYPE]) == [(MTRR_DEF_TYPE, 0x806)]

    assert rig.write_msr(0, MTRR_DEF_TYPE, 0x800)
    assert rig.vcpu(0, VTL1).get_msrs([MTRR_DEF_TYPE]) == [(MTRR_DEF_TYPE, 0x800)]


@pytest.mark.tlfs("VSM-063", "IMP-005")
@pytest.mark.parametrize("fails", [False, True])
def test_an_mtrr_written_while_another_vp_enables_a_vtl_is_not_missed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """VP 1 runs VTL0 meanwhile; an enabling that fails leaves a vCPU for the next."""
    into_vtl1(rig)
    rig.vtls.partition.vps[1].start(0)
    scheduler = rig.vtls.schedulers[1]
    enable_apic, add = vtls._enable_apic, scheduler.add

    def written(value: int) -> None:
        assert rig.vtls.shared_msrs[1].write(MTRR_DEF_TYPE, value)

    def enabled_late(vcpu: Vcpu) -> None:
        monkeypatch.setattr(vtls, "_enable_apic", enable_apic)
        written(6)
        raise KvmError(errno.ENOMEM, "KVM_SET_LAPIC")

    if fails:
        monkeypatch.setattr(vtls, "_enable_apic", enabled_late)
        assert rig.enable(1) == HvStatus.INSUFFICIENT_MEMORY

    def added_late(vtl: VtlVcpu) -> None:
        written(0x806)
        add(vtl)

    monkeypatch.setattr(scheduler, "add", added_late)
    assert rig.enable(1) == 0

    assert rig.vcpu(1, VTL1).get_msrs([MTRR_DEF_TYPE]) == [(MTRR_DEF_TYPE, 0x806)]


def test_another_processor_msr_faults(rig: Rig) -> None:
    assert not rig.write_msr(0, 0x3FFF, 0)


@pytest.mark.tlfs("VSM-021")
def test_a_reset_leaves_vtl0_alone_and_closes_the_others_vms(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)

    rig.hyperv.reset()

    assert rig.vps[0].vcpu is rig.vcpu(0, 0)
    assert rig.vps[0].all_vcpus == (rig.vcpu(0, 0),)
    assert rig.vms[0].vm.closed
    rig.place_page(0)
    rig.with_vtl1()  # and again
    assert len(rig.vms) == 2


def test_registers_of_the_lower_vtl_are_read_from_its_vcpu(rig: Rig) -> None:
    rig.with_vtl1()
    rig.vcpu(0, 0).run.regs.rsp = 0x7777
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rsp, use_vtl0, output = 0x0002_0004, 0x10, 0x7000
    rig.ram.write(INPUT, struct.pack("<QIB3xI", SELF, 0xFFFF_FFFE, use_vtl0, rsp))

    assert rig.call(0, Code.HvCallGetVpRegisters | 1 << 32, INPUT, output) & 0xFFFF == HvStatus.SUCCESS
    assert int.from_bytes(rig.ram.read(output, 8), "little") == 0x7777


def test_a_new_vtl_s_unknown_msrs_leave_the_guest_where_a_higher_one_has_asked(rig: Rig) -> None:
    """Also where it has asked for nothing else."""
    rig.vtls.partition.intercepts.set_unknown_msrs(2, 1)

    rig.with_vtl1()

    calls = [kvm_enable_cap.from_buffer_copy(call.argument) for call in rig.fake.called("KVM_ENABLE_CAP")]
    reasons = [argument.args[0] for argument in calls if argument.cap == k.KVM_CAP_X86_USER_SPACE_MSR]
    assert reasons[-1] == k.KVM_MSR_EXIT_REASON_FILTER | k.KVM_MSR_EXIT_REASON_UNKNOWN


def test_two_vps_that_ask_for_ports_at_once_both_get_theirs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.with_vtl1()
    table, ports = rig.vtls.partition.intercepts, rig.vtls.schedulers[0].vtls[0].ports
    look_up = table.ports
    second = threading.Thread(target=lambda: (table.set_ports(VTL1, 2, 2, 1), rig.vtls.ports_changed(1)))

    def overtaken(vtl: int) -> bytes | None:
        found = look_up(vtl)
        if second.ident is None:
            second.start()
            second.join(0.2)  # it waits for us, or is through
        return found

    monkeypatch.setattr(table, "ports", overtaken)
    table.set_ports(VTL1, 1, 1, 1)

    rig.vtls.ports_changed(0)
    second.join()

    assert ports.wants(1, 1, 1) and ports.wants(2, 1, 1)
