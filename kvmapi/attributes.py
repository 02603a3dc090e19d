# SPDX-License-Identifier: Apache-2.0
"""`AttributeFd`: the device attribute ioctls, which /dev/kvm, VMs, vCPUs and devices have in common."""

from __future__ import annotations

import ctypes
import errno
from typing import Any

from kvmapi.errors import KvmError
from kvmapi.fd import KvmFd
from kvmapi.uapi.kvm_device import kvm_device_attr
from kvmapi.uapi.kvm_ioctl import KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR
from kvmapi.uapi.layout import build, u64


class AttributeFd(KvmFd):
    """A KVM fd with attributes: `group` and `attr` name one, its C type depends on it."""

    __slots__ = ()

    def has_device_attr(self, group: int, attr: int) -> bool:
        """KVM_HAS_DEVICE_ATTR (api.rst 4.81): whether the attribute exists.

        Capability: KVM_CAP_SYS_ATTRIBUTES (/dev/kvm), KVM_CAP_VM_ATTRIBUTES, KVM_CAP_VCPU_ATTRIBUTES,
        KVM_CAP_DEVICE_CTRL. False too where the fd knows no attributes at all.
        """
        try:
            self._ioctl(
                KVM_HAS_DEVICE_ATTR, build(kvm_device_attr, group=group, attr=attr), group=group, attr=attr
            )
        except KvmError as error:
            if error.errno in (errno.ENXIO, errno.ENOTTY, errno.EINVAL):
                return False
            raise
        return True

    def get_device_attr(self, group: int, attr: int, kind: Any = u64) -> Any:
        """KVM_GET_DEVICE_ATTR (api.rst 4.80): the value, a ctypes `kind` (plain integers as int).

        Raises KvmError ENXIO for an attribute that does not exist, EPERM for one that cannot be read now.
        """
        value = kind()
        self._attribute(KVM_GET_DEVICE_ATTR, group, attr, value)
        return value.value if isinstance(value, ctypes._SimpleCData) else value

    def set_device_attr(self, group: int, attr: int, value: Any = None) -> None:
        """KVM_SET_DEVICE_ATTR (api.rst 4.80): `value` is an int (passed as u64), a ctypes object or None."""
        self._attribute(KVM_SET_DEVICE_ATTR, group, attr, u64(value) if isinstance(value, int) else value)

    def _attribute(self, request: int, group: int, attr: int, value: Any) -> None:
        address = 0 if value is None else ctypes.addressof(value)
        argument = build(kvm_device_attr, group=group, attr=attr, addr=address)
        self._ioctl(request, argument, group=group, attr=attr)
