# SPDX-License-Identifier: Apache-2.0
"""How to tell that a kernel does not have a feature of our series: one check per bit of KVM_CAP_X86_VSM."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmapi import Kvm, KvmError
from kvmapi.uapi.kvm import KVM_CAP_MEMORY_ATTRIBUTES
from kvmapi.uapi.vsm import (
    KVM_CAP_X86_VSM,
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_X86_VSM_FAULT_ACCESS,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)

RWX = KVM_MEMORY_ATTRIBUTE_NR | KVM_MEMORY_ATTRIBUTE_NW | KVM_MEMORY_ATTRIBUTE_NX


def _no_fault_details(kvm: Kvm) -> None:
    # Nothing but the capability tells: the exits exist, with members that are not filled.
    assert not kvm.check_extension(KVM_CAP_X86_VSM) & (KVM_X86_VSM_FAULT_ACCESS | KVM_X86_VSM_FAULT_INSN)


def _no_rwx_attributes(kvm: Kvm) -> None:
    assert not kvm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) & RWX
    with kvm.create_vm() as vm:
        assert not vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) & RWX
        for attributes in (KVM_MEMORY_ATTRIBUTE_NW, RWX):
            with pytest.raises(KvmError):
                vm.set_memory_attributes(0, 0x1000, attributes)


ABSENT: dict[int, Callable[[Kvm], None]] = {
    KVM_X86_VSM_FAULT_ACCESS: _no_fault_details,
    KVM_X86_VSM_FAULT_INSN: _no_fault_details,
    KVM_X86_VSM_RWX_ATTRIBUTES: _no_rwx_attributes,
}
