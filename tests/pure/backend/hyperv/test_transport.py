# SPDX-License-Identifier: Apache-2.0
"""Hypercalls that KVM hands over by KVM_EXIT_HYPERV, and when that way is taken."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import KVM_HYPERV_HCALL_UD
from kvmapi.vsm_support import VSM_FEATURES, VsmSeries, VsmSupport
from tests.pure.backend.hyperv.test_caller import (
    DIRTY_U64,
    FAST,
    GUEST_OS_ID,
    INPUT,
    ONE_REP,
    OUTPUT,
    PAGE_GPA,
    PAGE_GVA,
    SELF_PARTITION,
    SELF_VP,
    Rig,
    a_rig,
)
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.flags import EVERYTHING, HypervFlagError, wanted
from vmm.backend.hyperv.offer import offer
from vmm.backend.hyperv.transport import PORT_WRITE, Transport, choose
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN

VMCALL = b"\x0f\x01\xc1"
TYPE_U32, INPUT_U64, RESULT_U64, PARAMS_U64, XMM = 8, 5, 6, 7, 72
UNSET = 0xEEEE
ALL_FEATURES = sum(VSM_FEATURES.values())
GET_ONE = Code.HvCallGetVpRegisters | ONE_REP


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig(Transport(VMCALL, exits=True)) as made:
        yield made


def leave(rig: Rig, control: int, first: int = 0, second: int = 0, xmm: bytes = b"") -> int:
    """The exit of a hypercall; the result that KVM is given."""
    run = rig.run
    run.u32[TYPE_U32] = k.KVM_EXIT_HYPERV_HCALL
    run.u64[INPUT_U64], run.u64[RESULT_U64] = control, UNSET
    run.u64[PARAMS_U64], run.u64[PARAMS_U64 + 1] = first, second
    run.u8[XMM : XMM + 96] = xmm.ljust(96, b"\xcc")
    run.regs.rax, run.regs.rcx, run.regs.rdx, run.regs.r8 = 0x1234, control, first, second
    run.regs.rip = PAGE_GVA
    run.u64[DIRTY_U64] = 0
    rig.vps[0].handlers[k.KVM_EXIT_HYPERV]()
    return run.u64[RESULT_U64]


@pytest.mark.tlfs("HCP-013")
def test_the_page_holds_the_processor_s_own_instruction(rig: Rig) -> None:
    assert rig.ram.read(PAGE_GPA, 4) == VMCALL + b"\xc3"
    assert page_code.PORT not in rig.ports.ports


def test_kvm_knows_the_guest_s_os_id_and_has_its_synic_on(rig: Rig) -> None:
    assert rig.vps[0].vcpu.get_msrs([GUEST_OS_ID]) == [(GUEST_OS_ID, 1)]
    assert len(rig.fake.called("KVM_ENABLE_CAP")) == 3  # of each VP; the VM's is for MSR exits

    rig.hyperv.reset()

    assert rig.vps[0].vcpu.get_msrs([GUEST_OS_ID]) == [(GUEST_OS_ID, 0)]


def test_a_slow_call(rig: Rig) -> None:
    rig.ram.write(INPUT, struct.pack("<QIB3xI", SELF_PARTITION, SELF_VP, 0, Register.HvRegisterGuestOsId))

    assert leave(rig, GET_ONE, INPUT, OUTPUT) == ONE_REP
    assert rig.ram.read(OUTPUT, 16) == b"\x01".ljust(16, b"\0")
    assert (rig.run.regs.rax, rig.run.regs.rip) == (0x1234, PAGE_GVA)  # KVM's to change


def test_xmm_registers_travel_in_the_exit(rig: Rig) -> None:
    names = struct.pack("<I", Register.HvRegisterGuestOsId)

    assert leave(rig, GET_ONE | FAST, SELF_PARTITION, SELF_VP, names) == ONE_REP
    assert bytes(rig.run.u8[XMM : XMM + 32]) == names.ljust(16, b"\xcc") + b"\x01".ljust(16, b"\0")
    assert rig.fake.called("KVM_GET_XSAVE") == rig.fake.called("KVM_SET_XSAVE") == []


def test_output_of_a_call_that_fails_in_the_middle_goes_to_the_vcpu(rig: Rig) -> None:
    names = struct.pack("<II", Register.HvRegisterGuestOsId, 0x7777_7777)
    result = leave(rig, Code.HvCallGetVpRegisters | FAST | 2 * ONE_REP, SELF_PARTITION, SELF_VP, names)

    assert result == HvStatus.INVALID_PARAMETER | ONE_REP
    assert bytes(rig.vps[0].vcpu.get_xsave())[176:192] == b"\x01".ljust(16, b"\0")


def test_a_caller_without_the_interface_gets_an_invalid_opcode(rig: Rig) -> None:
    rig.write_msr(GUEST_OS_ID, 0)

    assert leave(rig, Code.HvCallPostMessage) == KVM_HYPERV_HCALL_UD
    assert rig.vps[0].vcpu.get_msrs([GUEST_OS_ID]) == [(GUEST_OS_ID, 0)]


def test_a_32_bit_caller_s_fast_output_is_refused(rig: Rig) -> None:
    rig.run.sregs.cs.l = 0

    assert leave(rig, GET_ONE | FAST, SELF_PARTITION, SELF_VP) == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.parametrize("bits_64", [True, False])
def test_a_call_to_be_made_again_leaves_every_register(rig: Rig, bits_64: bool) -> None:
    handler = rig.hyperv.dispatcher._handled[Code.HvCallGetVpRegisters]
    handler.handler = lambda context, call: (AGAIN, 0, ())
    rig.run.sregs.cs.l = bits_64
    rig.ram.write(INPUT, struct.pack("<QIB3xI", SELF_PARTITION, SELF_VP, 0, Register.HvRegisterGuestOsId))

    vcpu, seen = rig.vps[0].vcpu, []
    enter, fd, request = vcpu.run_call

    def run(fd: int, request: int) -> int:
        seen.append(rig.run.u64[RESULT_U64])
        return enter(fd, request)

    vcpu._bare_run_call = run, fd, request

    leave(rig, GET_ONE, INPUT, OUTPUT)

    regs = rig.run.regs
    assert seen == [0x1234 if bits_64 else INPUT << 32 | 0x1234]  # what is in RAX, or EDX:EAX
    assert (regs.rip, regs.rcx, regs.rax) == (PAGE_GVA, GET_ONE, 0x1234)
    assert rig.run.immediate_exit  # the VP attends to others before it calls again


def test_what_comes_is_what_is_offered(rig: Rig) -> None:
    offered = rig.hyperv.dispatcher.codes

    assert {Code.HvCallGetVpRegisters, Code.HvCallPostMessage, Code.HvCallStartVirtualProcessor} <= offered
    # KVM hands over the one only with AccessVsm, the other never.
    assert not {Code.HvCallTranslateVirtualAddress, Code.HvCallSwitchVirtualAddressSpace} & offered


def test_every_call_can_be_made_by_a_port_write() -> None:
    assert PORT_WRITE.arriving(EVERYTHING.codes) == EVERYTHING.codes


@pytest.mark.parametrize(
    ("flags", "exits"),
    [
        ({"hv-passthrough": "on"}, False),  # some calls would not come
        ({"hv-passthrough": "on", "hv-hypercall-exits": "on"}, True),
        ({"hv-vpindex": "on", "hv-start-vp": "on", "hv-ipi": "on"}, True),
        ({"hv-vpindex": "on", "hv-start-vp": "on", "hv-hypercall-exits": "off"}, False),
    ],
)
def test_that_way_is_taken_where_nothing_is_lost_or_the_user_says_so(
    flags: dict[str, str], exits: bool
) -> None:
    asked = wanted(flags)
    assert asked is not None
    way = Transport(VMCALL, exits=True)

    said = offer(asked, cpus=1, gpa_bits=40, tsc_hz=1, tsc_known=True, transport=way)

    assert said.transport == (way if exits else PORT_WRITE)
    assert said.wanted.codes == said.transport.arriving(asked.codes)


def test_asking_for_it_where_it_cannot_be_is_an_error() -> None:
    asked = wanted({"hv-passthrough": "on", "hv-hypercall-exits": "on"})
    assert asked is not None

    with pytest.raises(HypervFlagError, match="port write"):
        offer(asked, cpus=1, gpa_bits=40, tsc_hz=1, tsc_known=True, transport=PORT_WRITE)


def test_vsm_calls_come_together() -> None:
    vsm = {
        Code.HvCallModifyVtlProtectionMask,
        Code.HvCallEnablePartitionVtl,
        Code.HvCallEnableVpVtl,
        Code.HvCallVtlCall,
        Code.HvCallVtlReturn,
    }
    exits = Transport(VMCALL, exits=True)

    assert exits.arriving(vsm | {Code.HvCallTranslateVirtualAddress}) == vsm | {
        Code.HvCallTranslateVirtualAddress
    }
    assert exits.arriving({Code.HvCallVtlCall}) == frozenset()


@pytest.mark.tlfs("HCP-013")
@pytest.mark.parametrize(
    ("series", "features", "host", "guest", "trap"),
    [
        (VsmSeries.OURS, ALL_FEATURES, "GenuineIntel", "GenuineIntel", VMCALL),
        (VsmSeries.OURS, ALL_FEATURES, "AuthenticAMD", "AuthenticAMD", b"\x0f\x01\xd9"),
        (VsmSeries.OURS, ALL_FEATURES, "AuthenticAMD", "GenuineIntel", page_code.OUT),
        (VsmSeries.OURS, ALL_FEATURES, "CentaurHauls", "CentaurHauls", page_code.OUT),
        (VsmSeries.OURS, 1, "GenuineIntel", "GenuineIntel", page_code.OUT),
        (VsmSeries.ORIGINAL, ALL_FEATURES, "GenuineIntel", "GenuineIntel", page_code.OUT),
        (VsmSeries.NONE, 0, "GenuineIntel", "GenuineIntel", page_code.OUT),
    ],
)
def test_choice(series: VsmSeries, features: int, host: str, guest: str, trap: bytes) -> None:
    assert choose(VsmSupport(series, features), host, guest).trap == trap
