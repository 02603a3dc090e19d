# SPDX-License-Identifier: Apache-2.0
"""Every call on a real vCPU. What this host's KVM lacks must come back as KvmUnsupportedError, not be skipped."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from kvmapi import Kvm, KvmError, KvmMsrError, KvmUnsupportedError, Vcpu, Vm
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86 as x
from tests.host.kvmapi.offered import offered_or_reported

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    "state",
    ["regs", "sregs", "sregs2", "fpu", "xsave", "vcpu_events", "debugregs", "lapic", "mp_state"],
)
def test_state_can_be_put_back(vcpu: Vcpu, state: str) -> None:
    value = getattr(vcpu, f"get_{state}")()

    getattr(vcpu, f"set_{state}")(value)

    again = getattr(vcpu, f"get_{state}")()
    assert again == value if state == "mp_state" else bytes(again) == bytes(value)


def test_xcr0_can_be_put_back_where_there_is_one(kvm: Kvm, vcpu: Vcpu) -> None:
    xcrs = vcpu.get_xcrs()

    if kvm.check_extension(k.KVM_CAP_XCRS):
        vcpu.set_xcrs(xcrs)
    else:
        with pytest.raises(KvmError, match=r"KVM_SET_XCRS.*EINVAL"):
            vcpu.set_xcrs(xcrs)

    assert bytes(vcpu.get_xcrs()) == bytes(xcrs)


def test_reset_state_is_that_of_the_processor(vcpu: Vcpu) -> None:
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()

    assert (regs.rip, regs.rflags) == (0xFFF0, 2)
    assert (sregs.cs.base, sregs.cs.selector, sregs.cr0 & 1) == (0xFFFF0000, 0xF000, 0)
    assert vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE


def test_registers_are_written(vcpu: Vcpu) -> None:
    vcpu.set_regs(x.kvm_regs(rax=0x1122334455667788, r15=7, rip=0x1000, rflags=2))
    fpu = vcpu.get_fpu()
    fpu.xmm[3][:] = range(16)
    vcpu.set_fpu(fpu)
    debug = vcpu.get_debugregs()
    debug.db[2] = 0x4000
    vcpu.set_debugregs(debug)

    regs = vcpu.get_regs()
    assert (regs.rax, regs.r15, regs.rip) == (0x1122334455667788, 7, 0x1000)
    assert list(vcpu.get_fpu().xmm[3]) == list(range(16))
    assert vcpu.get_debugregs().db[2] == 0x4000


def test_contradicting_control_registers_are_refused(vcpu: Vcpu) -> None:
    sregs = vcpu.get_sregs()
    sregs.efer |= 1 << 10  # LMA without paging

    with pytest.raises(KvmError, match=r"KVM_SET_SREGS.*EINVAL.*contradict"):
        vcpu.set_sregs(sregs)


def test_whole_xsave_area(vm: Vm, vcpu: Vcpu) -> None:
    size = vm.check_extension(k.KVM_CAP_XSAVE2)
    area = vcpu.get_xsave2(size)

    vcpu.set_xsave(area)

    assert bytes(vcpu.get_xsave2(size)) == bytes(area)


def test_cpuid(kvm: Kvm, vcpu: Vcpu) -> None:
    leaves = kvm.supported_cpuid()

    vcpu.set_cpuid2(leaves)

    assert {(leaf.function, leaf.index) for leaf in vcpu.get_cpuid2()} == {
        (leaf.function, leaf.index) for leaf in leaves
    }
    vcpu.set_cpuid([x.kvm_cpuid_entry(function=0, eax=1)])
    with pytest.raises(KvmError, match=r"E2BIG.*at most 256"):
        vcpu.set_cpuid2([x.kvm_cpuid_entry2(function=number) for number in range(257)])


def test_hyperv_cpuid_of_a_vcpu(kvm: Kvm, vcpu: Vcpu) -> None:
    offered_or_reported(kvm, k.KVM_CAP_HYPERV_CPUID, vcpu.supported_hv_cpuid)


def test_msrs(kvm: Kvm, vcpu: Vcpu) -> None:
    vcpu.set_cpuid2(kvm.supported_cpuid())

    vcpu.set_msrs([(0x174, 0x10), (0x175, 0x8000), (0x176, 0x1000)])  # SYSENTER

    assert vcpu.get_msrs([0x176, 0x174]) == [(0x176, 0x1000), (0x174, 0x10)]
    everything = kvm.msr_index_list()
    assert [index for index, _ in vcpu.get_msrs(everything)] == everything
    with pytest.raises(KvmMsrError) as caught:
        vcpu.get_msrs([0x174, 0xDEADBEEF, 0x175])
    assert (caught.value.index, caught.value.done) == (0xDEADBEEF, [(0x174, 0x10)])


def test_unknown_capability_is_refused_by_name(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match=r"KVM_ENABLE_CAP\(cap=KVM_CAP_PPC_OSI.*EINVAL"):
        vcpu.enable_cap(k.KVM_CAP_PPC_OSI)


def test_translation_in_real_mode_is_the_identity(vcpu: Vcpu) -> None:
    answer = vcpu.translate(0x12345)

    assert (answer.valid, answer.physical_address) == (1, 0x12345)


def test_interrupts_and_nmis(vcpu: Vcpu) -> None:
    vcpu.nmi()

    # KVM_GET_VCPU_EVENTS takes the queued one into the state it shows.
    assert vcpu.get_vcpu_events().nmi.pending == 1
    with pytest.raises(KvmError, match=r"KVM_INTERRUPT.*ENXIO.*signal_msi"):
        vcpu.interrupt(0x40)


def test_system_management_interrupt(kvm: Kvm, vcpu: Vcpu) -> None:
    offered_or_reported(kvm, k.KVM_CAP_X86_SMM, vcpu.smi)


def test_tsc(vcpu: Vcpu) -> None:
    khz = vcpu.get_tsc_khz()
    vcpu.set_tsc_khz(khz)
    before = vcpu.get_tsc_offset()
    vcpu.set_tsc_offset(-12345)

    assert vcpu.get_tsc_khz() == khz
    # A KVM without hardware virtualization below takes the offset and keeps the host's TSC.
    assert vcpu.get_tsc_offset() in ((1 << 64) - 12345, before)
    assert vcpu.has_device_attr(x.KVM_VCPU_TSC_CTRL, x.KVM_VCPU_TSC_OFFSET)
    assert not vcpu.has_device_attr(99, 0)


def test_pause_notice_needs_a_guest_with_kvmclock(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match=r"KVM_KVMCLOCK_CTRL.*EINVAL.*no kvmclock"):
        vcpu.kvmclock_ctrl()


def test_tpr_reporting_and_vapic(vcpu: Vcpu) -> None:
    vcpu.tpr_access_reporting(True)
    vcpu.tpr_access_reporting(False)
    vcpu.set_vapic_addr(0)


def test_machine_check(kvm: Kvm, vcpu: Vcpu) -> None:
    vcpu.setup_mce(kvm.mce_cap_supported() & ~0xFF | 10)
    vcpu.set_mce(x.kvm_x86_mce(status=1 << 63, bank=3))  # a corrected error: only logged

    with pytest.raises(KvmError, match=r"KVM_X86_SET_MCE.*EINVAL.*No such bank"):
        vcpu.set_mce(x.kvm_x86_mce(status=1 << 63, bank=10))


def test_xen_vcpu(kvm: Kvm, vcpu: Vcpu) -> None:
    if kvm.check_extension(k.KVM_CAP_XEN_HVM):
        vcpu.xen_vcpu_get_attr(x.KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID)
        return
    with pytest.raises(KvmUnsupportedError, match=r"CONFIG_KVM_XEN"):
        vcpu.xen_vcpu_get_attr(x.KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID)
    with pytest.raises(KvmUnsupportedError, match=r"CONFIG_KVM_XEN"):
        vcpu.xen_vcpu_set_attr(x.kvm_xen_vcpu_attr(type=x.KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID))


def test_pre_faulting(kvm: Kvm, vm: Vm, vcpu: Vcpu) -> None:
    with mmap.mmap(-1, 8192) as ram:
        pin = ctypes.c_char.from_buffer(ram)
        vm.set_user_memory_region(0, 0, 8192, ctypes.addressof(pin))
        del pin
        offered_or_reported(kvm, k.KVM_CAP_PRE_FAULT_MEMORY, lambda: vcpu.pre_fault_memory(0, 8192))
        vm.set_user_memory_region(0, 0, 0, 0)


def test_nested_state(kvm: Kvm, vcpu: Vcpu) -> None:
    size = kvm.check_extension(k.KVM_CAP_NESTED_STATE)
    if size:
        state = vcpu.get_nested_state(size)
        assert 128 <= state.size <= size
        vcpu.set_nested_state(state)
    else:
        with pytest.raises(KvmError, match=r"KVM_GET_NESTED_STATE.*EINVAL"):
            vcpu.get_nested_state(4096)
        with pytest.raises(KvmError, match=r"KVM_SET_NESTED_STATE.*EINVAL"):
            vcpu.set_nested_state(x.kvm_nested_state(size=128))


def test_one_reg_interface(kvm: Kvm, vcpu: Vcpu) -> None:
    """Since Linux 6.18 on x86, with registers by MSR number; before, the call does not exist."""
    if kvm.check_extension(k.KVM_CAP_ONE_REG):
        assert all(register >> 56 == k.KVM_REG_X86 >> 56 for register in vcpu.get_reg_list())
    else:
        with pytest.raises(KvmUnsupportedError):
            vcpu.get_reg_list()
    for call in (lambda: vcpu.get_one_reg(0), lambda: vcpu.set_one_reg(0, 0)):
        with pytest.raises(KvmUnsupportedError, match=r"no registers of this kind"):
            call()
