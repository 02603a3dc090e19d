# SPDX-License-Identifier: Apache-2.0
"""Every call on real objects. What this host's KVM lacks must come back as KvmUnsupportedError, not be skipped."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from kvmapi import Kvm, KvmError, KvmMsrError, KvmUnsupportedError, MsrRange, Vcpu, Vm
from kvmapi.routes import pc_default, to_chip, to_msi
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86 as x
from tests.host.kvmapi.offered import offered_or_reported

pytestmark = pytest.mark.host


# /dev/kvm


def test_system_calls(kvm: Kvm) -> None:
    assert kvm.api_version() == 12
    assert kvm.check_extension(k.KVM_CAP_USER_MEMORY) == 1
    assert kvm.check_extension(0x7FFFFFFF) == 0
    assert kvm.vcpu_mmap_size() >= 3 * 4096
    assert 1 <= kvm.nr_vcpus() <= kvm.max_vcpus() <= kvm.max_vcpu_id()
    assert kvm.nr_memslots() >= 32


def test_supported_cpuid_has_the_vendor_and_features(kvm: Kvm) -> None:
    leaves = {(leaf.function, leaf.index): leaf for leaf in kvm.supported_cpuid()}

    assert leaves[0, 0].eax >= 7
    assert leaves[1, 0].edx & 1  # an FPU
    assert leaves[x.KVM_CPUID_SIGNATURE, 0].ebx.to_bytes(4, "little") == x.KVM_SIGNATURE[:4]


def test_emulated_cpuid(kvm: Kvm) -> None:
    assert {leaf.function for leaf in kvm.emulated_cpuid()} >= {0, 1}


def test_hyperv_cpuid(kvm: Kvm) -> None:
    offered_or_reported(kvm, k.KVM_CAP_SYS_HYPERV_CPUID, kvm.supported_hv_cpuid)


def test_msr_lists(kvm: Kvm) -> None:
    assert 0x10 in kvm.msr_index_list()  # the time stamp counter
    features = kvm.msr_feature_index_list()
    assert [index for index, _ in kvm.feature_msrs(features)] == features


def test_feature_msrs_name_one_that_is_none(kvm: Kvm) -> None:
    first = kvm.msr_feature_index_list()[0]

    with pytest.raises(KvmMsrError) as caught:
        kvm.feature_msrs([first, 0xDEAD])

    assert caught.value.index == 0xDEAD
    assert [index for index, _ in caught.value.done] == [first]


def test_machine_check_and_xsave_features(kvm: Kvm) -> None:
    assert kvm.mce_cap_supported() & 1 << 24  # MCG_SER_P, which KVM always has
    # x87 and SSE, unless the processor has no XSAVE
    assert kvm.guest_xcomp_mask() & 3 == (3 if kvm.check_extension(k.KVM_CAP_XCRS) else 0)


def test_vm_of_an_unknown_type_is_refused(kvm: Kvm) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_VM\(type=0x3e7\).*EINVAL.*KVM_CAP_VM_TYPES"):
        kvm.create_vm(999)


# VM


def test_vm_before_the_first_vcpu(vm: Vm) -> None:
    vm.set_tss_addr(0xFFFBD000)
    vm.set_identity_map_addr(0xFFFBC000)
    vm.set_boot_cpu_id(0)
    vm.create_irqchip()
    with pytest.raises(KvmError, match=r"EEXIST.*has its irqchip already"):
        vm.create_irqchip()
    with vm.create_vcpu(0), pytest.raises(KvmError, match=r"EBUSY.*before the first vCPU"):
        vm.set_boot_cpu_id(1)


def test_split_irqchip(vm: Vm) -> None:
    vm.enable_cap(k.KVM_CAP_SPLIT_IRQCHIP, 24)
    vm.set_gsi_routing([to_msi(0, 0xFEE00000, 0x41)])
    with vm.create_vcpu(0) as vcpu:
        assert vcpu.get_lapic().regs[0x30] != 0  # the version register
    with pytest.raises(KvmError, match=r"KVM_GET_IRQCHIP"):
        vm.get_irqchip(0)


def test_vcpu_ids(vm: Vm) -> None:
    with vm.create_vcpu(5), pytest.raises(KvmError, match=r"EEXIST.*A vCPU with this id exists"):
        vm.create_vcpu(5)
    with pytest.raises(KvmError, match=r"EINVAL.*KVM_CAP_MAX_VCPU_ID"):
        vm.create_vcpu(1 << 20)


def test_memory_slots(vm: Vm) -> None:
    with mmap.mmap(-1, 8192) as ram:
        pin = ctypes.c_char.from_buffer(ram)
        address = ctypes.addressof(pin)
        del pin
        vm.set_user_memory_region(0, 0x100000, 8192, address)
        with pytest.raises(KvmError, match=r"EEXIST.*overlaps another slot"):
            vm.set_user_memory_region(1, 0x101000, 4096, address)
        with pytest.raises(KvmError, match=r"EINVAL.*multiples of 4096"):
            vm.set_user_memory_region(1, 0x200001, 4096, address)
        vm.set_user_memory_region(0, 0, 0, 0)
        vm.set_user_memory_region2(0, 0x100000, 8192, address)
        vm.set_user_memory_region2(0, 0, 0, 0)


def test_guest_memfd(kvm: Kvm, vm: Vm) -> None:
    offered_or_reported(kvm, k.KVM_CAP_GUEST_MEMFD, lambda: os.close(vm.create_guest_memfd(4096)))


def test_memory_attributes_follow_the_vms_mask(vm: Vm) -> None:
    mask = vm.check_extension(k.KVM_CAP_MEMORY_ATTRIBUTES)
    if mask:
        vm.set_memory_attributes(0, 4096, 0)
        with pytest.raises(KvmError, match=r"EINVAL.*within the mask"):
            vm.set_memory_attributes(0, 4096, 1 << 63)
    else:
        # Refused by a KVM that has them for other kinds of VM, and by one that has no such ioctl.
        words = r"EINVAL.*within the mask|No VM of this KVM has memory attributes"
        with pytest.raises(KvmError, match=words):
            vm.set_memory_attributes(0, 4096, k.KVM_MEMORY_ATTRIBUTE_PRIVATE)


def test_interrupt_controllers_keep_what_they_are_given(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_pit2(k.KVM_PIT_SPEAKER_DUMMY)
    master = vm.get_irqchip(x.KVM_IRQCHIP_PIC_MASTER)
    master.chip.pic.imr = 0xA5
    vm.set_irqchip(master)
    ioapic = vm.get_irqchip(x.KVM_IRQCHIP_IOAPIC)
    ioapic.chip.ioapic.redirtbl[3].fields.vector = 0x33
    vm.set_irqchip(ioapic)
    pit = vm.get_pit2()
    pit.channels[0].count = 0x1234
    vm.set_pit2(pit)

    assert vm.get_irqchip(x.KVM_IRQCHIP_PIC_MASTER).chip.pic.imr == 0xA5
    assert vm.get_irqchip(x.KVM_IRQCHIP_IOAPIC).chip.ioapic.redirtbl[3].bits & 0xFF == 0x33
    assert vm.get_pit2().channels[0].count == 0x1234
    vm.set_pit(vm.get_pit())
    vm.reinject_control(False)


def test_pit_without_irqchip_says_what_is_missing(vm: Vm) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_PIT2.*call create_irqchip\(\) first"):
        vm.create_pit2()
    with pytest.raises(KvmError, match=r"KVM_CREATE_PIT"):
        vm.create_pit()


def test_interrupt_lines_and_routes(vm: Vm) -> None:
    def requested() -> int:
        return int(vm.get_irqchip(x.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr)

    vm.create_irqchip()
    vm.set_gsi_routing([*pc_default(), to_msi(24, 0xFEE00000, 0x41)])
    assert (vm.irq_line_status(4, 1) > 0, requested()) == (True, 1 << 4)
    assert vm.irq_line_status(24, 0) == -1  # a message has no level that falls
    vm.set_gsi_routing([to_chip(24, x.KVM_IRQCHIP_PIC_MASTER, 6)])
    vm.irq_line(24, 1)

    assert requested() == 1 << 4 | 1 << 6
    with pytest.raises(KvmError, match=r"KVM_SET_GSI_ROUTING.*EINVAL.*unknown type"):
        vm.set_gsi_routing([k.kvm_irq_routing_entry(gsi=1, type=99)])


def test_message_signalled_interrupt(vm: Vm, vcpu: Vcpu) -> None:
    # A fresh local APIC is software-disabled, so the guest "blocks" it: 0.
    assert vm.signal_msi(0xFEE00000, 0x41) == 0


def test_clock(vm: Vm) -> None:
    vm.set_clock(10**12)

    assert 10**12 <= vm.get_clock().clock < 10**12 + 60 * 10**9


def test_tsc_frequency_of_the_vm(vm: Vm) -> None:
    khz = vm.get_tsc_khz()

    vm.set_tsc_khz(khz)

    assert vm.get_tsc_khz() == khz > 0


def test_filters(vm: Vm) -> None:
    vm.set_msr_filter([MsrRange(0x40000000, 256)])
    vm.set_msr_filter([])
    with pytest.raises(KvmError, match=r"KVM_X86_SET_MSR_FILTER.*EINVAL.*READ or WRITE"):
        vm.set_msr_filter([MsrRange(0x10, 8, flags=0)])
    vm.set_pmu_event_filter([0xC0], x.KVM_PMU_EVENT_DENY)
    with pytest.raises(KvmError, match=r"KVM_SET_PMU_EVENT_FILTER.*EINVAL"):
        vm.set_pmu_event_filter([], action=77)


def test_hyperv_eventfd(kvm: Kvm, vm: Vm) -> None:
    event = os.eventfd(0, os.EFD_CLOEXEC)
    offered_or_reported(kvm, k.KVM_CAP_HYPERV_EVENTFD, lambda: vm.hyperv_eventfd(1, event))
    os.close(event)


def test_xen(kvm: Kvm, vm: Vm) -> None:
    attr = x.kvm_xen_hvm_attr(type=x.KVM_XEN_ATTR_TYPE_LONG_MODE)
    offered_or_reported(kvm, k.KVM_CAP_XEN_HVM, lambda: vm.xen_hvm_config(x.kvm_xen_hvm_config()))
    offered_or_reported(kvm, k.KVM_CAP_XEN_HVM, lambda: vm.xen_hvm_set_attr(attr))
    offered_or_reported(kvm, k.KVM_CAP_XEN_HVM, lambda: vm.xen_hvm_get_attr(x.KVM_XEN_ATTR_TYPE_LONG_MODE))


def test_xen_events_and_encryption_need_more_than_a_plain_vm(vm: Vm) -> None:
    for call in (
        lambda: vm.xen_hvm_evtchn_send(1, 0, 0),
        vm.memory_encrypt_op,
        lambda: vm.memory_encrypt_op(x.kvm_sev_cmd(id=x.KVM_SEV_GUEST_STATUS)),
        lambda: vm.register_enc_region(0, 4096),
        lambda: vm.unregister_enc_region(0, 4096),
    ):
        with pytest.raises(KvmError) as caught:
            call()
        assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)


def test_mmu_pages(vm: Vm) -> None:
    vm.set_nr_mmu_pages(4096)
    with pytest.raises(KvmUnsupportedError, match=r"Linux no longer has this call"):
        vm.get_nr_mmu_pages()


def test_dirty_log_of_a_slot_that_does_not_keep_one(vm: Vm) -> None:
    with pytest.raises(KvmError, match=r"ENOENT.*without KVM_MEM_LOG_DIRTY_PAGES"):
        vm.get_dirty_log(0, 1)
    with pytest.raises(KvmError, match=r"KVM_CLEAR_DIRTY_LOG"):
        vm.clear_dirty_log(0, 0, 64, bytes(8))
    with pytest.raises(KvmError, match=r"KVM_RESET_DIRTY_RINGS"):
        vm.reset_dirty_rings()


def test_dirty_ring_that_was_not_asked_for(vm: Vm) -> None:
    # KVM would map it, and the first look at it would be a SIGBUS.
    with vm.create_vcpu(0) as vcpu, pytest.raises(KvmError, match=r"enable_cap\(KVM_CAP_DIRTY_LOG_RING"):
        vcpu.dirty_ring()


def test_clear_dirty_log(vm: Vm) -> None:
    vm.enable_cap(k.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, k.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
    with mmap.mmap(-1, 64 * 4096) as ram:
        pin = ctypes.c_char.from_buffer(ram)
        vm.set_user_memory_region(0, 0, 64 * 4096, ctypes.addressof(pin), k.KVM_MEM_LOG_DIRTY_PAGES)
        del pin
        vm.clear_dirty_log(0, 0, 64, b"\xff" * 8)
        with pytest.raises(KvmError, match=r"EINVAL.*multiple of 64"):
            vm.clear_dirty_log(0, 1, 32, bytes(8))
        vm.set_user_memory_region(0, 0, 0, 0)


def test_device(vm: Vm) -> None:
    assert vm.create_device(k.KVM_DEV_TYPE_VFIO, test=True) is None
    device = vm.create_device(k.KVM_DEV_TYPE_VFIO)

    assert device is not None
    assert device.has_device_attr(k.KVM_DEV_VFIO_FILE, k.KVM_DEV_VFIO_FILE_ADD)
    assert not device.has_device_attr(77, 77)
    with pytest.raises(KvmError, match=r"ENXIO.*does not exist here"):
        device.set_device_attr(77, 77, 0)
    device.close()
    with pytest.raises(KvmError, match=r"KVM_CREATE_DEVICE.*ENODEV"):
        vm.create_device(k.KVM_DEV_TYPE_XICS)


def test_vm_has_no_attributes_on_x86(vm: Vm) -> None:
    assert not vm.has_device_attr(0, 0)
    with pytest.raises(KvmUnsupportedError):
        vm.get_device_attr(0, 0)


def test_statistics(vm: Vm, vcpu: Vcpu) -> None:
    with vm.stats() as of_vm, vcpu.stats() as of_vcpu:
        names = {entry.name: entry for entry in of_vcpu.statistics}
        exits = of_vcpu.read()["exits"]

        assert of_vm.identity == f"kvm-{os.getpid()}"
        assert of_vcpu.identity == f"kvm-{os.getpid()}/vcpu-0"
        assert len(of_vm.read()) == of_vm.header.num_desc > 10
        assert names["exits"].kind == "cumulative"
        assert names["halt_poll_success_ns"].unit == "seconds"
        assert names["halt_poll_success_ns"].factor == 1e-9
        assert exits == (0,)
