# SPDX-License-Identifier: Apache-2.0
"""What a kernel with Hyper-V VSM adds to the KVM UAPI: the one place for names no released header has.

Numbers are those of the series "Introduce VSM support" v1 of 9 June 2024 (KVM mailing list), which a kernel with
our series in `kernel/` shares; what only ours has is said to be so. The original has no capability of its own: look
at leaf 0x40000003 of KVM_GET_SUPPORTED_HV_CPUID (EBX bit 16: VSM, EDX bit 15: XMM output) and at
KVM_CAP_MEMORY_ATTRIBUTES, whose value is the mask of attributes that the fd supports. Ours has KVM_CAP_X86_VSM.
"""

from kvmapi.uapi.layout import Structure, Union, layout, u8, u32, u64

# The series numbers this 236, which Linux 6.12 gave to KVM_CAP_PRE_FAULT_MEMORY: an answer to
# KVM_CHECK_EXTENSION(236) proves nothing unless the kernel is known to carry the series.
KVM_CAP_FAULT_EXIT_INSN_LEN = 236

# Ours: a bitmap of KVM_X86_VSM_*. 0 on any other kernel.
KVM_CAP_X86_VSM = 0x56534D
# KVM_MEMORY_EXIT_FLAG_READ, _WRITE, _EXEC are set.
KVM_X86_VSM_FAULT_ACCESS = 1 << 0
# The rest of `kvm_run_memory_fault_vsm` is filled.
KVM_X86_VSM_FAULT_INSN = 1 << 1
# Attributes NR, NW and NX, also honoured in what KVM itself does for the guest.
KVM_X86_VSM_RWX_ATTRIBUTES = 1 << 2
# `kvm_hyperv_exit_hcall_xmm.xmm` is filled or zero, and KVM_HYPERV_HCALL_UD is a valid result.
KVM_X86_VSM_HCALL_XMM = 1 << 3
# The hypercalls of VSM exit, as do VP register and VP start calls: by the CPUID of the vCPU.
KVM_X86_VSM_HCALLS = 1 << 4
# Synthetic cluster IPIs that name a target VTL exit.
KVM_X86_VSM_IPI = 1 << 5
# KVM_MP_STATE_HV_INACTIVE_VTL.
KVM_X86_VSM_INACTIVE_VTL = 1 << 6
# KVM_RUN on another thread than before does not wait for other processors.
KVM_X86_VSM_ANY_THREAD = 1 << 7
# KVM_ENABLE_CAP(KVM_CAP_X86_VSM) of a vCPU takes this or 0: whether INIT waits and SIPI is dropped.
KVM_X86_VSM_BLOCK_INIT = 1 << 8

# Leaf 0x40000003 of KVM_GET_SUPPORTED_HV_CPUID (TLFS 2.4.4); XMM output is the series' addition to 6.12.
HV_FEATURES = 0x4000_0003
HV_ACCESS_VSM = 1 << 16  # EBX
HV_ACCESS_VP_REGISTERS = 1 << 17  # EBX
HV_START_VIRTUAL_PROCESSOR = 1 << 21  # EBX
HV_XMM_OUTPUT = 1 << 15  # EDX

# Ours: a `result` that raises #UD at the instruction, in place of completing the hypercall.
KVM_HYPERV_HCALL_UD = 1 << 63

# Attributes of KVM_SET_MEMORY_ATTRIBUTES say what is forbidden: 0 is full access. Forbidding reads alone, or
# together with only one of the others, is EINVAL.
KVM_MEMORY_ATTRIBUTE_NR = 1 << 0
KVM_MEMORY_ATTRIBUTE_NW = 1 << 1
KVM_MEMORY_ATTRIBUTE_NX = 1 << 2

# The access that ended in KVM_EXIT_MEMORY_FAULT: exactly one is set; read-modify-write counts as a write.
KVM_MEMORY_EXIT_FLAG_READ = 1 << 0
KVM_MEMORY_EXIT_FLAG_WRITE = 1 << 1
KVM_MEMORY_EXIT_FLAG_EXEC = 1 << 2
# Ours: the access was a walk of the guest's page tables.
KVM_MEMORY_EXIT_FLAG_PAGE_WALK = 1 << 32

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

    `xmm` is meaningful only for fast calls that KVM knows to use XMM registers; else it is 0 in our series and
    garbage in the original. `result` is not set by the original; ours puts HV_STATUS_INVALID_HYPERCALL_CODE there.
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


@layout(
    size=56,
    offsets={
        "flags": 0,
        "gpa": 8,
        "size": 16,
        "insn_len": 24,
        "nr_insn_bytes": 25,
        "insn_bytes": 26,
        "access_gpa": 48,
    },
)
class kvm_run_memory_fault_vsm(Structure):
    """`kvm_run.memory_fault` of a kernel with VSM: adds the length of the instruction, 0 when unknown.

    Only ours (KVM_X86_VSM_FAULT_INSN) has the bytes at RIP, as many as `nr_insn_bytes` and more than the
    instruction has, and the address of the access within the page at `gpa`.
    """

    __slots__ = ()
    _fields_ = [
        ("flags", u64),
        ("gpa", u64),
        ("size", u64),
        ("insn_len", u8),
        ("nr_insn_bytes", u8),
        ("insn_bytes", u8 * 15),
        ("_pad", u8 * 7),
        ("access_gpa", u64),
    ]
