# SPDX-License-Identifier: Apache-2.0
"""What a machine's configuration makes of its processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from vmm.machine.config import MachineConfig
from vmm.machine.vcpu_setup import plan

PKU = 1 << 3  # of leaf 7, ECX

NEEDED = (
    k.KVM_CAP_MAX_VCPUS,
    k.KVM_CAP_SYNC_REGS,
    k.KVM_CAP_X86_USER_SPACE_MSR,
    k.KVM_CAP_X86_MSR_FILTER,
)


@pytest.mark.parametrize(("vsm", "has_pku"), [(False, True), (True, False)])
def test_protection_keys_without_xsave_are_for_machines_without_vtls(vsm: bool, has_pku: bool) -> None:
    """A VTL switch could not carry PKRU."""
    leaves = [(0, 0, 0, 7, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0), (7, 0, 1, 0, 0, PKU, 0)]
    fake = FakeKvm()
    fake.caps = dict.fromkeys(NEEDED, 1)
    fake.leaves = leaves

    with Kvm.open(seam=fake) as kvm:
        cpus = plan(MachineConfig(kernel=Path("kernel"), cpu="max", vsm=vsm), kvm)

    assert any(leaf.function == 7 and leaf.ecx & PKU for leaf in cpus.cpuid[0]) is has_pku
