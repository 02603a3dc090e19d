# SPDX-License-Identifier: Apache-2.0
"""Every method, issued for real on an fd that is not open: the kernel's EBADF comes back naming the ioctl.

This proves that each wrapper gets its argument through to the kernel's ioctl entry, on any machine.
"""

from __future__ import annotations

import errno
import inspect
import mmap
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmapi import Device, Kvm, KvmError, MsrRange, Vcpu, Vm
from kvmapi.names import IOCTL_NAMES
from kvmapi.seam import Kernel
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86 as x


class BadFds(Kernel):
    """The real kernel, except that vCPU mappings are anonymous memory and closing does nothing."""

    def mmap(self, fd: int, size: int, offset: int = 0) -> mmap.mmap:
        return mmap.mmap(-1, size)

    def close(self, fd: int) -> None:
        pass


# No process has an fd beyond its limit.
BAD_FD = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
if BAD_FD <= 0 or BAD_FD >= 1 << 31:
    BAD_FD = (1 << 31) - 2

KVM = [
    ("KVM_GET_API_VERSION", lambda kvm: kvm.api_version()),
    ("KVM_CHECK_EXTENSION", lambda kvm: kvm.check_extension(0)),
    ("KVM_CHECK_EXTENSION", lambda kvm: kvm.nr_vcpus()),
    ("KVM_CHECK_EXTENSION", lambda kvm: kvm.max_vcpus()),
    ("KVM_CHECK_EXTENSION", lambda kvm: kvm.max_vcpu_id()),
    ("KVM_CHECK_EXTENSION", lambda kvm: kvm.nr_memslots()),
    ("KVM_GET_VCPU_MMAP_SIZE", lambda kvm: kvm.vcpu_mmap_size()),
    ("KVM_GET_VCPU_MMAP_SIZE", lambda kvm: kvm.create_vm()),
    ("KVM_GET_VCPU_MMAP_SIZE", lambda kvm: kvm.adopt_vm(BAD_FD)),
    ("KVM_GET_SUPPORTED_CPUID", lambda kvm: kvm.supported_cpuid()),
    ("KVM_GET_EMULATED_CPUID", lambda kvm: kvm.emulated_cpuid()),
    ("KVM_GET_SUPPORTED_HV_CPUID", lambda kvm: kvm.supported_hv_cpuid()),
    ("KVM_GET_MSR_INDEX_LIST", lambda kvm: kvm.msr_index_list()),
    ("KVM_GET_MSR_FEATURE_INDEX_LIST", lambda kvm: kvm.msr_feature_index_list()),
    ("KVM_GET_MSRS", lambda kvm: kvm.feature_msrs([0x10])),
    ("KVM_X86_GET_MCE_CAP_SUPPORTED", lambda kvm: kvm.mce_cap_supported()),
    ("KVM_HAS_DEVICE_ATTR", lambda kvm: kvm.guest_xcomp_mask()),
]
ATTRIBUTES = [
    ("KVM_GET_API_VERSION", lambda fd: fd.ioctl(k.KVM_GET_API_VERSION)),
    ("KVM_HAS_DEVICE_ATTR", lambda fd: fd.has_device_attr(0, 0)),
    ("KVM_GET_DEVICE_ATTR", lambda fd: fd.get_device_attr(0, 0)),
    ("KVM_SET_DEVICE_ATTR", lambda fd: fd.set_device_attr(0, 0, 1)),
]
VM = [
    ("KVM_CHECK_EXTENSION", lambda vm: vm.check_extension(0)),
    ("KVM_ENABLE_CAP", lambda vm: vm.enable_cap(k.KVM_CAP_SPLIT_IRQCHIP, 24)),
    ("KVM_CREATE_VCPU", lambda vm: vm.create_vcpu(0)),
    ("KVM_CREATE_DEVICE", lambda vm: vm.create_device(k.KVM_DEV_TYPE_VFIO)),
    ("KVM_GET_CLOCK", lambda vm: vm.get_clock()),
    ("KVM_SET_CLOCK", lambda vm: vm.set_clock(1)),
    ("KVM_SET_TSC_KHZ", lambda vm: vm.set_tsc_khz(1)),
    ("KVM_GET_TSC_KHZ", lambda vm: vm.get_tsc_khz()),
    ("KVM_X86_SET_MSR_FILTER", lambda vm: vm.set_msr_filter([MsrRange(0x10, 1)])),
    ("KVM_SET_PMU_EVENT_FILTER", lambda vm: vm.set_pmu_event_filter([0xC0])),
    ("KVM_HYPERV_EVENTFD", lambda vm: vm.hyperv_eventfd(1, 2)),
    ("KVM_MEMORY_ENCRYPT_OP", lambda vm: vm.memory_encrypt_op()),
    ("KVM_MEMORY_ENCRYPT_OP", lambda vm: vm.memory_encrypt_op(x.kvm_sev_cmd(id=x.KVM_SEV_GUEST_STATUS))),
    ("KVM_MEMORY_ENCRYPT_REG_REGION", lambda vm: vm.register_enc_region(0, 4096)),
    ("KVM_MEMORY_ENCRYPT_UNREG_REGION", lambda vm: vm.unregister_enc_region(0, 4096)),
    ("KVM_XEN_HVM_CONFIG", lambda vm: vm.xen_hvm_config(x.kvm_xen_hvm_config())),
    ("KVM_XEN_HVM_GET_ATTR", lambda vm: vm.xen_hvm_get_attr(x.KVM_XEN_ATTR_TYPE_LONG_MODE)),
    ("KVM_XEN_HVM_SET_ATTR", lambda vm: vm.xen_hvm_set_attr(x.kvm_xen_hvm_attr())),
    ("KVM_XEN_HVM_EVTCHN_SEND", lambda vm: vm.xen_hvm_evtchn_send(1, 0, 0)),
    ("KVM_GET_STATS_FD", lambda vm: vm.stats()),
    ("KVM_SET_USER_MEMORY_REGION", lambda vm: vm.set_user_memory_region(0, 0, 4096, 4096)),
    ("KVM_SET_USER_MEMORY_REGION2", lambda vm: vm.set_user_memory_region2(0, 0, 4096, 4096)),
    ("KVM_CREATE_GUEST_MEMFD", lambda vm: vm.create_guest_memfd(4096)),
    ("KVM_SET_MEMORY_ATTRIBUTES", lambda vm: vm.set_memory_attributes(0, 4096, 0)),
    ("KVM_GET_DIRTY_LOG", lambda vm: vm.get_dirty_log(0, 1)),
    ("KVM_CLEAR_DIRTY_LOG", lambda vm: vm.clear_dirty_log(0, 0, 64, bytes(8))),
    ("KVM_RESET_DIRTY_RINGS", lambda vm: vm.reset_dirty_rings()),
    ("KVM_REGISTER_COALESCED_MMIO", lambda vm: vm.register_coalesced_mmio(0, 8)),
    ("KVM_UNREGISTER_COALESCED_MMIO", lambda vm: vm.unregister_coalesced_mmio(0, 8)),
    ("KVM_REGISTER_COALESCED_MMIO", lambda vm: vm.register_coalesced_pio(0, 8)),
    ("KVM_UNREGISTER_COALESCED_MMIO", lambda vm: vm.unregister_coalesced_pio(0, 8)),
    ("KVM_SET_TSS_ADDR", lambda vm: vm.set_tss_addr(0xFFFBD000)),
    ("KVM_SET_IDENTITY_MAP_ADDR", lambda vm: vm.set_identity_map_addr(0xFFFBC000)),
    ("KVM_SET_NR_MMU_PAGES", lambda vm: vm.set_nr_mmu_pages(1024)),
    ("KVM_GET_NR_MMU_PAGES", lambda vm: vm.get_nr_mmu_pages()),
    ("KVM_CREATE_IRQCHIP", lambda vm: vm.create_irqchip()),
    ("KVM_CREATE_PIT2", lambda vm: vm.create_pit2()),
    ("KVM_CREATE_PIT", lambda vm: vm.create_pit()),
    ("KVM_GET_IRQCHIP", lambda vm: vm.get_irqchip(0)),
    ("KVM_SET_IRQCHIP", lambda vm: vm.set_irqchip(k.kvm_irqchip())),
    ("KVM_GET_PIT2", lambda vm: vm.get_pit2()),
    ("KVM_SET_PIT2", lambda vm: vm.set_pit2(x.kvm_pit_state2())),
    ("KVM_GET_PIT", lambda vm: vm.get_pit()),
    ("KVM_SET_PIT", lambda vm: vm.set_pit(x.kvm_pit_state())),
    ("KVM_REINJECT_CONTROL", lambda vm: vm.reinject_control(True)),
    ("KVM_IRQ_LINE", lambda vm: vm.irq_line(4, 1)),
    ("KVM_IRQ_LINE_STATUS", lambda vm: vm.irq_line_status(4, 1)),
    ("KVM_SIGNAL_MSI", lambda vm: vm.signal_msi(0xFEE00000, 0x41)),
    ("KVM_SET_GSI_ROUTING", lambda vm: vm.set_gsi_routing([])),
    ("KVM_IRQFD", lambda vm: vm.irqfd(0, 4)),
    ("KVM_IOEVENTFD", lambda vm: vm.ioeventfd(0, 0x80, 1, pio=True)),
    ("KVM_SET_BOOT_CPU_ID", lambda vm: vm.set_boot_cpu_id(0)),
]
VCPU = [
    ("KVM_RUN", lambda vcpu: vcpu.run_once()),
    ("KVM_ENABLE_CAP", lambda vcpu: vcpu.enable_cap(k.KVM_CAP_HYPERV_SYNIC2)),
    ("KVM_TRANSLATE", lambda vcpu: vcpu.translate(0)),
    ("KVM_INTERRUPT", lambda vcpu: vcpu.interrupt(32)),
    ("KVM_NMI", lambda vcpu: vcpu.nmi()),
    ("KVM_SMI", lambda vcpu: vcpu.smi()),
    ("KVM_SET_GUEST_DEBUG", lambda vcpu: vcpu.set_guest_debug(k.KVM_GUESTDBG_ENABLE, [0x1000])),
    ("KVM_SET_SIGNAL_MASK", lambda vcpu: vcpu.set_signal_mask([10])),
    ("KVM_SET_SIGNAL_MASK", lambda vcpu: vcpu.set_signal_mask(None)),
    ("KVM_SET_TSC_KHZ", lambda vcpu: vcpu.set_tsc_khz(1)),
    ("KVM_GET_TSC_KHZ", lambda vcpu: vcpu.get_tsc_khz()),
    ("KVM_KVMCLOCK_CTRL", lambda vcpu: vcpu.kvmclock_ctrl()),
    ("KVM_TPR_ACCESS_REPORTING", lambda vcpu: vcpu.tpr_access_reporting(True)),
    ("KVM_SET_VAPIC_ADDR", lambda vcpu: vcpu.set_vapic_addr(0)),
    ("KVM_X86_SETUP_MCE", lambda vcpu: vcpu.setup_mce(1)),
    ("KVM_X86_SET_MCE", lambda vcpu: vcpu.set_mce(x.kvm_x86_mce())),
    ("KVM_XEN_VCPU_GET_ATTR", lambda vcpu: vcpu.xen_vcpu_get_attr(x.KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID)),
    ("KVM_XEN_VCPU_SET_ATTR", lambda vcpu: vcpu.xen_vcpu_set_attr(x.kvm_xen_vcpu_attr())),
    ("KVM_PRE_FAULT_MEMORY", lambda vcpu: vcpu.pre_fault_memory(0, 4096)),
    ("KVM_GET_STATS_FD", lambda vcpu: vcpu.stats()),
    ("KVM_GET_REGS", lambda vcpu: vcpu.get_regs()),
    ("KVM_SET_REGS", lambda vcpu: vcpu.set_regs(x.kvm_regs())),
    ("KVM_GET_SREGS", lambda vcpu: vcpu.get_sregs()),
    ("KVM_SET_SREGS", lambda vcpu: vcpu.set_sregs(x.kvm_sregs())),
    ("KVM_GET_SREGS2", lambda vcpu: vcpu.get_sregs2()),
    ("KVM_SET_SREGS2", lambda vcpu: vcpu.set_sregs2(x.kvm_sregs2())),
    ("KVM_GET_FPU", lambda vcpu: vcpu.get_fpu()),
    ("KVM_SET_FPU", lambda vcpu: vcpu.set_fpu(x.kvm_fpu())),
    ("KVM_GET_XSAVE", lambda vcpu: vcpu.get_xsave()),
    ("KVM_GET_XSAVE2", lambda vcpu: vcpu.get_xsave2(8192)),
    ("KVM_SET_XSAVE", lambda vcpu: vcpu.set_xsave(x.kvm_xsave())),
    ("KVM_GET_XCRS", lambda vcpu: vcpu.get_xcrs()),
    ("KVM_SET_XCRS", lambda vcpu: vcpu.set_xcrs(x.kvm_xcrs())),
    ("KVM_GET_MSRS", lambda vcpu: vcpu.get_msrs([0x10])),
    ("KVM_SET_MSRS", lambda vcpu: vcpu.set_msrs([(0x10, 0)])),
    ("KVM_GET_VCPU_EVENTS", lambda vcpu: vcpu.get_vcpu_events()),
    ("KVM_SET_VCPU_EVENTS", lambda vcpu: vcpu.set_vcpu_events(x.kvm_vcpu_events())),
    ("KVM_GET_DEBUGREGS", lambda vcpu: vcpu.get_debugregs()),
    ("KVM_SET_DEBUGREGS", lambda vcpu: vcpu.set_debugregs(x.kvm_debugregs())),
    ("KVM_GET_LAPIC", lambda vcpu: vcpu.get_lapic()),
    ("KVM_SET_LAPIC", lambda vcpu: vcpu.set_lapic(x.kvm_lapic_state())),
    ("KVM_GET_MP_STATE", lambda vcpu: vcpu.get_mp_state()),
    ("KVM_SET_MP_STATE", lambda vcpu: vcpu.set_mp_state(0)),
    ("KVM_GET_CPUID2", lambda vcpu: vcpu.get_cpuid2()),
    ("KVM_SET_CPUID2", lambda vcpu: vcpu.set_cpuid2([])),
    ("KVM_SET_CPUID", lambda vcpu: vcpu.set_cpuid([x.kvm_cpuid_entry()])),
    ("KVM_GET_SUPPORTED_HV_CPUID", lambda vcpu: vcpu.supported_hv_cpuid()),
    ("KVM_GET_NESTED_STATE", lambda vcpu: vcpu.get_nested_state(4096 + 128)),
    ("KVM_SET_NESTED_STATE", lambda vcpu: vcpu.set_nested_state(x.kvm_nested_state())),
    ("KVM_GET_ONE_REG", lambda vcpu: vcpu.get_one_reg(0)),
    ("KVM_SET_ONE_REG", lambda vcpu: vcpu.set_one_reg(0, 0)),
    ("KVM_GET_REG_LIST", lambda vcpu: vcpu.get_reg_list()),
    ("KVM_GET_DEVICE_ATTR", lambda vcpu: vcpu.get_tsc_offset()),
    ("KVM_SET_DEVICE_ATTR", lambda vcpu: vcpu.set_tsc_offset(0)),
]
TABLE = {Kvm: KVM + ATTRIBUTES, Vm: VM + ATTRIBUTES, Vcpu: VCPU + ATTRIBUTES, Device: ATTRIBUTES}
CALLS = [(kind, name, call) for kind, calls in TABLE.items() for name, call in calls]
# Methods that issue no ioctl, or that make the object they belong to; tested in test_fds and on the host.
NO_IOCTL = {
    "open",
    "close",
    "fileno",
    "closed",
    "run_size",
    "dirty_ring_bytes",
    "check_run",
    "dirty_ring",
    "adopt_vcpu",
    "quick_ioctl",  # prepare ioctls
    "prepared_ioctl",
}
# Reached only after another ioctl succeeded.
LATER = {"KVM_CREATE_VM"}

Maker = Callable[[type], Any]


@pytest.fixture
def make() -> Iterator[Maker]:
    made: list[Any] = []

    def maker(kind: type) -> Any:
        seam = BadFds()
        if kind is Vcpu:
            made.append(Vcpu(seam, BAD_FD, maker(Vm), 0))
        elif kind is Vm:
            made.append(Vm(seam, BAD_FD, "Vm", None, 3 * 4096))
        else:
            made.append(kind(seam, BAD_FD, kind.__name__))
        return made[-1]

    yield maker
    for entry in made:
        entry.close()


@pytest.mark.parametrize(
    ("kind", "name", "call"),
    CALLS,
    ids=[f"{kind.__name__}-{n}-{name}" for n, (kind, name, _) in enumerate(CALLS)],
)
def test_ebadf_names_the_ioctl(make: Maker, kind: type, name: str, call: Callable[[Any], object]) -> None:
    with pytest.raises(KvmError) as caught:
        call(make(kind))

    assert (caught.value.errno, caught.value.call) == (errno.EBADF, name)
    assert str(caught.value).startswith(f"{name}(")


@pytest.mark.parametrize("kind", TABLE)
def test_every_method_is_in_the_table(kind: type) -> None:
    called = {
        attribute
        for _, call in TABLE[kind]
        for attribute in call.__code__.co_names
        if hasattr(kind, attribute)
    }

    methods = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}

    assert methods - called - NO_IOCTL - {"run", "run_call", "vcpu_id"} == set()


def test_every_ioctl_is_in_the_table() -> None:
    assert {name for _, name, _ in CALLS} | LATER == set(IOCTL_NAMES.values())
