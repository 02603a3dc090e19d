# SPDX-License-Identifier: Apache-2.0
"""kvmapi offers all that rust-vmm's kvm-ioctls offers on x86-64, and a method for every ioctl there is."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import kvmapi
from kvmapi.names import IOCTL_NAMES

PACKAGE = Path(inspect.getfile(kvmapi)).parent

# Public methods of kvm-ioctls for x86-64 (crate in rust-vmm/kvm at 3ffc9b6, December 2025) -> ours.
KVM_IOCTLS = {
    "Kvm::new": "Kvm.open",
    "Kvm::new_with_path": "Kvm.open",
    "Kvm::open_with_cloexec": "Kvm.open",
    "Kvm::open_with_cloexec_at": "Kvm.open",
    "Kvm::get_api_version": "Kvm.api_version",
    "Kvm::check_extension_raw": "Kvm.check_extension",
    "Kvm::check_extension_int": "Kvm.check_extension",
    "Kvm::check_extension": "Kvm.check_extension",
    "Kvm::get_vcpu_mmap_size": "Kvm.vcpu_mmap_size",
    "Kvm::get_nr_vcpus": "Kvm.nr_vcpus",
    "Kvm::get_nr_memslots": "Kvm.nr_memslots",
    "Kvm::get_max_vcpus": "Kvm.max_vcpus",
    "Kvm::get_max_vcpu_id": "Kvm.max_vcpu_id",
    "Kvm::get_emulated_cpuid": "Kvm.emulated_cpuid",
    "Kvm::get_supported_cpuid": "Kvm.supported_cpuid",
    "Kvm::get_msr_index_list": "Kvm.msr_index_list",
    "Kvm::get_msr_feature_index_list": "Kvm.msr_feature_index_list",
    "Kvm::get_msrs": "Kvm.feature_msrs",
    "Kvm::create_vm": "Kvm.create_vm",
    "Kvm::create_vm_with_type": "Kvm.create_vm",
    "Kvm::create_vmfd_from_rawfd": "Kvm.adopt_vm",
    "VmFd::set_user_memory_region": "Vm.set_user_memory_region",
    "VmFd::set_user_memory_region2": "Vm.set_user_memory_region2",
    "VmFd::set_tss_address": "Vm.set_tss_addr",
    "VmFd::set_identity_map_address": "Vm.set_identity_map_addr",
    "VmFd::create_irq_chip": "Vm.create_irqchip",
    "VmFd::get_irqchip": "Vm.get_irqchip",
    "VmFd::set_irqchip": "Vm.set_irqchip",
    "VmFd::create_pit2": "Vm.create_pit2",
    "VmFd::get_pit2": "Vm.get_pit2",
    "VmFd::set_pit2": "Vm.set_pit2",
    "VmFd::get_clock": "Vm.get_clock",
    "VmFd::set_clock": "Vm.set_clock",
    "VmFd::set_msr_filter_unchecked": "Vm.set_msr_filter",
    "VmFd::set_msr_filter": "Vm.set_msr_filter",
    "VmFd::signal_msi": "Vm.signal_msi",
    "VmFd::set_gsi_routing": "Vm.set_gsi_routing",
    "VmFd::register_ioevent": "Vm.ioeventfd",
    "VmFd::unregister_ioevent": "Vm.ioeventfd",
    "VmFd::get_dirty_log": "Vm.get_dirty_log",
    "VmFd::register_irqfd": "Vm.irqfd",
    "VmFd::register_irqfd_with_resample": "Vm.irqfd",
    "VmFd::unregister_irqfd": "Vm.irqfd",
    "VmFd::set_irq_line": "Vm.irq_line",
    "VmFd::create_vcpu": "Vm.create_vcpu",
    "VmFd::create_vcpu_from_rawfd": "Vm.adopt_vcpu",
    "VmFd::create_device": "Vm.create_device",
    "VmFd::enable_cap": "Vm.enable_cap",
    "VmFd::run_size": "Vm.run_size",
    "VmFd::check_extension_int": "Vm.check_extension",
    "VmFd::check_extension_raw": "Vm.check_extension",
    "VmFd::check_extension": "Vm.check_extension",
    "VmFd::create_guest_memfd": "Vm.create_guest_memfd",
    "VmFd::set_memory_attributes": "Vm.set_memory_attributes",
    "VmFd::encrypt_op": "Vm.memory_encrypt_op",
    "VmFd::encrypt_op_sev": "Vm.memory_encrypt_op",
    "VmFd::register_enc_memory_region": "Vm.register_enc_region",
    "VmFd::unregister_enc_memory_region": "Vm.unregister_enc_region",
    "VmFd::register_coalesced_mmio": "Vm.register_coalesced_mmio",
    "VmFd::unregister_coalesced_mmio": "Vm.unregister_coalesced_mmio",
    "VcpuFd::get_regs": "Vcpu.get_regs",
    "VcpuFd::set_regs": "Vcpu.set_regs",
    "VcpuFd::get_sregs": "Vcpu.get_sregs",
    "VcpuFd::set_sregs": "Vcpu.set_sregs",
    "VcpuFd::get_fpu": "Vcpu.get_fpu",
    "VcpuFd::set_fpu": "Vcpu.set_fpu",
    "VcpuFd::set_cpuid2": "Vcpu.set_cpuid2",
    "VcpuFd::get_cpuid2": "Vcpu.get_cpuid2",
    "VcpuFd::enable_cap": "Vcpu.enable_cap",
    "VcpuFd::get_lapic": "Vcpu.get_lapic",
    "VcpuFd::set_lapic": "Vcpu.set_lapic",
    "VcpuFd::get_msrs": "Vcpu.get_msrs",
    "VcpuFd::set_msrs": "Vcpu.set_msrs",
    "VcpuFd::get_mp_state": "Vcpu.get_mp_state",
    "VcpuFd::set_mp_state": "Vcpu.set_mp_state",
    "VcpuFd::get_xsave": "Vcpu.get_xsave",
    "VcpuFd::get_xsave2": "Vcpu.get_xsave2",
    "VcpuFd::set_xsave": "Vcpu.set_xsave",
    "VcpuFd::set_xsave2": "Vcpu.set_xsave",
    "VcpuFd::get_xcrs": "Vcpu.get_xcrs",
    "VcpuFd::set_xcrs": "Vcpu.set_xcrs",
    "VcpuFd::get_debug_regs": "Vcpu.get_debugregs",
    "VcpuFd::set_debug_regs": "Vcpu.set_debugregs",
    "VcpuFd::get_vcpu_events": "Vcpu.get_vcpu_events",
    "VcpuFd::set_vcpu_events": "Vcpu.set_vcpu_events",
    "VcpuFd::set_guest_debug": "Vcpu.set_guest_debug",
    "VcpuFd::kvmclock_ctrl": "Vcpu.kvmclock_ctrl",
    "VcpuFd::run": "Vcpu.run_once",
    "VcpuFd::get_kvm_run": "KvmRun.struct",
    "VcpuFd::set_kvm_immediate_exit": "KvmRun.immediate_exit",
    "VcpuFd::get_tsc_khz": "Vcpu.get_tsc_khz",
    "VcpuFd::set_tsc_khz": "Vcpu.set_tsc_khz",
    "VcpuFd::translate_gva": "Vcpu.translate",
    "VcpuFd::set_sync_valid_reg": "KvmRun.sync",
    "VcpuFd::set_sync_dirty_reg": "KvmRun.sync",
    "VcpuFd::clear_sync_valid_reg": "KvmRun.sync",
    "VcpuFd::clear_sync_dirty_reg": "KvmRun.sync",
    "VcpuFd::sync_regs": "KvmRun.regs",
    "VcpuFd::sync_regs_mut": "KvmRun.regs",
    "VcpuFd::smi": "Vcpu.smi",
    "VcpuFd::nested_state": "Vcpu.get_nested_state",
    "VcpuFd::set_nested_state": "Vcpu.set_nested_state",
    "VcpuFd::nmi": "Vcpu.nmi",
    "VcpuFd::map_coalesced_mmio_ring": "KvmRun.coalesced",
    "VcpuFd::coalesced_mmio_read": "KvmRun.coalesced",
    "VcpuFd::has_device_attr": "Vcpu.has_device_attr",
    "VcpuFd::set_device_attr": "Vcpu.set_device_attr",
    "DeviceFd::has_device_attr": "Device.has_device_attr",
    "DeviceFd::set_device_attr": "Device.set_device_attr",
    "DeviceFd::get_device_attr": "Device.get_device_attr",
}


@pytest.mark.parametrize(("theirs", "ours"), KVM_IOCTLS.items())
def test_kvm_ioctls_method_has_its_counterpart(theirs: str, ours: str) -> None:
    owner, _, name = ours.partition(".")

    found = inspect.getattr_static(getattr(kvmapi, owner), name)

    # A plain attribute has no docstring of its own, its class's table has it.
    assert inspect.getdoc(found) or f"`{name}`" in (kvmapi.KvmRun.__doc__ or ""), theirs


def test_every_ioctl_is_issued_somewhere() -> None:
    used: set[str] = set()
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text())
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    assert set(IOCTL_NAMES.values()) - used == set()


@pytest.mark.parametrize("name", [name for name in kvmapi.__all__ if inspect.isclass(getattr(kvmapi, name))])
def test_every_public_method_is_documented(name: str) -> None:
    documentable = [
        (member, value)
        for member, value in vars(getattr(kvmapi, name)).items()
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    ]

    assert [member for member, value in documentable if not value.__doc__] == []
