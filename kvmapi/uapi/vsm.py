# SPDX-License-Identifier: Apache-2.0
"""What a kernel with Hyper-V VSM adds to the KVM UAPI: the one place for names no released header has.

Numbers are those of the series "Introduce VSM support" v1 of 9 June 2024 (KVM mailing list); a kernel that
deviates changes this module only. None of it can be discovered by a capability of its own: look at leaf
0x40000003 of KVM_GET_SUPPORTED_HV_CPUID (EBX bit 16: VSM, EDX bit 15: XMM output) and at
KVM_CAP_MEMORY_ATTRIBUTES, whose value is the mask of attributes that the fd supports.
"""

from kvmapi.uapi.layout import Structure, Union, layout, u8, u32, u64

# The series numbers this 236, which Linux 6.12 gave to KVM_CAP_PRE_FAULT_MEMORY: an answer to
# KVM_CHECK_EXTENSION(236) proves nothing unless the kernel is known to carry the series.
KVM_CAP_FAULT_EXIT_INSN_LEN = 236

# Attributes of KVM_SET_MEMORY_ATTRIBUTES say what is forbidden: 0 is full access. Forbidding reads alone, or
# together with only one of the others, is EINVAL.
KVM_MEMORY_ATTRIBUTE_NR = 1 << 0
KVM_MEMORY_ATTRIBUTE_NW = 1 << 1
KVM_MEMORY_ATTRIBUTE_NX = 1 << 2

# The access that ended in KVM_EXIT_MEMORY_FAULT: exactly one is set; read-modify-write counts as a write.
KVM_MEMORY_EXIT_FLAG_READ = 1 << 0
KVM_MEMORY_EXIT_FLAG_WRITE = 1 << 1
KVM_MEMORY_EXIT_FLAG_EXEC = 1 << 2

# KVM_SET_MP_STATE: KVM_RUN waits in the kernel for an event of this VTL, then exits with
# KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_WAKEUP.
KVM_MP_STATE_HV_INACTIVE_VTL = 11


@layout(size=16, offsets={"low": 0, "high": 8}, inside="kvm_hyperv_exit")
class kvm_hyperv_xmm(Structure):
    """An XMM register of a fast hypercall."""

    __slots__ = ()
    _fields_ = [("low", u64), ("high", u64)]


@layout(size=128, offsets={"input": 0, "result": 8, "params": 16, "xmm": 32}, inside="kvm_hyperv_exit")
class kvm_hyperv_exit_hcall_xmm(Structure):
    """KVM_EXIT_HYPERV_HCALL with XMM0-XMM5: input of fast calls, and their output when the call succeeds.

    `result` is not set by KVM. `xmm` is meaningful only for fast calls that KVM knows to use XMM registers.
    """

    __slots__ = ()
    _fields_ = [("input", u64), ("result", u64), ("params", u64 * 2), ("xmm", kvm_hyperv_xmm * 6)]


@layout(size=128, offsets={"hcall": 0}, inside="kvm_hyperv_exit")
class kvm_hyperv_exit_xmm_u(Union):
    """By `type`; the other members are as in kvmapi.uapi.kvm."""

    __slots__ = ()
    _fields_ = [("hcall", kvm_hyperv_exit_hcall_xmm)]


@layout(size=136, offsets={"type": 0, "pad1": 4, "u": 8})
class kvm_hyperv_exit_xmm(Structure):
    """`struct kvm_hyperv_exit` of a kernel with VSM: 136 bytes, where 6.12 has 56."""

    __slots__ = ()
    _fields_ = [("type", u32), ("pad1", u32), ("u", kvm_hyperv_exit_xmm_u)]


@layout(size=32, offsets={"flags": 0, "gpa": 8, "size": 16, "insn_len": 24})
class kvm_run_memory_fault_vsm(Structure):
    """`kvm_run.memory_fault` of a kernel with VSM: adds the length of the instruction, 0 when unknown."""

    __slots__ = ()
    _fields_ = [("flags", u64), ("gpa", u64), ("size", u64), ("insn_len", u8), ("_pad", u8 * 7)]
