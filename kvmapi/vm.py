# SPDX-License-Identifier: Apache-2.0
"""`Vm`: a virtual machine (api.rst, "VM ioctls")."""

from __future__ import annotations

from collections.abc import Iterable

from kvmapi.device import Device
from kvmapi.enable_cap import enabling
from kvmapi.fd import KvmFd
from kvmapi.msr_filter import MsrRange, msr_filter
from kvmapi.seam import Seam
from kvmapi.stats import Stats
from kvmapi.uapi.kvm_cap import KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL
from kvmapi.uapi.kvm_device import KVM_CREATE_DEVICE_TEST, kvm_create_device
from kvmapi.uapi.kvm_ioctl import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_DEVICE,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_CLOCK,
    KVM_GET_STATS_FD,
    KVM_GET_TSC_KHZ,
    KVM_HYPERV_EVENTFD,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_SET_CLOCK,
    KVM_SET_PMU_EVENT_FILTER,
    KVM_SET_TSC_KHZ,
    KVM_X86_SET_MSR_FILTER,
    KVM_XEN_HVM_CONFIG,
    KVM_XEN_HVM_EVTCHN_SEND,
    KVM_XEN_HVM_GET_ATTR,
    KVM_XEN_HVM_SET_ATTR,
)
from kvmapi.uapi.kvm_irq import kvm_irq_routing_xen_evtchn
from kvmapi.uapi.kvm_memory import kvm_enc_region
from kvmapi.uapi.kvm_vcpu import kvm_clock_data
from kvmapi.uapi.layout import build
from kvmapi.uapi.x86_features import (
    KVM_HYPERV_EVENTFD_DEASSIGN,
    KVM_MSR_FILTER_DEFAULT_ALLOW,
    KVM_PMU_EVENT_ALLOW,
    kvm_hyperv_eventfd,
    make_kvm_pmu_event_filter,
)
from kvmapi.uapi.x86_sev import kvm_sev_cmd
from kvmapi.uapi.x86_xen import kvm_xen_hvm_attr, kvm_xen_hvm_config
from kvmapi.vcpu import Vcpu
from kvmapi.vm_interrupts import VmInterrupts
from kvmapi.vm_memory import VmMemory


class Vm(VmMemory, VmInterrupts):
    """A VM. Memory ioctls are in `VmMemory`, interrupt ioctls in `VmInterrupts`, the rest here.

    >>> from kvmapi import Kvm
    >>> with Kvm.open() as kvm, kvm.create_vm() as vm:
    ...     vm.create_irqchip()
    ...     vcpu = vm.create_vcpu(0)
    ...     hex(vcpu.get_regs().rip)
    '0xfff0'

    Closing the VM closes its vCPUs and devices first.
    """

    __slots__ = ("_run_size", "dirty_ring_bytes")

    def __init__(self, seam: Seam, fd: int, label: str, parent: KvmFd | None, run_size: int) -> None:
        super().__init__(seam, fd, label, parent)
        self._run_size = run_size
        # Bytes of each vCPU's dirty ring, 0 without one. For an adopted VM, set it before `Vcpu.dirty_ring`.
        self.dirty_ring_bytes = 0

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION (api.rst 4.4) for this VM. KVM_CAP_CHECK_EXTENSION_VM."""
        return self._ioctl(KVM_CHECK_EXTENSION, cap, cap=cap)

    def enable_cap(self, cap: int, *args: int, flags: int = 0) -> int:
        """KVM_ENABLE_CAP (api.rst 4.37, 7): turn on `cap` with up to four arguments. KVM_CAP_ENABLE_CAP_VM."""
        argument = enabling(cap, args, flags)
        result = self._ioctl(KVM_ENABLE_CAP, argument, cap=cap, args=args, flags=flags)
        if cap in (KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL):
            self.dirty_ring_bytes = args[0]
        return result

    @property
    def run_size(self) -> int:
        """Bytes of the mapping of each vCPU."""
        return self._run_size

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU (api.rst 4.7): a vCPU; on x86 the id is its APIC id. Maps its kvm_run.

        Raises KvmError EEXIST for an id in use, EINVAL beyond KVM_CAP_MAX_VCPUS or KVM_CAP_MAX_VCPU_ID.
        """
        fd = self._ioctl(KVM_CREATE_VCPU, vcpu_id, vcpu_id=vcpu_id)
        return Vcpu(self._seam, fd, self, vcpu_id)

    def adopt_vcpu(self, fd: int, vcpu_id: int) -> Vcpu:
        """A Vcpu that owns `fd`, a vCPU fd of this VM got from elsewhere (e.g. over a socket)."""
        return Vcpu(self._seam, fd, self, vcpu_id)

    def create_device(self, device_type: int, test: bool = False) -> Device | None:
        """KVM_CREATE_DEVICE (api.rst 4.79): a device, KVM_DEV_TYPE_*. KVM_CAP_DEVICE_CTRL.

        `test` only asks whether it could be made: None, or KvmError ENODEV.
        """
        flags = KVM_CREATE_DEVICE_TEST if test else 0
        argument = build(kvm_create_device, type=device_type, flags=flags)
        self._ioctl(KVM_CREATE_DEVICE, argument, type=device_type, flags=flags)
        return (
            None
            if test
            else Device(self._seam, argument.fd, f"Device type {device_type} fd {argument.fd}", self)
        )

    def get_clock(self) -> kvm_clock_data:
        """KVM_GET_CLOCK (api.rst 4.29): kvmclock in ns; `flags` say what else is valid. KVM_CAP_ADJUST_CLOCK."""
        clock: kvm_clock_data = self._filled(KVM_GET_CLOCK, kvm_clock_data())
        return clock

    def set_clock(self, clock: int, flags: int = 0, realtime: int = 0) -> None:
        """KVM_SET_CLOCK (api.rst 4.30): kvmclock in nanoseconds.

        With KVM_CLOCK_REALTIME in `flags`, KVM adds the time that passed since `realtime` (nanoseconds since
        1970), e.g. since the snapshot was taken.
        """
        argument = build(kvm_clock_data, clock=clock, flags=flags, realtime=realtime)
        self._ioctl(KVM_SET_CLOCK, argument, clock=clock, flags=flags)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ (api.rst 4.55) for vCPUs made later. KVM_CAP_VM_TSC_CONTROL."""
        self._ioctl(KVM_SET_TSC_KHZ, khz, khz=khz)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ (api.rst 4.56): what vCPUs made later get. KVM_CAP_VM_TSC_CONTROL."""
        return self._ioctl(KVM_GET_TSC_KHZ)

    def set_msr_filter(self, ranges: Iterable[MsrRange], flags: int = KVM_MSR_FILTER_DEFAULT_ALLOW) -> None:
        """KVM_X86_SET_MSR_FILTER (api.rst 4.97): which MSR accesses KVM handles itself. KVM_CAP_X86_MSR_FILTER.

        At most 16 ranges, replacing the filter before; the x2APIC's MSRs 0x800-0x8ff are never filtered. A
        filtered access ends in KVM_EXIT_X86_RDMSR or _WRMSR when `enable_cap(KVM_CAP_X86_USER_SPACE_MSR,
        KVM_MSR_EXIT_REASON_FILTER)` was called, else in #GP. No ranges and KVM_MSR_FILTER_DEFAULT_ALLOW
        removes the filter.
        """
        argument, bitmaps = msr_filter(ranges, flags)
        self._ioctl(KVM_X86_SET_MSR_FILTER, argument, ranges=len(bitmaps), flags=flags)

    def set_pmu_event_filter(
        self,
        events: Iterable[int],
        action: int = KVM_PMU_EVENT_ALLOW,
        fixed_counter_bitmap: int = 0,
        flags: int = 0,
    ) -> None:
        """KVM_SET_PMU_EVENT_FILTER (api.rst 4.120): events that guests may (or may not) count.

        Capability: KVM_CAP_PMU_EVENT_FILTER; KVM_CAP_PMU_EVENT_MASKED_EVENTS for masked ones.
        """
        chosen = list(events)
        argument = make_kvm_pmu_event_filter(len(chosen))()
        argument.action = action
        argument.nevents = len(chosen)
        argument.fixed_counter_bitmap = fixed_counter_bitmap
        argument.flags = flags
        argument.events[:] = chosen
        self._ioctl(KVM_SET_PMU_EVENT_FILTER, argument, action=action, nevents=len(chosen), flags=flags)

    def hyperv_eventfd(self, conn_id: int, fd: int, deassign: bool = False) -> None:
        """KVM_HYPERV_EVENTFD: HvCallSignalEvent on connection `conn_id` signals `fd`. KVM_CAP_HYPERV_EVENTFD."""
        flags = KVM_HYPERV_EVENTFD_DEASSIGN if deassign else 0
        argument = build(kvm_hyperv_eventfd, conn_id=conn_id, fd=fd, flags=flags)
        self._ioctl(KVM_HYPERV_EVENTFD, argument, conn_id=conn_id, fd=fd, flags=flags)

    def memory_encrypt_op(self, command: kvm_sev_cmd | None = None) -> None:
        """KVM_MEMORY_ENCRYPT_OP (api.rst 4.110): an SEV command; None only asks whether SEV is there.

        On failure `command.error` holds the firmware's code.
        """
        if command is None:
            self._ioctl(KVM_MEMORY_ENCRYPT_OP, 0)
        else:
            self._ioctl(KVM_MEMORY_ENCRYPT_OP, command, id=command.id)

    def register_enc_region(self, address: int, size: int) -> None:
        """KVM_MEMORY_ENCRYPT_REG_REGION (api.rst 4.111): pin memory that an encrypted guest uses."""
        argument = build(kvm_enc_region, addr=address, size=size)
        self._ioctl(KVM_MEMORY_ENCRYPT_REG_REGION, argument, addr=address, size=size)

    def unregister_enc_region(self, address: int, size: int) -> None:
        """KVM_MEMORY_ENCRYPT_UNREG_REGION (api.rst 4.112): undo `register_enc_region`."""
        argument = build(kvm_enc_region, addr=address, size=size)
        self._ioctl(KVM_MEMORY_ENCRYPT_UNREG_REGION, argument, addr=address, size=size)

    def xen_hvm_config(self, config: kvm_xen_hvm_config) -> None:
        """KVM_XEN_HVM_CONFIG (api.rst 4.28): how Xen hypercalls are served. KVM_CAP_XEN_HVM."""
        self._ioctl(KVM_XEN_HVM_CONFIG, config, flags=config.flags, msr=config.msr)

    def xen_hvm_get_attr(self, kind: int) -> kvm_xen_hvm_attr:
        """KVM_XEN_HVM_GET_ATTR (api.rst 4.127): attribute KVM_XEN_ATTR_TYPE_*."""
        attr: kvm_xen_hvm_attr = self._filled(
            KVM_XEN_HVM_GET_ATTR, build(kvm_xen_hvm_attr, type=kind), type=kind
        )
        return attr

    def xen_hvm_set_attr(self, attr: kvm_xen_hvm_attr) -> None:
        """KVM_XEN_HVM_SET_ATTR (api.rst 4.126)."""
        self._ioctl(KVM_XEN_HVM_SET_ATTR, attr, type=attr.type)

    def xen_hvm_evtchn_send(self, port: int, vcpu: int, priority: int) -> int:
        """KVM_XEN_HVM_EVTCHN_SEND (api.rst 4.135): raise an event channel. KVM_XEN_HVM_CONFIG_EVTCHN_SEND."""
        argument = build(kvm_irq_routing_xen_evtchn, port=port, vcpu=vcpu, priority=priority)
        return self._ioctl(KVM_XEN_HVM_EVTCHN_SEND, argument, port=port, vcpu=vcpu)

    def stats(self) -> Stats:
        """KVM_GET_STATS_FD (api.rst 4.133): the VM's counters. KVM_CAP_BINARY_STATS_FD."""
        fd = self._ioctl(KVM_GET_STATS_FD)
        return Stats(self._seam, fd, f"Stats of {self._label}", self)
