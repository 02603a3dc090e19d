# SPDX-License-Identifier: Apache-2.0
"""What usually causes an errno of a KVM ioctl and what to do about it: a table, read by `kvmapi.errors`.

Facts from Documentation/virt/kvm/api.rst and from the checks in Linux 6.12 (arch/x86/kvm, virt/kvm).
"""

from __future__ import annotations

import errno

_BY_ERRNO = {
    errno.EBADF: "The file descriptor is not open: the object was closed, or its number belongs to another "
    "process. Keep Kvm, Vm and Vcpu open for as long as they are used",
    errno.ENOTTY: "The kernel does not know this ioctl here: it is older than the feature, was built without "
    "it, or the fd is of another kind. Ask check_extension() first",
    errno.EFAULT: "An address passed to KVM is not mapped in this process. Keep the buffer alive and writable "
    "until the call returns",
    errno.ENOMEM: "The kernel ran out of memory, or a limit was reached (memory cgroup, memlock)",
    errno.EINVAL: "An operand is out of range, or needs a feature that this VM has not enabled",
    errno.E2BIG: "More entries than KVM takes",
    errno.EMFILE: "This process has too many open files. Close VMs no longer used or raise `ulimit -n`",
    errno.ENFILE: "The system has too many open files",
    errno.EINTR: "A signal arrived. Repeat the call",
    errno.EIO: "The VM was marked broken after an internal error, or belongs to another process: KVM takes "
    "ioctls only from the process (address space) that created the VM",
}

_BY_CALL: dict[tuple[str, int], str] = {
    ("open", errno.ENOENT): "KVM is not there. Load the module (modprobe kvm_intel or kvm_amd); in a VM, "
    "nested virtualization must be on; in a container, pass --device /dev/kvm",
    ("open", errno.EACCES): "No permission. Add the user to the group that owns the device (often `kvm`) and "
    "log in again, or ask for access: setfacl -m u:$USER:rw /dev/kvm",
    ("open", errno.EPERM): "The device cgroup or a security module forbids it. In a container, pass "
    "--device /dev/kvm",
    (
        "open",
        errno.ENODEV,
    ): "The device node exists but no KVM module is loaded. modprobe kvm_intel or kvm_amd",
    (
        "open",
        errno.ENXIO,
    ): "The device node exists but no KVM module is loaded. modprobe kvm_intel or kvm_amd",
    ("KVM_GET_API_VERSION", errno.ENOTTY): "The file that was opened is not KVM's device",
    ("KVM_CREATE_VM", errno.EINVAL): "This machine type is not offered. check_extension(KVM_CAP_VM_TYPES) is "
    "the mask of types; 0 always works",
    ("KVM_CREATE_VM", errno.EBUSY): "Another hypervisor (VirtualBox, VMware, ...) holds the processor's "
    "virtualization. Stop it",
    ("KVM_CREATE_VM", errno.EINTR): "A signal arrived while KVM set up the VM. Repeat the call",
    ("KVM_CREATE_VCPU", errno.EINVAL): "The id is above the limit (check_extension(KVM_CAP_MAX_VCPU_ID)), or "
    "the VM has all the vCPUs it may have (KVM_CAP_MAX_VCPUS)",
    ("KVM_CREATE_VCPU", errno.EEXIST): "A vCPU with this id exists. Ids (on x86 the APIC ids) are unique",
    ("KVM_CREATE_IRQCHIP", errno.EEXIST): "The VM has its irqchip already",
    ("KVM_CREATE_IRQCHIP", errno.EINVAL): "The irqchip must be created before the first vCPU",
    ("KVM_CREATE_PIT2", errno.EEXIST): "The VM has its PIT already",
    (
        "KVM_CREATE_PIT2",
        errno.ENOENT,
    ): "The PIT needs KVM's own PIC and I/O APIC: call create_irqchip() first (a split irqchip has no PIT)",
    (
        "KVM_CREATE_PIT2",
        errno.ENOTTY,
    ): "The PIT needs KVM's own PIC and I/O APIC: call create_irqchip() first",
    ("KVM_GET_IRQCHIP", errno.ENXIO): "The VM has no in-kernel irqchip: call create_irqchip() first",
    ("KVM_SET_IRQCHIP", errno.ENXIO): "The VM has no in-kernel irqchip: call create_irqchip() first",
    ("KVM_GET_PIT2", errno.ENXIO): "The VM has no PIT: call create_pit2() first",
    ("KVM_SET_PIT2", errno.ENXIO): "The VM has no PIT: call create_pit2() first",
    ("KVM_REINJECT_CONTROL", errno.ENXIO): "The VM has no PIT: call create_pit2() first",
    ("KVM_IRQ_LINE", errno.ENXIO): "The VM has no in-kernel irqchip: call create_irqchip() first",
    ("KVM_IRQ_LINE_STATUS", errno.ENXIO): "The VM has no in-kernel irqchip: call create_irqchip() first",
    ("KVM_SIGNAL_MSI", errno.EINVAL): "MSIs need an in-kernel local APIC, flags must be 0",
    ("KVM_SIGNAL_MSI", errno.ENXIO): "MSIs need an in-kernel local APIC: call create_irqchip() first",
    ("KVM_SET_GSI_ROUTING", errno.EINVAL): "An entry has an unknown type, a pin its chip does not have, or "
    "there are more than 4096 entries; routing needs an in-kernel irqchip",
    (
        "KVM_SET_USER_MEMORY_REGION",
        errno.EEXIST,
    ): "The guest physical range overlaps another slot. Delete that slot (size 0) first",
    (
        "KVM_SET_USER_MEMORY_REGION",
        errno.EINVAL,
    ): "Address and size must be multiples of 4096, the host range "
    "must be inside this process, the slot number below check_extension(KVM_CAP_NR_MEMSLOTS); a slot's size, "
    "host address and read-only flag cannot change while it exists",
    ("KVM_SET_USER_MEMORY_REGION", errno.ENOENT): "The slot to be deleted does not exist",
    (
        "KVM_SET_USER_MEMORY_REGION2",
        errno.EEXIST,
    ): "The guest physical range overlaps another slot. Delete that slot (size 0) first",
    (
        "KVM_SET_USER_MEMORY_REGION2",
        errno.EINVAL,
    ): "Like KVM_SET_USER_MEMORY_REGION; private memory needs a VM "
    "type that has it, and a guest_memfd of this VM",
    ("KVM_CREATE_GUEST_MEMFD", errno.EINVAL): "The size must be a multiple of 4096 and above 0, flags 0",
    ("KVM_SET_MEMORY_ATTRIBUTES", errno.EINVAL): "Address and size must be multiples of 4096, the attributes "
    "within the mask check_extension(KVM_CAP_MEMORY_ATTRIBUTES) of this VM; forbidding reads forbids all",
    ("KVM_SET_TSS_ADDR", errno.EINVAL): "The three pages must lie below 4 GiB",
    ("KVM_SET_IDENTITY_MAP_ADDR", errno.EINVAL): "Must be called before the first vCPU is created",
    ("KVM_SET_BOOT_CPU_ID", errno.EBUSY): "Must be called before the first vCPU is created",
    ("KVM_ENABLE_CAP", errno.EINVAL): "The capability is unknown, cannot be enabled on this kind of fd or at "
    "this time (many must precede the first vCPU), or an argument is not allowed",
    ("KVM_IOEVENTFD", errno.EEXIST): "An ioeventfd with this address, length and value exists",
    ("KVM_IOEVENTFD", errno.ENOENT): "No such ioeventfd to remove: address, length, value and flags must be "
    "those it was made with",
    ("KVM_IOEVENTFD", errno.EINVAL): "The length must be 0, 1, 2, 4 or 8, the range must not wrap, and a "
    "datamatch needs a length",
    ("KVM_IRQFD", errno.EINVAL): "An irqfd needs an in-kernel irqchip and an open eventfd",
    ("KVM_IRQFD", errno.EBUSY): "This eventfd is in use for an interrupt already",
    ("KVM_IRQFD", errno.EBADF): "The fd passed, or the VM's own, is not open",
    ("KVM_REGISTER_COALESCED_MMIO", errno.ENOSPC): "KVM keeps a limited number of devices per bus",
    (
        "KVM_X86_SET_MSR_FILTER",
        errno.EINVAL,
    ): "At most 16 ranges; each needs READ or WRITE and 1 to 12288 MSRs",
    ("KVM_SET_PMU_EVENT_FILTER", errno.EINVAL): "Unknown action or flags",
    (
        "KVM_GET_DIRTY_LOG",
        errno.ENOENT,
    ): "The slot does not exist or was made without KVM_MEM_LOG_DIRTY_PAGES",
    ("KVM_GET_DIRTY_LOG", errno.ENXIO): "The VM uses a dirty ring, which replaces the bitmap",
    (
        "KVM_CLEAR_DIRTY_LOG",
        errno.EINVAL,
    ): "The operand first_page must be a multiple of 64, num_pages too unless the range ends the slot",
    ("KVM_CREATE_DEVICE", errno.ENODEV): "This kernel has no such device, or its module is not loaded",
    ("KVM_SET_DEVICE_ATTR", errno.ENXIO): "This group or attribute does not exist here",
    ("KVM_GET_DEVICE_ATTR", errno.ENXIO): "This group or attribute does not exist here",
    (
        "KVM_RUN",
        errno.EINVAL,
    ): "An operand in kvm_run is not legal (kvm_valid_regs, kvm_dirty_regs), or the vCPU "
    "state is one that KVM cannot run",
    ("KVM_RUN", errno.ENOEXEC): "The vCPU is not initialised",
    (
        "KVM_SET_SREGS",
        errno.EINVAL,
    ): "The control registers contradict each other (e.g. EFER.LMA without CR0.PG, "
    "CR4 bits that the guest's CPUID does not have), or more than one interrupt bit is set",
    ("KVM_SET_SREGS2", errno.EINVAL): "The control registers contradict each other, or flags are unknown",
    (
        "KVM_SET_CPUID2",
        errno.EINVAL,
    ): "The vCPU has run already and the leaves differ, or a leaf asks for what "
    "KVM cannot offer (e.g. an address width, an XSAVE feature without permission)",
    ("KVM_SET_CPUID2", errno.E2BIG): "KVM takes at most 256 leaves",
    ("KVM_GET_LAPIC", errno.EINVAL): "The vCPU has no in-kernel local APIC: create_irqchip() or the split "
    "irqchip must precede create_vcpu()",
    ("KVM_SET_LAPIC", errno.EINVAL): "The vCPU has no in-kernel local APIC: create_irqchip() or the split "
    "irqchip must precede create_vcpu()",
    (
        "KVM_INTERRUPT",
        errno.ENXIO,
    ): "With an in-kernel irqchip interrupts go through irq_line() or signal_msi()",
    ("KVM_INTERRUPT", errno.EEXIST): "An interrupt is queued already",
    ("KVM_INTERRUPT", errno.EINVAL): "The vector must be below 256",
    (
        "KVM_SET_MP_STATE",
        errno.EINVAL,
    ): "States other than RUNNABLE need an in-kernel local APIC; the state may be unknown to this kernel",
    ("KVM_SET_VCPU_EVENTS", errno.EINVAL): "An event contradicts the flags or the vCPU (e.g. SMM without "
    "KVM_CAP_X86_SMM, an exception number above 31)",
    ("KVM_SET_GUEST_DEBUG", errno.EBUSY): "An exception is pending, so none can be injected",
    ("KVM_SET_TSC_KHZ", errno.EINVAL): "The frequency is out of range, or the processor cannot scale the TSC "
    "(check_extension(KVM_CAP_TSC_CONTROL)) and it differs from the host's",
    ("KVM_KVMCLOCK_CTRL", errno.EINVAL): "The guest has no kvmclock running on this vCPU",
    ("KVM_SET_XCRS", errno.EINVAL): "XCR0 has bits that the guest's CPUID does not offer, or lacks bit 0",
    ("KVM_SET_XSAVE", errno.EINVAL): "XSTATE_BV or MXCSR has bits that the guest may not use",
    ("KVM_GET_NESTED_STATE", errno.E2BIG): "The buffer is smaller than check_extension(KVM_CAP_NESTED_STATE)",
    (
        "KVM_X86_SETUP_MCE",
        errno.EINVAL,
    ): "More banks than 32, or capability bits that mce_cap_supported() lacks",
    (
        "KVM_X86_SET_MCE",
        errno.EINVAL,
    ): "No such bank, or the status lacks its valid bit: call setup_mce() first",
    (
        "KVM_MEMORY_ENCRYPT_OP",
        errno.ENOTTY,
    ): "Memory encryption (SEV) is not available on this host or VM type",
    ("mmap", errno.EINVAL): "The vCPU mapping has no such pages",
}

_NO_HYPERV = "This KVM was built without Hyper-V emulation (CONFIG_KVM_HYPERV)"
_NO_XEN = "This KVM was built without Xen emulation (CONFIG_KVM_XEN), or Vm.xen_hvm_config() was not called"
_NO_REGISTERS = "This KVM has no registers of this kind: on x86 they came after Linux 6.12, few at a time"

# System and vCPU fds answer EINVAL, not ENOTTY, to an ioctl that the kernel does not know.
NOT_OFFERED: dict[tuple[str, int], str] = {
    ("KVM_GET_SUPPORTED_HV_CPUID", errno.EINVAL): _NO_HYPERV,
    ("KVM_HYPERV_EVENTFD", errno.ENOTTY): _NO_HYPERV,
    ("KVM_XEN_VCPU_GET_ATTR", errno.EINVAL): _NO_XEN,
    ("KVM_XEN_VCPU_SET_ATTR", errno.EINVAL): _NO_XEN,
    ("KVM_XEN_HVM_CONFIG", errno.ENOTTY): _NO_XEN,
    ("KVM_XEN_HVM_GET_ATTR", errno.ENOTTY): _NO_XEN,
    ("KVM_XEN_HVM_SET_ATTR", errno.ENOTTY): _NO_XEN,
    ("KVM_XEN_HVM_EVTCHN_SEND", errno.ENOTTY): _NO_XEN,
    ("KVM_GET_ONE_REG", errno.EINVAL): _NO_REGISTERS,
    ("KVM_SET_ONE_REG", errno.EINVAL): _NO_REGISTERS,
    ("KVM_GET_REG_LIST", errno.EINVAL): _NO_REGISTERS,
    ("KVM_SMI", errno.ENOTTY): "This KVM was built without system management mode (CONFIG_KVM_SMM)",
    ("KVM_SET_MEMORY_ATTRIBUTES", errno.ENOTTY): "No VM of this KVM has memory attributes: neither "
    "CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES nor VSM support is built in",
    (
        "KVM_PRE_FAULT_MEMORY",
        errno.EOPNOTSUPP,
    ): "Only VMs with two-dimensional paging (EPT, NPT) can pre-fault",
    ("KVM_GET_NR_MMU_PAGES", errno.ENOTTY): "Linux no longer has this call",
}


def usual_cause(call: str, number: int) -> str:
    """One or two sentences, without a full stop at the end; "" when nothing is known."""
    return _BY_CALL.get((call, number)) or NOT_OFFERED.get((call, number)) or _BY_ERRNO.get(number, "")
