# SPDX-License-Identifier: Apache-2.0
"""The argument of KVM_ENABLE_CAP, which VMs and vCPUs take alike."""

from __future__ import annotations

from typing import Any

from kvmapi.uapi.kvm_vcpu import kvm_enable_cap
from kvmapi.uapi.layout import build


def enabling(cap: int, args: tuple[int, ...], flags: int) -> Any:
    """A kvm_enable_cap. Raises ValueError for more than four arguments, or one beyond 64 bits."""
    if len(args) > 4:
        raise ValueError(f"enable_cap({cap}): KVM takes at most 4 arguments, got {len(args)}")
    argument = build(kvm_enable_cap, cap=cap, flags=flags)
    for position, value in enumerate(args):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"enable_cap({cap}): argument {position} is {value:#x}, does not fit 64 bits")
        argument.args[position] = value
    return argument
