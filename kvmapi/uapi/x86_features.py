# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: what a guest sees of the processor model (CPUID, MSRs, PMU), and switches of KVM for x86."""

from kvmapi.uapi.layout import Structure, fields, flexible_array, layout, s32, u32, u64


@layout(size=16, offsets={"index": 0, "reserved": 4, "data": 8})
class kvm_msr_entry(Structure):
    """One model-specific register: number and value."""

    __slots__ = ()
    _fields_ = [("index", u32), ("reserved", u32), ("data", u64)]


@layout(size=8, offsets={"nmsrs": 0, "pad": 4})
class kvm_msrs(Structure):
    """KVM_GET_MSRS, KVM_SET_MSRS: `nmsrs` entries follow."""

    __slots__ = ()
    _fields_ = [("nmsrs", u32), ("pad", u32)]


make_kvm_msrs = flexible_array(kvm_msrs, "entries", kvm_msr_entry)


@layout(size=4, offsets={"nmsrs": 0})
class kvm_msr_list(Structure):
    """KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST: `nmsrs` numbers follow."""

    __slots__ = ()
    _fields_ = [("nmsrs", u32)]


make_kvm_msr_list = flexible_array(kvm_msr_list, "indices", u32)

KVM_MSR_FILTER_MAX_BITMAP_SIZE = 0x600
KVM_MSR_FILTER_READ = 1 << 0
KVM_MSR_FILTER_WRITE = 1 << 1
KVM_MSR_FILTER_RANGE_VALID_MASK = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE


@layout(size=24, offsets={"flags": 0, "nmsrs": 4, "base": 8, "bitmap": 16})
class kvm_msr_filter_range(Structure):
    """MSRs `base` .. `base + nmsrs - 1`; a 1 bit in `bitmap` allows the access, 0 filters it.

    C declares `bitmap` as a pointer; here it is the address, 8 bytes."""

    __slots__ = ()
    _fields_ = [*fields(u32, "flags nmsrs base _pad"), ("bitmap", u64)]


KVM_MSR_FILTER_MAX_RANGES = 16
KVM_MSR_FILTER_DEFAULT_ALLOW = 0 << 0
KVM_MSR_FILTER_DEFAULT_DENY = 1 << 0
KVM_MSR_FILTER_VALID_MASK = KVM_MSR_FILTER_DEFAULT_DENY


@layout(size=392, offsets={"flags": 0, "ranges": 8})
class kvm_msr_filter(Structure):
    """KVM_X86_SET_MSR_FILTER: up to 16 ranges; `flags` decides for MSRs in none of them."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("_pad", u32), ("ranges", kvm_msr_filter_range * KVM_MSR_FILTER_MAX_RANGES)]


@layout(size=24, offsets={"function": 0, "eax": 4, "ebx": 8, "ecx": 12, "edx": 16, "padding": 20})
class kvm_cpuid_entry(Structure):
    """An entry of the older KVM_SET_CPUID."""

    __slots__ = ()
    _fields_ = [*fields(u32, "function eax ebx ecx edx padding")]


@layout(size=8, offsets={"nent": 0, "padding": 4})
class kvm_cpuid(Structure):
    """KVM_SET_CPUID: `nent` entries follow."""

    __slots__ = ()
    _fields_ = [("nent", u32), ("padding", u32)]


make_kvm_cpuid = flexible_array(kvm_cpuid, "entries", kvm_cpuid_entry)


@layout(
    size=40,
    offsets={
        "function": 0,
        "index": 4,
        "flags": 8,
        "eax": 12,
        "ebx": 16,
        "ecx": 20,
        "edx": 24,
        "padding": 28,
    },
)
class kvm_cpuid_entry2(Structure):
    """A CPUID leaf; `index` (ECX) counts when KVM_CPUID_FLAG_SIGNIFCANT_INDEX is set."""

    __slots__ = ()
    _fields_ = [*fields(u32, "function index flags eax ebx ecx edx"), ("padding", u32 * 3)]


KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0
KVM_CPUID_FLAG_STATEFUL_FUNC = 1 << 1
KVM_CPUID_FLAG_STATE_READ_NEXT = 1 << 2


@layout(size=8, offsets={"nent": 0, "padding": 4})
class kvm_cpuid2(Structure):
    """KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_SUPPORTED_CPUID ...: `nent` entries follow."""

    __slots__ = ()
    _fields_ = [("nent", u32), ("padding", u32)]


make_kvm_cpuid2 = flexible_array(kvm_cpuid2, "entries", kvm_cpuid_entry2)

KVM_X86_QUIRK_LINT0_REENABLED = 1 << 0
KVM_X86_QUIRK_CD_NW_CLEARED = 1 << 1
KVM_X86_QUIRK_LAPIC_MMIO_HOLE = 1 << 2
KVM_X86_QUIRK_OUT_7E_INC_RIP = 1 << 3
KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT = 1 << 4
KVM_X86_QUIRK_FIX_HYPERCALL_INSN = 1 << 5
KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS = 1 << 6
KVM_X86_QUIRK_SLOT_ZAP_ALL = 1 << 7
KVM_X86_QUIRK_STUFF_FEATURE_MSRS = 1 << 8
KVM_X86_QUIRK_IGNORE_GUEST_PAT = 1 << 9
KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM = 1 << 10

# Attributes of the /dev/kvm fd: groups, each with its attributes.

KVM_X86_GRP_SYSTEM = 0
KVM_X86_XCOMP_GUEST_SUPP = 0
KVM_X86_GRP_SEV = 1
KVM_X86_SEV_VMSA_FEATURES = 0


@layout(size=32, offsets={"action": 0, "nevents": 4, "fixed_counter_bitmap": 8, "flags": 12, "pad": 16})
class kvm_pmu_event_filter(Structure):
    """KVM_SET_PMU_EVENT_FILTER: events that guests may or may not count."""

    __slots__ = ()
    _fields_ = [*fields(u32, "action nevents fixed_counter_bitmap flags"), ("pad", u32 * 4)]


make_kvm_pmu_event_filter = flexible_array(kvm_pmu_event_filter, "events", u64)

KVM_PMU_EVENT_ALLOW = 0
KVM_PMU_EVENT_DENY = 1
KVM_PMU_EVENT_FLAG_MASKED_EVENTS = 1 << 0
KVM_PMU_EVENT_FLAGS_VALID_MASK = KVM_PMU_EVENT_FLAG_MASKED_EVENTS

KVM_X2APIC_API_USE_32BIT_IDS = 1 << 0
KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 1


@layout(size=24, offsets={"conn_id": 0, "fd": 4, "flags": 8, "padding": 12})
class kvm_hyperv_eventfd(Structure):
    """KVM_HYPERV_EVENTFD: signal `fd` when the guest signals event connection `conn_id`."""

    __slots__ = ()
    _fields_ = [("conn_id", u32), ("fd", s32), ("flags", u32), ("padding", u32 * 3)]


KVM_HYPERV_CONN_ID_MASK = 0x00FFFFFF
KVM_HYPERV_EVENTFD_DEASSIGN = 1 << 0

KVM_PMU_MASKED_ENTRY_EVENT_SELECT = 0xF_0000_00FF
KVM_PMU_MASKED_ENTRY_UMASK_MASK = 0xFF << 56
KVM_PMU_MASKED_ENTRY_UMASK_MATCH = 0xFF << 8
KVM_PMU_MASKED_ENTRY_EXCLUDE = 1 << 55
KVM_PMU_MASKED_ENTRY_UMASK_MASK_SHIFT = 56


def KVM_PMU_ENCODE_MASKED_ENTRY(event_select: int, mask: int, match: int, exclude: bool) -> int:  # noqa: N802  (C macro)
    """An event of kvm_pmu_event_filter with KVM_PMU_EVENT_FLAG_MASKED_EVENTS."""
    low = (event_select & 0xFF) | (event_select & 0xF00) << 24
    return low | (mask & 0xFF) << 56 | (match & 0xFF) << 8 | int(exclude) << 55


# Attribute of a vCPU: group and attribute number.
KVM_VCPU_TSC_CTRL = 0
KVM_VCPU_TSC_OFFSET = 0

KVM_EXIT_HYPERCALL_LONG_MODE = 1 << 0

# Types of VM for KVM_CREATE_VM.

KVM_X86_DEFAULT_VM = 0
KVM_X86_SW_PROTECTED_VM = 1
KVM_X86_SEV_VM = 2
KVM_X86_SEV_ES_VM = 3
KVM_X86_SNP_VM = 4
