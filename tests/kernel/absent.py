# SPDX-License-Identifier: Apache-2.0
"""How to tell that a kernel does not have a feature of our series: one check per bit of KVM_CAP_X86_VSM."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from kvmapi import Kvm, KvmError, KvmUnsupportedError
from kvmapi.uapi.kvm import KVM_CAP_MEMORY_ATTRIBUTES
from kvmapi.uapi.vsm import (
    HV_ACCESS_VP_REGISTERS,
    HV_ACCESS_VSM,
    HV_FEATURES,
    HV_START_VIRTUAL_PROCESSOR,
    HV_XMM_OUTPUT,
    KVM_CAP_X86_VSM,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MP_STATE_HV_INACTIVE_VTL,
    KVM_X86_VSM_ANY_THREAD,
    KVM_X86_VSM_BLOCK_INIT,
    KVM_X86_VSM_FAULT_ACCESS,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_HCALL_XMM,
    KVM_X86_VSM_HCALLS,
    KVM_X86_VSM_INACTIVE_VTL,
    KVM_X86_VSM_IPI,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)
from kvmapi.vsm_support import RWX_ATTRIBUTES


def _no_fault_details(kvm: Kvm) -> None:
    # Nothing but the capability tells: the exits exist, with members that are not filled.
    assert not kvm.check_extension(KVM_CAP_X86_VSM) & (KVM_X86_VSM_FAULT_ACCESS | KVM_X86_VSM_FAULT_INSN)


def _no_rwx_attributes(kvm: Kvm) -> None:
    assert not kvm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) & RWX_ATTRIBUTES
    with kvm.create_vm() as vm:
        assert not vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) & RWX_ATTRIBUTES
        for attributes in (KVM_MEMORY_ATTRIBUTE_NW, RWX_ATTRIBUTES):
            with pytest.raises(KvmError):
                vm.set_memory_attributes(0, 0x1000, attributes)


def _no_privileges(kvm: Kvm) -> None:
    try:
        leaves = kvm.supported_hv_cpuid()
    except KvmUnsupportedError:
        # A KVM without Hyper-V, such as one without hardware below it, has no privileges to give.
        return
    features = next(leaf for leaf in leaves if leaf.function == HV_FEATURES)
    assert not features.ebx & (HV_ACCESS_VSM | HV_ACCESS_VP_REGISTERS | HV_START_VIRTUAL_PROCESSOR)
    assert not features.edx & HV_XMM_OUTPUT


def _no_inactive_vtl(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        with vm.create_vcpu(0) as vcpu, pytest.raises(KvmError) as refusal:
            vcpu.set_mp_state(KVM_MP_STATE_HV_INACTIVE_VTL)
        assert refusal.value.errno == errno.EINVAL


def _not_any_thread(kvm: Kvm) -> None:
    # Nothing but the capability tells: it is about time.
    assert not kvm.check_extension(KVM_CAP_X86_VSM) & KVM_X86_VSM_ANY_THREAD


def _no_blocked_init(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        with vm.create_vcpu(0) as vcpu, pytest.raises(KvmError) as refusal:
            vcpu.enable_cap(KVM_CAP_X86_VSM, KVM_X86_VSM_BLOCK_INIT)
        assert refusal.value.errno == errno.EINVAL


ABSENT: dict[int, Callable[[Kvm], None]] = {
    KVM_X86_VSM_FAULT_ACCESS: _no_fault_details,
    KVM_X86_VSM_FAULT_INSN: _no_fault_details,
    KVM_X86_VSM_RWX_ATTRIBUTES: _no_rwx_attributes,
    KVM_X86_VSM_HCALL_XMM: _no_privileges,
    KVM_X86_VSM_HCALLS: _no_privileges,
    KVM_X86_VSM_IPI: _no_privileges,
    KVM_X86_VSM_INACTIVE_VTL: _no_inactive_vtl,
    KVM_X86_VSM_ANY_THREAD: _not_any_thread,
    KVM_X86_VSM_BLOCK_INIT: _no_blocked_init,
}
