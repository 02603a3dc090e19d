# SPDX-License-Identifier: Apache-2.0
"""Hypercalls that KVM leaves to userspace: which, when, with what, and how they end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kvmapi import Kvm, Vm
from kvmapi.exit_types import HypervHcallExit
from kvmapi.uapi.kvm_cap import KVM_CAP_HYPERV_SYNIC2
from kvmapi.uapi.vsm import KVM_HYPERV_HCALL_UD, KVM_X86_VSM_HCALL_XMM, KVM_X86_VSM_HCALLS
from tests.kernel.guest import CODE, STACK
from tests.kernel.hypercall_guest import (
    DONE,
    EBX_START_VP,
    EBX_VP_REGISTERS,
    EBX_VSM,
    EDX_XMM_INPUT,
    EDX_XMM_OUTPUT,
    FAST,
    FEATURES,
    MARK,
    UD_VECTOR,
    HypercallGuest,
)

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_HCALL_XMM, KVM_X86_VSM_HCALLS)]

SUCCESS, INVALID_CODE, ACCESS_DENIED = 0, 2, 6
# What no other status is, with repetitions completed.
ANSWER = 0x0000_0007_0000_0000 | SUCCESS
XMM = tuple(0x0101_0101_0101_0101_0000_0000_0000_0001 * (index + 1) for index in range(6))


@dataclass(frozen=True)
class Call:
    code: int
    privilege: int
    xmm_input: bool = False
    xmm_output: bool = False
    has_result: bool = True


CALLS = {
    "ModifyVtlProtectionMask": Call(0x0C, EBX_VSM, xmm_input=True),
    "EnablePartitionVtl": Call(0x0D, EBX_VSM),
    "EnableVpVtl": Call(0x0F, EBX_VSM),
    "VtlCall": Call(0x11, EBX_VSM, has_result=False),
    "VtlReturn": Call(0x12, EBX_VSM, has_result=False),
    "GetVpRegisters": Call(0x50, EBX_VP_REGISTERS, xmm_input=True, xmm_output=True),
    "SetVpRegisters": Call(0x51, EBX_VP_REGISTERS, xmm_input=True),
    "TranslateVirtualAddress": Call(0x52, EBX_VSM, xmm_input=True, xmm_output=True),
    "StartVirtualProcessor": Call(0x99, EBX_START_VP),
    "GetVpIndexFromApicId": Call(0x9A, EBX_START_VP, xmm_input=True, xmm_output=True),
}
ALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
WITH_XMM_OUTPUT = pytest.mark.parametrize(
    "call", [call for call in CALLS.values() if call.xmm_output], ids=lambda call: hex(call.code)
)


def test_the_privileges_are_supported(kvm: Kvm) -> None:
    features = next(leaf for leaf in kvm.supported_hv_cpuid() if leaf.function == FEATURES)

    assert (
        features.ebx & (EBX_VSM | EBX_VP_REGISTERS | EBX_START_VP)
        == EBX_VSM | EBX_VP_REGISTERS | EBX_START_VP
    )
    assert features.edx & EDX_XMM_OUTPUT


@pytest.mark.original_fails("traps 4 and 10")
@ALL
@pytest.mark.parametrize("enforce", [False, True])
def test_a_slow_call_exits_with_its_registers_and_nothing_else(vm: Vm, call: Call, enforce: bool) -> None:
    with HypercallGuest(vm, enforce=enforce) as guest:
        exit_ = guest.call(call.code | 1 << 32, rdx=0xAAAA000, r8=0xBBBB000, xmm=XMM)

        assert isinstance(exit_, HypervHcallExit)
        assert (exit_.input, exit_.params) == (call.code | 1 << 32, (0xAAAA000, 0xBBBB000))
        assert exit_.xmm == (0,) * 6
        assert guest.hcall(exit_).result == INVALID_CODE
        assert guest.vcpu.get_regs().rip == CODE


@pytest.mark.original_fails("trap 4, and GetVpIndexFromApicId has no XMM input")
@ALL
def test_a_fast_call_exits_with_xmm_registers_if_it_has_input_in_them(vm: Vm, call: Call) -> None:
    with HypercallGuest(vm, enforce=True) as guest:
        exit_ = guest.call(call.code | FAST, rdx=1, r8=2, xmm=XMM)

        assert isinstance(exit_, HypervHcallExit)
        assert exit_.params == (1, 2)
        assert exit_.xmm == (XMM if call.xmm_input else (0,) * 6)


@ALL
def test_the_answer_arrives_behind_the_instruction(vm: Vm, call: Call) -> None:
    with HypercallGuest(vm) as guest:
        exit_ = guest.call(call.code)
        guest.hcall(exit_).result = ANSWER

        assert guest.status(guest.exit()) == (ANSWER if call.has_result else MARK)
        assert guest.vcpu.get_regs().rip >= guest.behind


@pytest.mark.original_fails("trap 5")
@ALL
def test_without_the_privilege_access_is_denied(vm: Vm, call: Call) -> None:
    with HypercallGuest(vm, without_ebx=call.privilege, enforce=True) as guest:
        assert guest.status(guest.call(call.code)) == ACCESS_DENIED


@pytest.mark.original_fails("without enforcement all calls exit")
@ALL
def test_userspace_that_does_not_offer_it_gets_no_exit(vm: Vm, call: Call) -> None:
    """Even if it does not have KVM enforce CPUID: such a kernel changes nothing for it."""
    with HypercallGuest(vm, without_ebx=call.privilege) as guest:
        assert guest.status(guest.call(call.code)) == INVALID_CODE


@pytest.mark.original_fails("it has no such answer")
@ALL
def test_userspace_may_answer_with_ud(vm: Vm, call: Call) -> None:
    """As TLFS wants it of a VTL call that is not possible: a fault at the instruction."""
    with HypercallGuest(vm) as guest:
        guest.hcall(guest.call(call.code)).result = KVM_HYPERV_HCALL_UD

        assert guest.port(guest.exit()) == UD_VECTOR
        pushed_rip = int.from_bytes(guest.peek(STACK - 40, 8), "little")
        assert pushed_rip == CODE


@pytest.mark.original_fails("GetVpIndexFromApicId has no XMM output")
@ALL
def test_output_in_xmm_registers_is_taken_from_calls_that_have_it(vm: Vm, call: Call) -> None:
    with HypercallGuest(vm, enforce=True) as guest:
        answer = guest.hcall(guest.call(call.code | FAST, xmm=XMM))
        answer.result = SUCCESS
        for index in range(6):
            answer.xmm[index].low, answer.xmm[index].high = 0x1000 + index, 0x2000 + index

        assert guest.port(guest.exit()) == DONE
        written = [0x1000 + index | (0x2000 + index) << 64 for index in range(6)]
        assert guest.xmm() == (written if call.xmm_output else list(XMM))


@WITH_XMM_OUTPUT
@pytest.mark.parametrize(("control", "result"), [(FAST, ACCESS_DENIED), (0, SUCCESS)])
def test_no_output_of_a_failed_or_slow_call(vm: Vm, call: Call, control: int, result: int) -> None:
    with HypercallGuest(vm) as guest:
        answer = guest.hcall(guest.call(call.code | control, xmm=XMM))
        answer.result = result
        answer.xmm[0].low = 0x4242

        assert guest.port(guest.exit()) == DONE
        assert guest.xmm() == list(XMM)


@pytest.mark.original_fails("it reads the input back from userspace")
@WITH_XMM_OUTPUT
def test_what_userspace_writes_over_the_input_does_not_matter(vm: Vm, call: Call) -> None:
    with HypercallGuest(vm) as guest:
        answer = guest.hcall(guest.call(call.code | FAST, xmm=XMM))
        answer.input = 0x11
        answer.result = SUCCESS
        answer.xmm[0].low, answer.xmm[0].high = 1, 2

        assert guest.status(guest.exit()) == SUCCESS
        assert guest.xmm()[0] == 1 | 2 << 64


@pytest.mark.original_fails("#UD only after the call was carried out")
@WITH_XMM_OUTPUT
@pytest.mark.parametrize("missing", [EDX_XMM_INPUT, EDX_XMM_OUTPUT], ids=["input", "output"])
def test_ud_without_the_right_to_use_xmm_registers(vm: Vm, call: Call, missing: int) -> None:
    """Before userspace sees the call, which it would otherwise carry out."""
    with HypercallGuest(vm, without_edx=missing, enforce=True) as guest:
        assert guest.port(guest.call(call.code | FAST)) == UD_VECTOR


@pytest.mark.original_fails("trap 4")
@pytest.mark.parametrize("code", [0x5C, 0x0D, 0x99], ids=["PostMessage", "EnablePartitionVtl", "StartVp"])
def test_registers_that_are_no_input_are_zero(vm: Vm, code: int) -> None:
    """The original series copied what lay on the kernel's stack."""
    vm.create_irqchip()
    with HypercallGuest(vm) as guest:
        guest.vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2)
        guest.vcpu.set_msrs([(0x40000080, 1)])  # SCONTROL: SynIC enabled

        exit_ = guest.call(code | FAST, xmm=XMM)

        assert isinstance(exit_, HypervHcallExit)
        assert exit_.xmm == (0,) * 6
