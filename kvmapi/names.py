# SPDX-License-Identifier: Apache-2.0
"""Names of UAPI numbers, for messages: found in `kvmapi.uapi` by prefix, so none is written twice."""

from __future__ import annotations

from collections.abc import Callable

from kvmapi.uapi import kvm_cap, kvm_ioctl, kvm_run, kvm_vcpu, vsm

_NUMBERED = [(name, value) for name, value in vars(kvm_ioctl).items() if isinstance(value, int)]

# ioctl number -> name. VM and vCPU ioctls never share a number: direction and size are part of it.
IOCTL_NAMES: dict[int, str] = {
    value: name for name, value in _NUMBERED if value > 0xFF and name.startswith("KVM_")
}


def _by_value(
    *modules: object, prefix: str, keep: Callable[[str], bool] = lambda name: True
) -> dict[int, str]:
    names: dict[int, str] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith(prefix) and isinstance(value, int) and keep(name):
                names.setdefault(value, name)
    return names


CAP_NAMES = _by_value(kvm_cap, prefix="KVM_CAP_")
MP_STATE_NAMES = _by_value(kvm_vcpu, vsm, prefix="KVM_MP_STATE_")
SYSTEM_EVENT_NAMES = _by_value(kvm_run, prefix="KVM_SYSTEM_EVENT_")
INTERNAL_ERROR_NAMES = _by_value(kvm_run, prefix="KVM_INTERNAL_ERROR_", keep=lambda name: "FLAG" not in name)
HYPERV_EXIT_NAMES = _by_value(kvm_run, prefix="KVM_EXIT_HYPERV_")
EXIT_NAMES = _by_value(
    kvm_run,
    prefix="KVM_EXIT_",
    keep=lambda name: not name.startswith(("KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_", "KVM_EXIT_IO_")),
)


def name_of(table: dict[int, str], value: int) -> str:
    """The name of `value`, or the number itself in decimal."""
    return table.get(value, str(value))
