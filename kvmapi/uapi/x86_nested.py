# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: the state of a hypervisor inside the guest (KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE)."""

from kvmapi.uapi.layout import Structure, Union, flexible_array, layout, u8, u16, u32, u64

KVM_STATE_NESTED_FORMAT_VMX = 0
KVM_STATE_NESTED_FORMAT_SVM = 1
KVM_STATE_NESTED_GUEST_MODE = 0x00000001
KVM_STATE_NESTED_RUN_PENDING = 0x00000002
KVM_STATE_NESTED_EVMCS = 0x00000004
KVM_STATE_NESTED_MTF_PENDING = 0x00000008
KVM_STATE_NESTED_GIF_SET = 0x00000100
KVM_STATE_NESTED_SMM_GUEST_MODE = 0x00000001
KVM_STATE_NESTED_SMM_VMXON = 0x00000002
KVM_STATE_NESTED_VMX_VMCS_SIZE = 0x1000
KVM_STATE_NESTED_SVM_VMCB_SIZE = 0x1000
KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE = 0x00000001


@layout(size=8192, offsets={"vmcs12": 0, "shadow_vmcs12": 4096})
class kvm_vmx_nested_state_data(Structure):
    """VMX: the VMCS of the nested guest and its shadow, as KVM keeps them."""

    __slots__ = ()
    _fields_ = [
        ("vmcs12", u8 * KVM_STATE_NESTED_VMX_VMCS_SIZE),
        ("shadow_vmcs12", u8 * KVM_STATE_NESTED_VMX_VMCS_SIZE),
    ]


@layout(size=2, offsets={"flags": 0}, inside="kvm_vmx_nested_state_hdr")
class kvm_vmx_nested_state_smm(Structure):
    """VMX: state saved while in system management mode."""

    __slots__ = ()
    _fields_ = [("flags", u16)]


@layout(
    size=32,
    offsets={
        "vmxon_pa": 0,
        "vmcs12_pa": 8,
        "smm": 16,
        "pad": 18,
        "flags": 20,
        "preemption_timer_deadline": 24,
    },
)
class kvm_vmx_nested_state_hdr(Structure):
    """VMX: where the guest keeps its VMXON region and VMCS."""

    __slots__ = ()
    _fields_ = [
        ("vmxon_pa", u64),
        ("vmcs12_pa", u64),
        ("smm", kvm_vmx_nested_state_smm),
        ("pad", u16),
        ("flags", u32),
        ("preemption_timer_deadline", u64),
    ]


@layout(size=4096, offsets={"vmcb12": 0})
class kvm_svm_nested_state_data(Structure):
    """SVM: the nested guest's VMCB."""

    __slots__ = ()
    _fields_ = [("vmcb12", u8 * KVM_STATE_NESTED_SVM_VMCB_SIZE)]


@layout(size=8, offsets={"vmcb_pa": 0})
class kvm_svm_nested_state_hdr(Structure):
    """SVM: where the guest keeps its VMCB."""

    __slots__ = ()
    _fields_ = [("vmcb_pa", u64)]


@layout(size=120, offsets={"vmx": 0, "svm": 0, "pad": 0}, inside="kvm_nested_state")
class kvm_nested_state_hdr(Union):
    """The part of fixed size, by `format`."""

    __slots__ = ()
    _fields_ = [("vmx", kvm_vmx_nested_state_hdr), ("svm", kvm_svm_nested_state_hdr), ("pad", u8 * 120)]


@layout(size=128, offsets={"flags": 0, "format": 2, "size": 4, "hdr": 8})
class kvm_nested_state(Structure):
    """Head of the nested state; `size` bytes in all, the rest follows as bytes.

    In C the tail is a union of kvm_vmx_nested_state_data and kvm_svm_nested_state_data arrays."""

    __slots__ = ()
    _fields_ = [("flags", u16), ("format", u16), ("size", u32), ("hdr", kvm_nested_state_hdr)]


make_kvm_nested_state = flexible_array(kvm_nested_state, "data", u8)
