# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: the ioctls of /dev/kvm, VM, vCPU and device fds, each computed from its structure."""

from kvmapi.uapi.kvm_device import kvm_create_device, kvm_device_attr
from kvmapi.uapi.kvm_irq import (
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irq_routing,
    kvm_irq_routing_xen_evtchn,
    kvm_irqchip,
    kvm_irqfd,
    kvm_msi,
    kvm_pit_config,
)
from kvmapi.uapi.kvm_memory import (
    kvm_clear_dirty_log,
    kvm_coalesced_mmio_zone,
    kvm_create_guest_memfd,
    kvm_dirty_log,
    kvm_enc_region,
    kvm_memory_attributes,
    kvm_pre_fault_memory,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
)
from kvmapi.uapi.kvm_vcpu import (
    kvm_clock_data,
    kvm_enable_cap,
    kvm_guest_debug,
    kvm_interrupt,
    kvm_mp_state,
    kvm_one_reg,
    kvm_reg_list,
    kvm_signal_mask,
    kvm_tpr_access_ctl,
    kvm_translation,
    kvm_vapic_addr,
)
from kvmapi.uapi.layout import IO, IOR, IOW, IOWR, u64
from kvmapi.uapi.x86_board import kvm_lapic_state, kvm_pit_state, kvm_pit_state2
from kvmapi.uapi.x86_features import (
    kvm_cpuid,
    kvm_cpuid2,
    kvm_hyperv_eventfd,
    kvm_msr_filter,
    kvm_msr_list,
    kvm_msrs,
    kvm_pmu_event_filter,
)
from kvmapi.uapi.x86_nested import kvm_nested_state
from kvmapi.uapi.x86_vcpu import (
    kvm_debugregs,
    kvm_fpu,
    kvm_regs,
    kvm_sregs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_x86_mce,
    kvm_xcrs,
    kvm_xsave,
)
from kvmapi.uapi.x86_xen import kvm_xen_hvm_attr, kvm_xen_hvm_config, kvm_xen_vcpu_attr

KVMIO = 0xAE
KVM_API_VERSION = 12

# /dev/kvm
KVM_GET_API_VERSION = IO(KVMIO, 0x00)
KVM_CREATE_VM = IO(KVMIO, 0x01)
KVM_GET_MSR_INDEX_LIST = IOWR(KVMIO, 0x02, kvm_msr_list)
KVM_CHECK_EXTENSION = IO(KVMIO, 0x03)
KVM_GET_VCPU_MMAP_SIZE = IO(KVMIO, 0x04)
KVM_GET_SUPPORTED_CPUID = IOWR(KVMIO, 0x05, kvm_cpuid2)
KVM_GET_EMULATED_CPUID = IOWR(KVMIO, 0x09, kvm_cpuid2)
KVM_GET_MSR_FEATURE_INDEX_LIST = IOWR(KVMIO, 0x0A, kvm_msr_list)

# VM fds
KVM_CREATE_VCPU = IO(KVMIO, 0x41)
KVM_GET_DIRTY_LOG = IOW(KVMIO, 0x42, kvm_dirty_log)
KVM_SET_NR_MMU_PAGES = IO(KVMIO, 0x44)
KVM_GET_NR_MMU_PAGES = IO(KVMIO, 0x45)
KVM_SET_USER_MEMORY_REGION = IOW(KVMIO, 0x46, kvm_userspace_memory_region)
KVM_SET_TSS_ADDR = IO(KVMIO, 0x47)
KVM_SET_IDENTITY_MAP_ADDR = IOW(KVMIO, 0x48, u64)
KVM_SET_USER_MEMORY_REGION2 = IOW(KVMIO, 0x49, kvm_userspace_memory_region2)
KVM_CREATE_IRQCHIP = IO(KVMIO, 0x60)
KVM_IRQ_LINE = IOW(KVMIO, 0x61, kvm_irq_level)
KVM_GET_IRQCHIP = IOWR(KVMIO, 0x62, kvm_irqchip)
KVM_SET_IRQCHIP = IOR(KVMIO, 0x63, kvm_irqchip)
KVM_CREATE_PIT = IO(KVMIO, 0x64)
KVM_GET_PIT = IOWR(KVMIO, 0x65, kvm_pit_state)
KVM_SET_PIT = IOR(KVMIO, 0x66, kvm_pit_state)
KVM_IRQ_LINE_STATUS = IOWR(KVMIO, 0x67, kvm_irq_level)
KVM_REGISTER_COALESCED_MMIO = IOW(KVMIO, 0x67, kvm_coalesced_mmio_zone)
KVM_UNREGISTER_COALESCED_MMIO = IOW(KVMIO, 0x68, kvm_coalesced_mmio_zone)
KVM_SET_GSI_ROUTING = IOW(KVMIO, 0x6A, kvm_irq_routing)
KVM_REINJECT_CONTROL = IO(KVMIO, 0x71)
KVM_IRQFD = IOW(KVMIO, 0x76, kvm_irqfd)
KVM_CREATE_PIT2 = IOW(KVMIO, 0x77, kvm_pit_config)
KVM_SET_BOOT_CPU_ID = IO(KVMIO, 0x78)
KVM_IOEVENTFD = IOW(KVMIO, 0x79, kvm_ioeventfd)
KVM_XEN_HVM_CONFIG = IOW(KVMIO, 0x7A, kvm_xen_hvm_config)
KVM_SET_CLOCK = IOW(KVMIO, 0x7B, kvm_clock_data)
KVM_GET_CLOCK = IOR(KVMIO, 0x7C, kvm_clock_data)
KVM_GET_PIT2 = IOR(KVMIO, 0x9F, kvm_pit_state2)
KVM_SET_PIT2 = IOW(KVMIO, 0xA0, kvm_pit_state2)
KVM_SET_TSC_KHZ = IO(KVMIO, 0xA2)
KVM_GET_TSC_KHZ = IO(KVMIO, 0xA3)
KVM_SIGNAL_MSI = IOW(KVMIO, 0xA5, kvm_msi)
KVM_SET_PMU_EVENT_FILTER = IOW(KVMIO, 0xB2, kvm_pmu_event_filter)

# Devices; attributes of every kind of fd
KVM_CREATE_DEVICE = IOWR(KVMIO, 0xE0, kvm_create_device)
KVM_SET_DEVICE_ATTR = IOW(KVMIO, 0xE1, kvm_device_attr)
KVM_GET_DEVICE_ATTR = IOW(KVMIO, 0xE2, kvm_device_attr)
KVM_HAS_DEVICE_ATTR = IOW(KVMIO, 0xE3, kvm_device_attr)

# vCPU fds (a few serve VMs too)
KVM_RUN = IO(KVMIO, 0x80)
KVM_GET_REGS = IOR(KVMIO, 0x81, kvm_regs)
KVM_SET_REGS = IOW(KVMIO, 0x82, kvm_regs)
KVM_GET_SREGS = IOR(KVMIO, 0x83, kvm_sregs)
KVM_SET_SREGS = IOW(KVMIO, 0x84, kvm_sregs)
KVM_TRANSLATE = IOWR(KVMIO, 0x85, kvm_translation)
KVM_INTERRUPT = IOW(KVMIO, 0x86, kvm_interrupt)
KVM_GET_MSRS = IOWR(KVMIO, 0x88, kvm_msrs)
KVM_SET_MSRS = IOW(KVMIO, 0x89, kvm_msrs)
KVM_SET_CPUID = IOW(KVMIO, 0x8A, kvm_cpuid)
KVM_SET_SIGNAL_MASK = IOW(KVMIO, 0x8B, kvm_signal_mask)
KVM_GET_FPU = IOR(KVMIO, 0x8C, kvm_fpu)
KVM_SET_FPU = IOW(KVMIO, 0x8D, kvm_fpu)
KVM_GET_LAPIC = IOR(KVMIO, 0x8E, kvm_lapic_state)
KVM_SET_LAPIC = IOW(KVMIO, 0x8F, kvm_lapic_state)
KVM_SET_CPUID2 = IOW(KVMIO, 0x90, kvm_cpuid2)
KVM_GET_CPUID2 = IOWR(KVMIO, 0x91, kvm_cpuid2)
KVM_TPR_ACCESS_REPORTING = IOWR(KVMIO, 0x92, kvm_tpr_access_ctl)
KVM_SET_VAPIC_ADDR = IOW(KVMIO, 0x93, kvm_vapic_addr)
KVM_GET_MP_STATE = IOR(KVMIO, 0x98, kvm_mp_state)
KVM_SET_MP_STATE = IOW(KVMIO, 0x99, kvm_mp_state)
KVM_NMI = IO(KVMIO, 0x9A)
KVM_SET_GUEST_DEBUG = IOW(KVMIO, 0x9B, kvm_guest_debug)
KVM_X86_SETUP_MCE = IOW(KVMIO, 0x9C, u64)
KVM_X86_GET_MCE_CAP_SUPPORTED = IOR(KVMIO, 0x9D, u64)
KVM_X86_SET_MCE = IOW(KVMIO, 0x9E, kvm_x86_mce)
KVM_GET_VCPU_EVENTS = IOR(KVMIO, 0x9F, kvm_vcpu_events)
KVM_SET_VCPU_EVENTS = IOW(KVMIO, 0xA0, kvm_vcpu_events)
KVM_GET_DEBUGREGS = IOR(KVMIO, 0xA1, kvm_debugregs)
KVM_SET_DEBUGREGS = IOW(KVMIO, 0xA2, kvm_debugregs)
KVM_ENABLE_CAP = IOW(KVMIO, 0xA3, kvm_enable_cap)
KVM_GET_XSAVE = IOR(KVMIO, 0xA4, kvm_xsave)
KVM_SET_XSAVE = IOW(KVMIO, 0xA5, kvm_xsave)
KVM_GET_XCRS = IOR(KVMIO, 0xA6, kvm_xcrs)
KVM_SET_XCRS = IOW(KVMIO, 0xA7, kvm_xcrs)
KVM_GET_ONE_REG = IOW(KVMIO, 0xAB, kvm_one_reg)
KVM_SET_ONE_REG = IOW(KVMIO, 0xAC, kvm_one_reg)
KVM_KVMCLOCK_CTRL = IO(KVMIO, 0xAD)
KVM_GET_REG_LIST = IOWR(KVMIO, 0xB0, kvm_reg_list)
KVM_SMI = IO(KVMIO, 0xB7)

# Later additions, of all kinds, by number
KVM_MEMORY_ENCRYPT_OP = IOWR(KVMIO, 0xBA, u64)
KVM_MEMORY_ENCRYPT_REG_REGION = IOR(KVMIO, 0xBB, kvm_enc_region)
KVM_MEMORY_ENCRYPT_UNREG_REGION = IOR(KVMIO, 0xBC, kvm_enc_region)
KVM_HYPERV_EVENTFD = IOW(KVMIO, 0xBD, kvm_hyperv_eventfd)
KVM_GET_NESTED_STATE = IOWR(KVMIO, 0xBE, kvm_nested_state)
KVM_SET_NESTED_STATE = IOW(KVMIO, 0xBF, kvm_nested_state)
KVM_CLEAR_DIRTY_LOG = IOWR(KVMIO, 0xC0, kvm_clear_dirty_log)
KVM_GET_SUPPORTED_HV_CPUID = IOWR(KVMIO, 0xC1, kvm_cpuid2)
KVM_X86_SET_MSR_FILTER = IOW(KVMIO, 0xC6, kvm_msr_filter)
KVM_RESET_DIRTY_RINGS = IO(KVMIO, 0xC7)
KVM_XEN_HVM_GET_ATTR = IOWR(KVMIO, 0xC8, kvm_xen_hvm_attr)
KVM_XEN_HVM_SET_ATTR = IOW(KVMIO, 0xC9, kvm_xen_hvm_attr)
KVM_XEN_VCPU_GET_ATTR = IOWR(KVMIO, 0xCA, kvm_xen_vcpu_attr)
KVM_XEN_VCPU_SET_ATTR = IOW(KVMIO, 0xCB, kvm_xen_vcpu_attr)
KVM_XEN_HVM_EVTCHN_SEND = IOW(KVMIO, 0xD0, kvm_irq_routing_xen_evtchn)
KVM_GET_SREGS2 = IOR(KVMIO, 0xCC, kvm_sregs2)
KVM_SET_SREGS2 = IOW(KVMIO, 0xCD, kvm_sregs2)
KVM_GET_STATS_FD = IO(KVMIO, 0xCE)
KVM_GET_XSAVE2 = IOR(KVMIO, 0xCF, kvm_xsave)
KVM_SET_MEMORY_ATTRIBUTES = IOW(KVMIO, 0xD2, kvm_memory_attributes)
KVM_CREATE_GUEST_MEMFD = IOWR(KVMIO, 0xD4, kvm_create_guest_memfd)
KVM_PRE_FAULT_MEMORY = IOWR(KVMIO, 0xD5, kvm_pre_fault_memory)
