# SPDX-License-Identifier: Apache-2.0
"""The KVM capabilities this VMM uses, as data: what each is for, and whether a guest can run without it.

Names and numbers: linux/kvm.h, meanings: api.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvmapi.uapi import kvm as k
from kvmapi.uapi import vsm


class Need(StrEnum):
    """How much depends on a capability."""

    REQUIRED = "required"  # without it no guest runs
    WANTED = "wanted"  # without it a feature is missing or slow
    OPTIONAL = "optional"  # used where it is there, not missed elsewhere


@dataclass(frozen=True, slots=True)
class Capability:
    """One KVM_CAP_*. `use` completes the sentence "it is needed for ..."."""

    name: str
    number: int
    group: str
    need: Need
    use: str


GROUPS = {
    "machine": "the machine: memory, interrupt controllers, processors",
    "speed": "speed: fewer exits and cheaper ones",
    "state": "processor state: saving, switching between VTLs, debugging",
    "hyperv": "Hyper-V: hypercalls, MSRs, VTLs",
    "memory": "memory: protection, sharing, dirty tracking",
}


def _group(group: str, *rows: tuple[str, Need, str]) -> list[Capability]:
    return [
        Capability(name.lower(), getattr(k, f"KVM_CAP_{name}"), group, need, use) for name, need, use in rows
    ]


R, W, O = Need.REQUIRED, Need.WANTED, Need.OPTIONAL  # noqa: E741  (a column of the table below)

CAPABILITIES: tuple[Capability, ...] = (
    *_group(
        "machine",
        ("USER_MEMORY", R, "guest RAM"),
        ("DESTROY_MEMORY_REGION_WORKS", R, "taking RAM away from a guest"),
        ("IRQCHIP", R, "the local APICs in the kernel"),
        ("IRQ_ROUTING", R, "interrupts of devices"),
        ("EXT_CPUID", R, "CPU models"),
        ("MP_STATE", R, "starting more than one processor"),
        ("IMMEDIATE_EXIT", R, "stopping a processor without a race"),
        ("SET_TSS_ADDR", R, "real mode on Intel processors"),
        ("SIGNAL_MSI", R, "message signalled interrupts and inter-processor interrupts of Hyper-V"),
        ("PIT2", W, "the i8254 timer in the kernel"),
        ("SPLIT_IRQCHIP", O, "kernel_irqchip=split: PIC and IOAPIC in the VMM"),
        ("X2APIC_API", W, "APIC ids above 255"),
        ("MAX_VCPUS", R, "the number of processors a guest may have"),
        ("MAX_VCPU_ID", O, "the largest APIC id"),
        ("NR_VCPUS", O, "the number of processors KVM recommends at most"),
        ("NR_MEMSLOTS", R, "the number of memory ranges a guest may have"),
        ("TSC_DEADLINE_TIMER", W, "the TSC deadline mode of the APIC timer"),
        ("ADJUST_CLOCK", W, "guest time that stands still while paused"),
        ("KVMCLOCK_CTRL", O, "telling a guest that it was paused"),
        ("MCE", O, "machine check banks"),
        ("X86_SMM", O, "system management mode"),
    ),
    *_group(
        "speed",
        ("SYNC_REGS", W, "registers that travel with KVM_RUN (saves 11 us per exit that needs them)"),
        ("IOEVENTFD", W, "port and MMIO writes that do not stop the processor"),
        ("IRQFD", W, "interrupts raised by a file descriptor"),
        ("COALESCED_MMIO", O, "collecting MMIO writes"),
        ("COALESCED_PIO", O, "collecting port writes"),
        ("HALT_POLL", O, "tuning how long a halted processor is waited for"),
        ("X86_DISABLE_EXITS", O, "HLT, MWAIT and PAUSE without exits"),
        ("ASYNC_PF_INT", O, "letting the guest work while its memory is fetched"),
    ),
    *_group(
        "state",
        ("VCPU_EVENTS", R, "pending interrupts and exceptions"),
        ("DEBUGREGS", W, "debug registers"),
        ("XSAVE", W, "vector registers"),
        ("XSAVE2", O, "vector registers beyond 4 KiB (AMX)"),
        ("XCRS", W, "XCR0"),
        ("SREGS2", O, "PDPTRs of PAE guests"),
        ("GET_MSR_FEATURES", W, "MSRs that tell features"),
        ("SET_GUEST_DEBUG", W, "breakpoints and single steps"),
        ("GET_TSC_KHZ", W, "the guest's TSC frequency"),
        ("TSC_CONTROL", O, "another TSC frequency than the host's (hardware scaling)"),
        ("VM_TSC_CONTROL", O, "a TSC frequency per VM"),
        ("EXCEPTION_PAYLOAD", W, "exact CR2 and DR6 of a pending exception"),
        ("X86_TRIPLE_FAULT_EVENT", O, "a pending triple fault"),
        ("EXIT_ON_EMULATION_FAILURE", W, "seeing an instruction KVM cannot emulate, instead of #UD"),
        ("INTERNAL_ERROR_DATA", O, "details of KVM's internal errors"),
        ("DISABLE_QUIRKS2", O, "switching off KVM's deviations from hardware"),
        ("BINARY_STATS_FD", O, "KVM's own counters"),
        ("NESTED_STATE", O, "guests that run hypervisors"),
    ),
    *_group(
        "hyperv",
        ("X86_USER_SPACE_MSR", W, "handling a Hyper-V MSR in the VMM"),
        ("X86_MSR_FILTER", W, "choosing which MSRs the VMM handles (the Hyper-V interface needs both)"),
        ("HYPERV", O, "Hyper-V emulation in the kernel"),
        ("HYPERV_SYNIC2", O, "the kernel's synthetic interrupt controller"),
        ("HYPERV_VP_INDEX", O, "VP numbers of the VMM's choice"),
        ("HYPERV_TIME", O, "the kernel's reference time"),
        ("HYPERV_CPUID", O, "asking a processor which Hyper-V features the kernel has"),
        ("SYS_HYPERV_CPUID", O, "asking /dev/kvm which Hyper-V features the kernel has"),
        ("HYPERV_ENFORCE_CPUID", O, "Hyper-V features that a guest was not given stay closed"),
        ("EXIT_HYPERCALL", O, "KVM's own hypercalls handled by the VMM"),
    ),
    Capability("x86_vsm", vsm.KVM_CAP_X86_VSM, "hyperv", O, "VTLs by the means of our kernel series"),
    *_group(
        "memory",
        ("READONLY_MEM", W, "ROM, and memory a VTL may only read"),
        ("SYNC_MMU", R, "changing host mappings under a running guest"),
        ("MEMORY_FAULT_INFO", O, "the address of an access that failed"),
        ("MEMORY_ATTRIBUTES", O, "read, write and execute rights per page (VTL protection)"),
        ("GUEST_MEMFD", O, "memory private to a guest"),
        ("USER_MEMORY2", O, "memory slots with guest_memfd"),
        ("PRE_FAULT_MEMORY", O, "mapping memory before the guest touches it"),
        ("MANUAL_DIRTY_LOG_PROTECT2", O, "dirty page logs that are cleared in parts"),
        ("DIRTY_LOG_RING", O, "dirty pages as a ring"),
        ("DIRTY_LOG_RING_ACQ_REL", O, "dirty pages as a ring, weakly ordered"),
        ("VM_TYPES", O, "kinds of VMs beyond the plain one"),
    ),
)

BY_NAME: dict[str, Capability] = {c.name: c for c in CAPABILITIES}
