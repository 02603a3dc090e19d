# SPDX-License-Identifier: Apache-2.0
"""`Device`: what KVM_CREATE_DEVICE makes (api.rst 4.79); on x86 that is KVM's side of VFIO."""

from __future__ import annotations

from kvmapi.attributes import AttributeFd


class Device(AttributeFd):
    """A device fd; all it can do are attributes.

    For KVM_DEV_TYPE_VFIO: group KVM_DEV_VFIO_FILE, attributes KVM_DEV_VFIO_FILE_ADD and _DEL, value the fd
    of the VFIO group or device as a 32-bit integer (Documentation/virt/kvm/devices/vfio.rst).
    """

    __slots__ = ()
