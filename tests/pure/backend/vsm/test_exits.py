# SPDX-License-Identifier: Apache-2.0
"""Intercepted port and MSR exits over a scripted KVM: what KVM has done already is taken back before VTL1 is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from struct import unpack_from

import pytest

from kvmapi import Vcpu
from kvmapi.fake_exits import Step, io_in, io_out, rdmsr, wrmsr
from kvmapi.uapi import kvm as k
from kvmapi.uapi import kvm_run as uapi
from kvmapi.uapi import x86
from tests.pure.backend.vsm.rig import PAGE_GPA, VTL1, a_rig
from tests.pure.backend.vsm.test_intercepts import CODE, DATA, InterceptRig
from vmm.backend.hyperv import page_code
from vmm.backend.vsm import msr_exits
from vmm.bus import access
from vmm.hv.messages import HV_X64_IO_PORT_INTERCEPT_MESSAGE, HV_X64_MSR_INTERCEPT_MESSAGE
from vmm.hv.status import HvStatus
from vmm.vsm.intercept_table import CONTROLS, InterceptTable

READ, WRITE = 1, 2
PORT, HYPERCALL_PORT = 0x80, page_code.PORT
LSTAR, EFER, APIC_BASE, TSC_AUX = 0xC000_0082, 0xC000_0080, 0x1B, 0xC000_0103
CONTROL = 0xE0000
LSTAR_WRITE, EFER_WRITE, APIC_BASE_WRITE, MISC_ENABLE_WRITE = 1 << 6, 1 << 14, 1 << 12, 1 << 4
SAVED = 0x1234_5678
TF = 1 << 8


class ExitRig(InterceptRig):
    """VTL0 runs, outside paging, in 64-bit code."""

    patch: pytest.MonkeyPatch

    def want_port(self, accesses: int, port: int = PORT) -> None:
        self.vtls.partition.intercepts.set_ports(VTL1, port, port, accesses)
        self.vtls.schedulers[0].vtls[0].ports.want(self.vtls.partition.intercepts.ports(0))

    def exit(self, step: Step, code: bytes, rip: int = 0, **general: int) -> None:
        """The VP has left the guest with `code` at CODE, RIP being `rip` bytes behind that."""
        run = self.vps[0].vcpu.run
        self.ram.write(CODE, code)
        run.regs.rip, run.regs.rdx, run.regs.rax = CODE + rip, PORT, SAVED
        for name, value in general.items():
            setattr(run.regs, name, value)
        self.vps[0].vcpu.set_regs(run.regs)
        step(run.u8)

    def ends(self, change: Callable[[x86.kvm_regs], None] = lambda regs: None) -> None:
        """What the KVM_RUN does that ends the exit, without entering the guest."""

        def run_once(vcpu: Vcpu) -> int:
            assert vcpu is self.vcpu(0, 0) and vcpu.run.immediate_exit
            change(vcpu.run.regs)
            return errno.EINTR

        self.patch.setattr(Vcpu, "run_once", run_once)

    def dispatch(self) -> None:
        """As the VP's loop does."""
        processor = self.vps[0]
        word = unpack_from("<Q", processor.vcpu.run.u8, 32)[0]
        out, in_ = processor.ports.outs.get(word), processor.ports.ins.get(word)
        if out is not None:
            out[0](out[1], out[2], processor.vcpu.run.u32[1024] & out[3])
        elif in_ is not None:
            in_[0](in_[1], in_[2])
        elif word in processor.handlers:
            processor.handlers[word]()
        else:
            processor.handlers[k.KVM_EXIT_IO]()

    @property
    def port_told(self) -> HV_X64_IO_PORT_INTERCEPT_MESSAGE:
        message = self.message
        assert message.MessageType == 0x8001_0000
        return HV_X64_IO_PORT_INTERCEPT_MESSAGE.unpack(message.Payload)

    @property
    def msr_told(self) -> HV_X64_MSR_INTERCEPT_MESSAGE:
        message = self.message
        assert message.MessageType == 0x8001_0001
        return HV_X64_MSR_INTERCEPT_MESSAGE.unpack(message.Payload)

    @property
    def lower(self) -> x86.kvm_regs:
        regs: x86.kvm_regs = self.vcpu(0, 0).run.regs
        return regs

    def control(self, value: int, vp: int = 0) -> None:
        table = self.vtls.partition.intercepts
        table.set_control(vp, VTL1, CONTROL, value)
        self.vtls.msrs_changed()

    def msr_exit(self, step: Step) -> int:
        """The exit is handled; its error byte."""
        run = self.vps[0].vcpu.run
        step(run.u8)
        caller = self.caller(0)
        reason = run.u32[2]
        (caller.read_msr if reason == uapi.KVM_EXIT_X86_RDMSR else caller.write_msr)()
        return run.u8[32]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitRig]:
    with a_rig(ExitRig) as made:
        made.prepare(monkeypatch)
        made.patch = monkeypatch
        yield made


def moved(by: int) -> Callable[[x86.kvm_regs], None]:
    def change(regs: x86.kvm_regs) -> None:
        regs.rip += by

    return change


# ---- ports ---------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-119", "VSM-121")
@pytest.mark.parametrize(
    ("rip", "change"),
    [(0, moved(1)), (1, lambda regs: None)],
    ids=["KVM moves RIP when the exit ends", "KVM has moved RIP"],
)
def test_an_out_is_told_before_it_whatever_kvm_has_done(
    rig: ExitRig, rip: int, change: Callable[[x86.kvm_regs], None]
) -> None:
    rig.want_port(WRITE)
    rig.exit(io_out(PORT, b"\x78"), b"\xee\x90", rip)
    rig.ends(change)

    rig.dispatch()

    told = rig.port_told
    assert (told.Header.Rip, told.Header.InstructionLength, told.PortNumber) == (CODE, 1, PORT)
    assert (told.Header.InterceptAccessType, told.AccessInfo, told.Rax) == (1, 1, SAVED)
    assert told.InstructionBytes[: told.InstructionByteCount] == b"\xee"
    assert rig.lower.rip == CODE and rig.runs == VTL1
    assert rig.vtls.intercepts.counts[0] == {(0, "port"): 1}


@pytest.mark.tlfs("VSM-119", "HCP-009")
@pytest.mark.parametrize("in_loop", [True, False], ids=["in the loop", "in a single step"])
@pytest.mark.parametrize("rip", [0, 2])
def test_the_hypercall_port_is_one_like_others_but_in_the_hypercall_page(
    rig: ExitRig, rip: int, in_loop: bool
) -> None:
    """Though the page at CODE has the same instruction at the same place."""
    rig.want_port(WRITE, HYPERCALL_PORT)
    leave = rig.dispatch if in_loop else partial(rig.vps[0].handle_exit, k.KVM_EXIT_IO)
    nothing = {"rcx": 0x7777, "rdx": 0, "rax": 0x12}  # no such call
    rig.exit(io_out(HYPERCALL_PORT, b"\x12"), page_code.OUT, rip, **nothing)
    rig.vps[0].vcpu.run.regs.rip = PAGE_GPA + rip

    leave()

    assert (rig.lower.rax, rig.runs) == (HvStatus.INVALID_HYPERCALL_CODE, 0)

    rig.exit(io_out(HYPERCALL_PORT, b"\x12"), page_code.OUT, rip, **nothing)
    rig.ends(moved(2 - rip))

    leave()

    assert (rig.lower.rax, rig.lower.rip, rig.runs) == (0x12, CODE, VTL1)
    assert rig.port_told.PortNumber == HYPERCALL_PORT


@pytest.mark.tlfs("VSM-119")
def test_the_hypercall_port_in_a_page_that_is_not_there_is_no_hypercall(rig: ExitRig) -> None:
    """The code has been taken out of the tables since."""
    rig.want_port(WRITE, HYPERCALL_PORT)
    rig.exit(io_out(HYPERCALL_PORT, b"\x12"), page_code.OUT, rcx=0x7777, rdx=0, rax=0x12)
    run = rig.vps[0].vcpu.run
    run.sregs.cr0, run.sregs.cr3, run.sregs.cr4 = 1 << 31 | 1, DATA, 1 << 5  # a table of zeros
    rig.ends(moved(2))

    rig.dispatch()

    assert (rig.lower.rax, rig.runs) == (0x12, VTL1)


@pytest.mark.tlfs("VSM-119")
def test_an_in_gives_nothing_to_the_register(rig: ExitRig) -> None:
    rig.want_port(READ)
    rig.exit(io_in(PORT), b"\xec")

    def complete(regs: x86.kvm_regs) -> None:
        regs.rip += 1
        regs.rax = 0xFF

    rig.ends(complete)

    rig.dispatch()

    assert (rig.lower.rip, rig.lower.rax) == (CODE, SAVED)
    assert rig.port_told.Header.InterceptAccessType == 0
    assert rig.runs == VTL1


@pytest.mark.tlfs("VSM-119")
@pytest.mark.parametrize(
    ("code", "rip", "rcx", "told_rcx", "length"),
    [(b"\xf3\x6e", 0, 2, 3, 2), (b"\x6e", 1, 7, 7, 1)],
    ids=["rep outsb", "outsb"],
)
@pytest.mark.parametrize(("flags", "step"), [(2, 1), (2 | 1 << 10, -1)], ids=["up", "down"])
def test_outs_gets_its_item_back(
    rig: ExitRig, code: bytes, rip: int, rcx: int, told_rcx: int, length: int, flags: int, step: int
) -> None:
    rig.want_port(WRITE)
    rig.exit(io_out(PORT, b"a"), code, rip, rcx=rcx, rsi=DATA + step, rflags=flags)
    rig.ends()

    rig.dispatch()

    told = rig.port_told
    assert (told.Rcx, told.Rsi, told.Header.Rip) == (told_rcx, DATA, CODE)
    assert told.AccessInfo == 1 | 8 | (16 if code[0] == 0xF3 else 0)
    assert (rig.lower.rcx, rig.lower.rsi, rig.lower.rip) == (told_rcx, DATA, CODE)
    assert told.Header.InstructionLength == length


@pytest.mark.tlfs("VSM-119")
def test_ins_is_given_what_is_there(rig: ExitRig) -> None:
    rig.want_port(READ)
    rig.ram.write(DATA, b"xyz")
    rig.exit(io_in(PORT, count=3), b"\xf3\x6c", rcx=3, rdi=DATA)
    run = rig.vcpu(0, 0).run
    given: list[bytes] = []

    def complete(regs: x86.kvm_regs) -> None:
        given.append(bytes(run.u8[4096:4099]))
        regs.rdi, regs.rcx = DATA + 3, 0

    rig.ends(complete)

    rig.dispatch()

    assert given == [b"xyz"]
    assert (rig.lower.rdi, rig.lower.rcx, rig.lower.rip) == (DATA, 3, CODE)


@pytest.mark.tlfs("VSM-119")
def test_accesses_that_nobody_wants_reach_their_device(rig: ExitRig) -> None:
    rig.want_port(WRITE, PORT + 1)
    device: list[int] = []

    class Device:
        def read(self, offset: int, size: int) -> int:
            return 0x5A

        def write(self, offset: int, size: int, value: int) -> None:
            device.append(value)

    rig.vps[0].bus.add(PORT, 2, Device(), "a device")
    rig.exit(io_out(PORT, b"\x78"), b"\xee")
    rig.dispatch()
    entry = rig.vps[0].ports.ins.get(access(False, 1, PORT + 1))

    assert device == [0x78] and entry is not None and entry[0](entry[1], 1) == 0x5A
    assert rig.runs == 0


def test_a_look_up_of_the_other_direction_finds_the_bus(rig: ExitRig) -> None:
    rig.want_port(READ | WRITE)
    ports = rig.vps[0].ports

    assert ports.ins.get(access(True, 1, PORT)) is None and ports.outs.get(access(False, 1, PORT)) is None
    assert (
        ports.ins.get(access(False, 1, PORT)) is not None
        and ports.outs.get(access(True, 1, PORT)) is not None
    )


@pytest.mark.tlfs("VSM-120")
def test_a_higher_vtl_s_own_ports_are_the_bus_itself(rig: ExitRig) -> None:
    rig.want_port(READ | WRITE)

    own = rig.vtls.schedulers[0].vtls[VTL1].ports

    assert own.ins is rig.vps[0].bus.ins and own.outs is rig.vps[0].bus.outs


def test_an_intercept_that_was_given_up_meanwhile_lets_the_instruction_be_made_again(rig: ExitRig) -> None:
    rig.want_port(WRITE)
    rig.vtls.partition.intercepts.set_ports(VTL1, PORT, PORT, 0)
    rig.exit(io_out(PORT, b"\x78"), b"\xee\x90", 1)
    rig.ends()

    rig.dispatch()

    assert rig.lower.rip == CODE and rig.runs == 0 and rig.message.MessageType == 0


@pytest.mark.tlfs("VSM-039")
def test_a_reset_gives_ports_and_msrs_back(rig: ExitRig) -> None:
    rig.want_port(WRITE)
    rig.control(LSTAR_WRITE)

    rig.hyperv.reset()

    assert rig.vps[0].ports.outs is rig.vps[0].bus.outs
    assert rig.caller(0).msr_hook is None


# ---- what KVM leaves behind ------------------------------------------------------------------------------


def test_a_single_step_trap_of_what_has_not_happened_is_dropped(rig: ExitRig) -> None:
    rig.want_port(WRITE)
    rig.exit(io_out(PORT, b"\x78"), b"\xee\x90", rflags=2 | TF)
    vcpu = rig.vcpu(0, 0)

    def complete(regs: x86.kvm_regs) -> None:
        regs.rip += 1
        events = vcpu.get_vcpu_events()
        events.exception.injected, events.exception.nr = 1, 1
        vcpu.set_vcpu_events(events)

    rig.ends(complete)

    rig.dispatch()

    assert not vcpu.get_vcpu_events().exception.injected
    assert rig.port_told.Header.ExecutionState >> 6 & 1 == 0


def test_a_request_to_leave_the_guest_is_not_lost(rig: ExitRig) -> None:
    rig.want_port(WRITE)
    rig.exit(io_out(PORT, b"\x78"), b"\xee\x90")
    rig.ends(moved(1))

    rig.dispatch()

    assert rig.vcpu(0, 0).run.immediate_exit


# ---- MSRs ------------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-113", "VSM-117")
def test_a_wrmsr_is_told_and_has_no_effect(rig: ExitRig) -> None:
    rig.control(LSTAR_WRITE)
    rig.lower.rip, rig.lower.rax, rig.lower.rdx, rig.lower.rcx = CODE, 0x9ABC, 0x12, LSTAR
    rig.ends(moved(2))

    rig.msr_exit(wrmsr(LSTAR, 0x12_0000_9ABC))

    told = rig.msr_told
    assert (told.MsrNumber, told.Rdx, told.Rax) == (LSTAR, 0x12, 0x9ABC)
    assert (told.Header.Rip, told.Header.InstructionLength) == (CODE, 2)
    assert rig.lower.rip == CODE and rig.runs == VTL1
    assert rig.vtls.intercepts.counts[0] == {(0, "msr"): 1}


@pytest.mark.tlfs("VSM-117", "VSM-119")
def test_a_rdmsr_gives_nothing_to_the_registers(rig: ExitRig) -> None:
    rig.vtls.partition.intercepts.set_msr(VTL1, LSTAR, READ)
    rig.vtls.msrs_changed()
    rig.lower.rip, rig.lower.rax, rig.lower.rdx = CODE, SAVED, 7

    def complete(regs: x86.kvm_regs) -> None:
        regs.rip, regs.rax, regs.rdx = CODE + 2, 0, 0

    rig.ends(complete)

    rig.msr_exit(rdmsr(LSTAR))

    assert (rig.lower.rip, rig.lower.rax, rig.lower.rdx) == (CODE, SAVED, 7)
    assert rig.msr_told.Header.InterceptAccessType == 0


@pytest.mark.tlfs("VSM-119")
def test_an_unknown_msr_is_told_where_that_was_asked_for(rig: ExitRig) -> None:
    rig.vtls.partition.intercepts.set_unknown_msrs(VTL1, READ)
    rig.vtls.msrs_changed()
    run = rig.vps[0].vcpu.run

    def unknown(step: Step) -> Step:
        def made(view: memoryview) -> int:
            result = step(view)
            run.u32[10] = uapi.KVM_MSR_EXIT_REASON_UNKNOWN
            return result

        return made

    assert rig.msr_exit(unknown(wrmsr(0x1234, 1))) == 1  # only reads were asked for: #GP
    rig.ends(moved(2))
    rig.msr_exit(unknown(rdmsr(0x1234)))
    assert rig.msr_told.MsrNumber == 0x1234


@pytest.mark.tlfs("VSM-113")
def test_a_vp_that_nobody_asked_about_is_served_as_by_kvm(rig: ExitRig) -> None:
    """The filter is for all VPs of the VM."""
    rig.control(LSTAR_WRITE, vp=1)

    assert rig.msr_exit(wrmsr(LSTAR, 0x5000)) == 0

    assert rig.vcpu(0, 0).get_msrs([LSTAR]) == [(LSTAR, 0x5000)]
    assert rig.runs == 0 and rig.message.MessageType == 0


@pytest.mark.parametrize("step", [wrmsr(0x10A, 5), rdmsr(0x10A)], ids=["write", "read"])
def test_an_msr_whose_intercept_was_given_up_meanwhile_is_left_to_kvm(rig: ExitRig, step: Step) -> None:
    """It takes more from the VMM than from a guest."""
    table = rig.vtls.partition.intercepts
    for accesses in (READ | WRITE, 0):
        table.set_msr(VTL1, 0x10A, accesses)
        rig.vtls.msrs_changed()
    rig.vcpu(0, 0).set_msrs([(0x10A, 1)])
    rig.lower.rip, rig.lower.rax = CODE, SAVED

    def complete(regs: x86.kvm_regs) -> None:
        regs.rip, regs.rax = CODE + 2, 0

    rig.ends(complete)

    assert rig.msr_exit(step) == 0

    assert (rig.lower.rip, rig.lower.rax, rig.runs) == (CODE, SAVED, 0)
    assert rig.vcpu(0, 0).get_msrs([0x10A]) == [(0x10A, 1)]


@pytest.mark.parametrize(
    ("msr", "control", "value"),
    [
        (EFER, EFER_WRITE, 1 << 40),
        (EFER, EFER_WRITE, 1 << 12),  # SVME, which the processor model does not have
        (APIC_BASE, APIC_BASE_WRITE, 0xFEE0_0400),  # x2APIC without the APIC
        (TSC_AUX, 1 << 23, 0),  # neither RDTSCP nor RDPID
        (0x8C, 1 << 24, 0),  # no SGX launch control
    ],
)
def test_what_a_guest_may_not_write_faults(rig: ExitRig, msr: int, control: int, value: int) -> None:
    rig.control(control, vp=1)

    assert rig.msr_exit(wrmsr(msr, value)) == 1


@pytest.mark.tlfs("VSM-114")
def test_a_masked_write_that_changes_other_bits_is_done(rig: ExitRig) -> None:
    rig.control(MISC_ENABLE_WRITE)
    rig.vcpu(0, 0).set_msrs([(0x1A0, 1)])

    assert rig.msr_exit(wrmsr(0x1A0, 0x4_0001)) == 0

    assert rig.vcpu(0, 0).get_msrs([0x1A0]) == [(0x1A0, 0x4_0001)]
    assert rig.runs == 0


# ---- the filter ------------------------------------------------------------------------------------------


def filtered(accesses: dict[int, int]) -> tuple[set[int], set[int]]:
    """What leaves the guest: reads and writes. KVM looks at the first range that has the MSR and the access."""
    ranges = msr_exits.filter_ranges(accesses)
    assert ranges is not None
    found: tuple[set[int], set[int]] = (set(), set())
    for each in ranges:
        bits = each.bitmap()
        for number in range(each.count):
            if not bits[number // 8] >> number % 8 & 1:
                for flag, into in ((1, found[0]), (2, found[1])):
                    if each.flags & flag:
                        into.add(each.base + number)
    return found


def test_the_filter_has_all_control_bits_at_once_beside_what_is_always_in_it() -> None:
    table = InterceptTable()
    table.set_control(0, VTL1, CONTROL, sum(CONTROLS))
    plain_reads, plain_writes = filtered({})

    reads, writes = filtered(table.msr_accesses(0))

    asked = table.msr_accesses(0)
    assert reads == plain_reads | {msr for msr, access_ in asked.items() if access_ & READ}
    assert writes == plain_writes | {msr for msr, access_ in asked.items() if access_ & WRITE}
    assert {0x4000_0000, 0x4000_01FF} <= plain_reads and 0x2FF in plain_writes and 0x2FF not in plain_reads


def test_msrs_that_lie_too_far_apart_are_too_many() -> None:
    assert msr_exits.filter_ranges({number << 20: READ for number in range(1, 32)}) is None
