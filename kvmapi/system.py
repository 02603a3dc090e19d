# SPDX-License-Identifier: Apache-2.0
"""`Kvm`: /dev/kvm itself (api.rst, "System ioctls")."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from kvmapi import arrays
from kvmapi.attributes import AttributeFd
from kvmapi.errors import KvmError, KvmUnavailableError, KvmUnsupportedError
from kvmapi.seam import KERNEL, Seam
from kvmapi.uapi.kvm_cap import KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, KVM_CAP_NR_MEMSLOTS, KVM_CAP_NR_VCPUS
from kvmapi.uapi.kvm_ioctl import (
    KVM_API_VERSION,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_EMULATED_CPUID,
    KVM_GET_MSR_FEATURE_INDEX_LIST,
    KVM_GET_MSR_INDEX_LIST,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_SUPPORTED_HV_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_X86_GET_MCE_CAP_SUPPORTED,
)
from kvmapi.uapi.layout import u64
from kvmapi.uapi.x86_features import KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP, kvm_cpuid_entry2
from kvmapi.vm import Vm


class Kvm(AttributeFd):
    """The system fd: what this host's KVM can do, and the way to a VM.

    >>> from kvmapi import Kvm
    >>> from kvmapi.uapi.kvm import KVM_CAP_IRQCHIP
    >>> with Kvm.open() as kvm:
    ...     kvm.api_version(), kvm.check_extension(KVM_CAP_IRQCHIP)
    (12, 1)
    """

    __slots__ = ()

    @classmethod
    def open(cls, path: str = "/dev/kvm", seam: Seam = KERNEL) -> Kvm:
        """Open KVM's device and check that it speaks API version 12, the only one there has been since 2007.

        Raises KvmUnavailableError with what to do when the device is missing, may not be opened, or is not KVM.
        """
        try:
            fd = seam.open(path)
        except OSError as error:
            raise KvmUnavailableError(error.errno or 0, "open", {"path": path}) from error
        kvm = cls(seam, fd, f"Kvm({path})")
        try:
            version = kvm.api_version()
        except KvmError as error:
            kvm.close()
            raise KvmUnavailableError(error.errno or 0, "KVM_GET_API_VERSION", {"path": path}) from error
        if version != KVM_API_VERSION:
            kvm.close()
            raise KvmUnavailableError(
                errno.EPROTO,
                "KVM_GET_API_VERSION",
                {"path": path},
                hint=f"This KVM speaks API version {version}, expected {KVM_API_VERSION}: it is not Linux's KVM, "
                "or older than Linux 2.6.22",
            )
        return kvm

    def api_version(self) -> int:
        """KVM_GET_API_VERSION (api.rst 4.1): 12."""
        return self._ioctl(KVM_GET_API_VERSION)

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION (api.rst 4.4): 0 when the capability is missing, else 1 or its own value.

        A VM may offer more or less than the host in general: ask `Vm.check_extension` once there is one.
        """
        return self._ioctl(KVM_CHECK_EXTENSION, cap, cap=cap)

    def vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE (api.rst 4.5): bytes of the mapping of a vCPU fd."""
        return self._ioctl(KVM_GET_VCPU_MMAP_SIZE)

    def create_vm(self, machine_type: int = 0) -> Vm:
        """KVM_CREATE_VM (api.rst 4.2): a VM without memory and vCPUs.

        `machine_type` is one of KVM_X86_*_VM within the mask of KVM_CAP_VM_TYPES. A signal that arrives
        meanwhile makes KVM give up, so EINTR is tried again.
        """
        run_size = self.vcpu_mmap_size()
        while True:
            try:
                fd = self._ioctl(KVM_CREATE_VM, machine_type, type=machine_type)
            except KvmError as error:
                if error.errno != errno.EINTR:
                    raise
            else:
                return Vm(self._seam, fd, f"Vm fd {fd}", self, run_size)

    def adopt_vm(self, fd: int) -> Vm:
        """A Vm that owns `fd`, a VM fd got from elsewhere. KVM serves it only in the process that made the VM."""
        return Vm(self._seam, fd, f"Vm fd {fd}", self, self.vcpu_mmap_size())

    def nr_vcpus(self) -> int:
        """The recommended number of vCPUs per VM (KVM_CAP_NR_VCPUS; 4 where KVM does not say, api.rst 4.7)."""
        return self.check_extension(KVM_CAP_NR_VCPUS) or 4

    def max_vcpus(self) -> int:
        """The most vCPUs per VM (KVM_CAP_MAX_VCPUS; else the recommended number)."""
        return self.check_extension(KVM_CAP_MAX_VCPUS) or self.nr_vcpus()

    def max_vcpu_id(self) -> int:
        """vCPU ids are below this (KVM_CAP_MAX_VCPU_ID; else the most vCPUs)."""
        return self.check_extension(KVM_CAP_MAX_VCPU_ID) or self.max_vcpus()

    def nr_memslots(self) -> int:
        """Memory slots per VM (KVM_CAP_NR_MEMSLOTS; 32 where KVM does not say)."""
        return self.check_extension(KVM_CAP_NR_MEMSLOTS) or 32

    def supported_cpuid(self) -> list[kvm_cpuid_entry2]:
        """KVM_GET_SUPPORTED_CPUID (api.rst 4.46): leaves a guest may be given here. KVM_CAP_EXT_CPUID."""
        return arrays.cpuid_leaves(self._ioctl, KVM_GET_SUPPORTED_CPUID)

    def emulated_cpuid(self) -> list[kvm_cpuid_entry2]:
        """KVM_GET_EMULATED_CPUID (api.rst 4.88): features KVM emulates, slowly. KVM_CAP_EXT_EMUL_CPUID."""
        return arrays.cpuid_leaves(self._ioctl, KVM_GET_EMULATED_CPUID)

    def supported_hv_cpuid(self) -> list[kvm_cpuid_entry2]:
        """KVM_GET_SUPPORTED_HV_CPUID (api.rst 4.118): Hyper-V leaves KVM can back.

        Capability: KVM_CAP_SYS_HYPERV_CPUID. Raises KvmUnsupportedError where KVM was built without Hyper-V.
        """
        return arrays.cpuid_leaves(self._ioctl, KVM_GET_SUPPORTED_HV_CPUID)

    def msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST (api.rst 4.3): MSRs that hold guest state."""
        return arrays.msr_numbers(self._ioctl, KVM_GET_MSR_INDEX_LIST)

    def msr_feature_index_list(self) -> list[int]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST (api.rst 4.3): MSRs that tell features. KVM_CAP_GET_MSR_FEATURES."""
        return arrays.msr_numbers(self._ioctl, KVM_GET_MSR_FEATURE_INDEX_LIST)

    def feature_msrs(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """KVM_GET_MSRS (api.rst 4.18) on /dev/kvm: `(index, value)` of feature MSRs. KVM_CAP_GET_MSR_FEATURES.

        Raises KvmMsrError naming the first MSR that is not a feature MSR.
        """
        return arrays.read_msrs(self._ioctl, indices, self._label)

    def mce_cap_supported(self) -> int:
        """KVM_X86_GET_MCE_CAP_SUPPORTED (api.rst 4.104): the MCG_CAP bits `Vcpu.setup_mce` accepts. KVM_CAP_MCE."""
        value = u64()
        self._ioctl(KVM_X86_GET_MCE_CAP_SUPPORTED, value)
        return value.value

    def guest_xcomp_mask(self) -> int:
        """XSAVE features a guest may be allowed (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM). KVM_CAP_SYS_ATTRIBUTES."""
        if not self.has_device_attr(KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP):
            raise KvmUnsupportedError(
                errno.ENXIO, "KVM_GET_DEVICE_ATTR", {"attr": "KVM_X86_XCOMP_GUEST_SUPP"}, self._label
            )
        return int(self.get_device_attr(KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP))
