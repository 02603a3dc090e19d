# SPDX-License-Identifier: Apache-2.0
"""asm/kvm_para.h and linux/kvm_para.h: what KVM itself offers guests (CPUID leaves, MSRs, hypercalls)."""

from kvmapi.uapi.layout import Structure, layout, s64, u8, u32, u64

KVM_CPUID_SIGNATURE = 0x40000000

KVM_SIGNATURE = b"KVMKVMKVM\0\0\0"

KVM_CPUID_FEATURES = 0x40000001

# Bit numbers in EAX of leaf KVM_CPUID_FEATURES; KVM_HINTS_* are bit numbers in EDX.

KVM_FEATURE_CLOCKSOURCE = 0
KVM_FEATURE_NOP_IO_DELAY = 1
KVM_FEATURE_MMU_OP = 2
KVM_FEATURE_CLOCKSOURCE2 = 3
KVM_FEATURE_ASYNC_PF = 4
KVM_FEATURE_STEAL_TIME = 5
KVM_FEATURE_PV_EOI = 6
KVM_FEATURE_PV_UNHALT = 7
KVM_FEATURE_PV_TLB_FLUSH = 9
KVM_FEATURE_ASYNC_PF_VMEXIT = 10
KVM_FEATURE_PV_SEND_IPI = 11
KVM_FEATURE_POLL_CONTROL = 12
KVM_FEATURE_PV_SCHED_YIELD = 13
KVM_FEATURE_ASYNC_PF_INT = 14
KVM_FEATURE_MSI_EXT_DEST_ID = 15
KVM_FEATURE_HC_MAP_GPA_RANGE = 16
KVM_FEATURE_MIGRATION_CONTROL = 17
KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24

KVM_HINTS_REALTIME = 0

MSR_KVM_WALL_CLOCK = 0x11
MSR_KVM_SYSTEM_TIME = 0x12
MSR_KVM_WALL_CLOCK_NEW = 0x4B564D00
MSR_KVM_SYSTEM_TIME_NEW = 0x4B564D01
MSR_KVM_ASYNC_PF_EN = 0x4B564D02
MSR_KVM_STEAL_TIME = 0x4B564D03
MSR_KVM_PV_EOI_EN = 0x4B564D04
MSR_KVM_POLL_CONTROL = 0x4B564D05
MSR_KVM_ASYNC_PF_INT = 0x4B564D06
MSR_KVM_ASYNC_PF_ACK = 0x4B564D07
MSR_KVM_MIGRATION_CONTROL = 0x4B564D08

KVM_MSR_ENABLED = 1


@layout(size=64, offsets={"steal": 0, "version": 8, "flags": 12, "preempted": 16, "u8_pad": 17, "pad": 20})
class kvm_steal_time(Structure):
    """The area that MSR_KVM_STEAL_TIME names; `steal` is in nanoseconds."""

    __slots__ = ()
    _fields_ = [
        ("steal", u64),
        ("version", u32),
        ("flags", u32),
        ("preempted", u8),
        ("u8_pad", u8 * 3),
        ("pad", u32 * 11),
    ]


KVM_VCPU_PREEMPTED = 1 << 0
KVM_VCPU_FLUSH_TLB = 1 << 1
KVM_CLOCK_PAIRING_WALLCLOCK = 0


@layout(size=64, offsets={"sec": 0, "nsec": 8, "tsc": 16, "flags": 24, "pad": 28})
class kvm_clock_pairing(Structure):
    """The answer of KVM_HC_CLOCK_PAIRING."""

    __slots__ = ()
    _fields_ = [("sec", s64), ("nsec", s64), ("tsc", u64), ("flags", u32), ("pad", u32 * 9)]


KVM_STEAL_ALIGNMENT_BITS = 5

KVM_STEAL_VALID_BITS = 0xFFFF_FFFF_FFFF_FFC0
KVM_STEAL_RESERVED_MASK = 0x3E

KVM_MAX_MMU_OP_BATCH = 32
KVM_ASYNC_PF_ENABLED = 1 << 0
KVM_ASYNC_PF_SEND_ALWAYS = 1 << 1
KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT = 1 << 2
KVM_ASYNC_PF_DELIVERY_AS_INT = 1 << 3

KVM_ASYNC_PF_VEC_MASK = 0xFF

KVM_MIGRATION_READY = 1 << 0

KVM_MAP_GPA_RANGE_PAGE_SZ_4K = 0
KVM_MAP_GPA_RANGE_PAGE_SZ_2M = 1 << 0
KVM_MAP_GPA_RANGE_PAGE_SZ_1G = 1 << 1

KVM_MAP_GPA_RANGE_ENCRYPTED = 1 << 4
KVM_MAP_GPA_RANGE_DECRYPTED = 0

KVM_PV_REASON_PAGE_NOT_PRESENT = 1
KVM_PV_REASON_PAGE_READY = 2


@layout(size=64, offsets={"flags": 0, "token": 4, "pad": 8})
class kvm_vcpu_pv_apf_data(Structure):
    """The area that MSR_KVM_ASYNC_PF_EN names."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("token", u32), ("pad", u8 * 56)]


KVM_PV_EOI_BIT = 0
KVM_PV_EOI_MASK = 1
KVM_PV_EOI_ENABLED = 1
KVM_PV_EOI_DISABLED = 0

# linux/kvm_para.h: results and numbers of KVM's hypercalls.

KVM_ENOSYS = 1000
KVM_EFAULT = 14
KVM_EINVAL = 22
KVM_E2BIG = 7
KVM_EPERM = 1
KVM_EOPNOTSUPP = 95

KVM_HC_VAPIC_POLL_IRQ = 1
KVM_HC_MMU_OP = 2
KVM_HC_FEATURES = 3
KVM_HC_PPC_MAP_MAGIC_PAGE = 4
KVM_HC_KICK_CPU = 5
KVM_HC_MIPS_GET_CLOCK_FREQ = 6
KVM_HC_MIPS_EXIT_VM = 7
KVM_HC_MIPS_CONSOLE_OUTPUT = 8
KVM_HC_CLOCK_PAIRING = 9
KVM_HC_SEND_IPI = 10
KVM_HC_SCHED_YIELD = 11
KVM_HC_MAP_GPA_RANGE = 12
