# SPDX-License-Identifier: Apache-2.0
"""VTLs over a scripted KVM: what enabling, calls, returns, interrupts, starts and a reset do to VMs and vCPUs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TypeVar

import pytest

from kvmapi import Kvm, Vcpu
from kvmapi import run as run_page
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_vcpu import kvm_enable_cap
from kvmapi.uapi.vsm import KVM_CAP_X86_VSM, KVM_X86_VSM_BLOCK_INIT
from tests.pure.backend.hyperv.test_caller import Control, Ram
from tests.pure.devices.fakes import FakeClock
from tests.pure.vsm.world import CONTEXT
from vmm.backend import kick
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.hyperv import flags, interface, page_code
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.hyperv.offer import offer
from vmm.backend.outcome import Outcome
from vmm.backend.partition import VmOptions, VtlVm
from vmm.backend.protection.host import HostProtection
from vmm.backend.stats.counts import VpCounts
from vmm.backend.vp import VirtualProcessor
from vmm.backend.vsm.startup_signals import BlockedByKvm, CarriedOutByKvm, StartupSignals
from vmm.backend.vsm.vtls import Vtls
from vmm.bus import MmioBus, PortBus, access
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.register_bits import HV_REGISTER_VSM_VINA
from vmm.hv.status import HvStatus
from vmm.hypercall.outside import UnprotectedMemory
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.device_memory import DeviceMemory

PAGE_GPA, INPUT = 0x5000, 0x6000
GUEST_OS_ID, HYPERCALL = 0x4000_0000, 0x4000_0001
MTRR_DEF_TYPE = 0x2FF
MSR_ERROR_U8, MSR_INDEX_U32, MSR_DATA_U64 = 32, 11, 6
FAST = 1 << 16
SELF, VTL1 = (1 << 64) - 1, 1
IRR, SPIV = 0x200, 0xF0
VECTOR = 0x31
AGAIN = 0x1234  # RAX keeps the caller's value


class Mapping:
    address = 0x10000


class Rig:
    """Two VPs of a machine with VTLs; their hypercalls are made as their exits would come."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake, self.kvm, self.ram = fake, kvm, Ram()
        self.vm = kvm.create_vm()
        self.vps = [
            VirtualProcessor(number, self.vm.create_vcpu(number), PortBus(), MmioBus(), self.ended)
            for number in range(2)
        ]
        for vp in self.vps:
            vp.emulator = Emulator(vp.vcpu, UnprotectedMemory(self.ram))
        self.vms: list[VtlVm] = []
        machine = interface.Machine(
            vm=self.vm,
            processors=self.vps,
            apic_ids=[0, 1],
            memory=self.ram,
            clock=FakeClock(),
            control=Control(),
            ports=PortBus(),
            notice=self.unexpected,
            higher=interface.HigherVms(self.make_vm, self.add_vcpu, has_xcr0=True, signals=self.signals()),
            protection=self.protection(),
            device_memory=DeviceMemory(self.ram),
        )
        self.machine = machine
        wanted = flags.wanted({flags.PASSTHROUGH: "on", flags.VSM: "on"})
        assert wanted is not None
        said = offer(wanted, cpus=2, gpa_bits=40, tsc_hz=2_000_000_000, tsc_known=True)
        self.hyperv = interface.HypervInterface(machine, said)
        assert self.hyperv.vtls is not None
        self.vtls: Vtls = self.hyperv.vtls
        for vp in self.vps:
            self.ring_0(vp.vcpu)
        self.place_page(0)

    def protection(self) -> HostProtection | None:
        """What this machine enforces rights to memory by."""
        return None

    def signals(self) -> StartupSignals:
        return CarriedOutByKvm()

    def make_vm(self, vtl: int) -> tuple[VtlVm, OverlayView | None]:
        vm = VtlVm(self.kvm, vtl, Mapping(), [], VmOptions(split_irqchip=True, pit=False))
        self.vms.append(vm)
        return vm, None

    def add_vcpu(self, vm: VtlVm, vp: int) -> Vcpu:
        return vm.add_vcpu(vp, [], [], None, 0)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def unexpected(self, line: str) -> None:
        raise AssertionError(line)

    def ring_0(self, vcpu: Vcpu) -> None:
        sregs = vcpu.run.sregs
        sregs.cs.l, sregs.efer, sregs.cr0 = 1, 1 << 10, 1
        vcpu.set_sregs(sregs)

    def caller(self, vp: int) -> Caller:
        """Who gets the hypercalls of what the VP runs now."""
        hypercall = self.vps[vp].handlers[access(True, 1, page_code.PORT)]
        assert isinstance(hypercall, MethodType)  # as all handlers are
        caller = hypercall.__self__
        assert isinstance(caller, Caller) and caller.vcpu is self.vps[vp].vcpu
        return caller

    def write_msr(self, vp: int, msr: int, value: int) -> bool:
        run = self.vps[vp].vcpu.run
        run.u8[MSR_ERROR_U8], run.u32[MSR_INDEX_U32], run.u64[MSR_DATA_U64] = 0, msr, value
        self.caller(vp).write_msr()
        return not run.u8[MSR_ERROR_U8]

    def place_page(self, vp: int) -> None:
        assert self.write_msr(vp, GUEST_OS_ID, 1) and self.write_msr(vp, HYPERCALL, PAGE_GPA | 1)

    def call(self, vp: int, control: int, first: int = 0, second: int = 0) -> int:
        """RAX after a hypercall of what the VP runs."""
        caller, regs = self.caller(vp), self.vps[vp].vcpu.run.regs
        regs.rax, regs.rcx, regs.rdx, regs.r8, regs.rip = AGAIN, control, first, second, PAGE_GPA
        caller.hypercall()
        return int(regs.rax)

    def enable(self, vp: int, *, caller: int = 0) -> int:
        """HvCallEnableVpVtl of VTL1."""
        self.ram.write(INPUT, struct.pack("<QIB3x", SELF, vp, VTL1) + CONTEXT.pack())
        return self.call(caller, Code.HvCallEnableVpVtl, INPUT)

    def with_vtl1(self) -> None:
        assert self.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
        assert self.enable(0) == 0

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        return self.vtls.schedulers[vp].vtls[vtl].vcpu

    def switch(self, vp: int, code: Code, control: int = 0) -> None:
        run = self.vps[vp].vcpu.run
        run.regs.rax, run.regs.rcx, run.regs.rip = control, int(code), PAGE_GPA
        self.caller(vp).hypercall()

    def interrupt(self, vp: int, vtl: int) -> None:
        """An interrupt comes to the local APIC."""
        lapic = self.vcpu(vp, vtl).get_lapic()
        lapic.regs[IRR + VECTOR // 32 * 16 + VECTOR % 32 // 8] |= 1 << VECTOR % 8
        self.vcpu(vp, vtl).set_lapic(lapic)


class BlockingRig(Rig):
    """On a KVM that can block INIT."""

    def signals(self) -> StartupSignals:
        return BlockedByKvm()


def blocked(rig: Rig) -> list[int]:
    """What the switch of INIT was set to, in order, of whatever vCPU."""
    calls = [kvm_enable_cap.from_buffer_copy(call.argument) for call in rig.fake.called("KVM_ENABLE_CAP")]
    return [argument.args[0] for argument in calls if argument.cap == KVM_CAP_X86_VSM]


R = TypeVar("R", bound=Rig)


@contextmanager
def a_rig(kind: type[R]) -> Iterator[R]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        rig = kind(fake, kvm)
        yield rig
        rig.hyperv.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig(Rig) as made:
        yield made


@pytest.mark.tlfs("IMP-010")
def test_a_vtl_gets_a_vm_and_a_vcpu_of_its_own_with_its_context(rig: Rig) -> None:
    rig.with_vtl1()

    vcpu = rig.vcpu(0, VTL1)
    assert len(rig.vms) == 1 and rig.vms[0].vcpus == [vcpu]
    assert vcpu is not rig.vcpu(0, 0) and rig.vps[0].vcpu is rig.vcpu(0, 0)  # it does not run by that
    assert (vcpu.get_regs().rip, vcpu.get_sregs().cr3) == (CONTEXT.Rip, CONTEXT.Cr3)
    assert vcpu.get_lapic().regs[SPIV + 1] & 1  # software enabled (VSM-034)
    assert vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE


def test_a_call_and_a_return_change_what_runs_and_carry_registers(rig: Rig) -> None:
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


@pytest.mark.tlfs("VSM-132")
def test_the_lower_vtls_local_apic_is_looked_at_for_vina_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.with_vtl1()
    rig.vcpu(0, 0).run.regs.rflags = 1 << 9  # IF: it would take it
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
    rig.vps[0].after_kick()
    assert raised == [0x77]


def test_a_call_without_a_vtl_above_is_refused(rig: Rig) -> None:
    rig.switch(0, Code.HvCallVtlCall)

    assert rig.vcpu(0, 0).run.regs.rip == PAGE_GPA + page_code.REFUSE


def test_an_interrupt_brings_the_higher_vtl_and_is_found_again_behind_its_return(rig: Rig) -> None:
    rig.with_vtl1()
    counts = rig.vtls.schedulers[0].counts = VpCounts(0)
    rig.interrupt(0, VTL1)

    rig.vps[0].after_kick()
    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)

    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.switch(0, Code.HvCallVtlReturn, 1)
    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)  # nobody has taken it: VSM-055
    assert counts.switches == {(0, 1, "interrupt"): 2, (1, 0, "VTL return"): 1}


def test_an_interrupt_for_the_lower_vtl_waits(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.interrupt(0, 0)

    rig.vps[0].after_kick()

    assert rig.vps[0].vcpu is rig.vcpu(0, VTL1)


def test_enabling_on_a_vp_that_may_have_been_started_asks_its_own_thread(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_RUNNABLE)  # by INIT and SIPI, inside KVM_RUN

    assert rig.enable(1) == AGAIN
    rig.vps[1].after_kick()
    assert rig.enable(1) == 0

    assert rig.vtls.partition.vps[1].started


def test_a_vp_with_a_higher_vtl_is_kept_from_init_and_sipi(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
    rig.enable(1)
    rig.vps[1].after_kick()
    assert rig.enable(1) == 0

    rig.vps[1].after_kick()

    assert rig.vps[1].held


@pytest.mark.tlfs("VSM-129")
def test_init_is_blocked_where_kvm_can_before_a_vp_has_a_higher_vtl() -> None:
    with a_rig(BlockingRig) as rig:
        assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0

        assert rig.enable(0) == AGAIN  # its thread has to do it
        assert blocked(rig) == []
        rig.vps[0].after_kick()
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT]  # VTL0's
        assert rig.enable(0) == 0
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT] * 2  # VTL1's
        rig.vps[0].after_kick()
        assert len(blocked(rig)) == 2

        rig.hyperv.reset()
        assert blocked(rig)[2:] == [0]


@pytest.mark.tlfs("VSM-129")
def test_a_vp_that_waits_for_sipi_goes_back_to_where_it_waits_for_init() -> None:
    with a_rig(BlockingRig) as rig:
        assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
        rig.enable(0)
        rig.vps[0].after_kick()
        rig.enable(0)
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        rig.place_page(0)
        rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_INIT_RECEIVED)
        rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)

        rig.vps[1].after_kick()

        assert rig.vps[1].held
        assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED


@pytest.mark.tlfs("VSM-129")
def test_a_vp_that_waits_is_held_from_before_a_vtl_is_enabled_there(rig: Rig) -> None:
    """Else INIT and SIPI, sent right behind the call, would find it in KVM_RUN."""
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)

    assert rig.enable(1) == AGAIN
    rig.vps[1].after_kick()
    assert rig.vps[1].held
    assert rig.enable(1) == 0
    rig.vcpu(1, 0).set_mp_state(
        k.KVM_MP_STATE_RUNNABLE
    )  # as if KVM had acted on them, asked for the MP state
    rig.vps[1].after_kick()

    assert rig.vps[1].held and not rig.vtls.partition.vps[1].started
    assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED


@pytest.mark.tlfs("VSM-129")
@pytest.mark.parametrize("denied", [False, True])
def test_a_vp_that_init_has_sent_back_to_wait_is_closed_without_an_error(denied: bool) -> None:
    """KVM refuses to block INIT of one that waits for SIPI; the VMM has not been told of its INIT."""
    with a_rig(BlockingRig) as rig:
        rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1)
        rig.enable(0)
        rig.vps[0].after_kick()
        rig.enable(0)
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        rig.place_page(0)
        rig.vtls.partition.vps[1].start(0)
        rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_INIT_RECEIVED)
        if denied:
            rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)
        else:
            rig.enable(1)

        rig.vps[1].after_kick()

        assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED
        assert rig.vps[1].held and not rig.vtls.partition.vps[1].started


@pytest.mark.tlfs("VSM-063")
def test_an_mtrr_is_written_for_all_vtls_and_for_later_ones(rig: Rig) -> None:
    assert rig.write_msr(0, MTRR_DEF_TYPE, 0x806)
    rig.with_vtl1()
    assert rig.vcpu(0, VTL1).get_msrs([MTRR_DEF_TYPE]) == [(MTRR_DEF_TYPE, 0x806)]

    assert rig.write_msr(0, MTRR_DEF_TYPE, 0x800)
    assert rig.vcpu(0, VTL1).get_msrs([MTRR_DEF_TYPE]) == [(MTRR_DEF_TYPE, 0x800)]


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
