# SPDX-License-Identifier: Apache-2.0
"""What a machine's configuration makes of its processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from vmm.machine.config import MachineConfig
from vmm.machine.vcpu_setup import CpuPlan, plan

PKU = 1 << 3  # of leaf 7, ECX

NEEDED = (
    k.KVM_CAP_MAX_VCPUS,
    k.KVM_CAP_SYNC_REGS,
    k.KVM_CAP_X86_USER_SPACE_MSR,
    k.KVM_CAP_X86_MSR_FILTER,
)


def planned(**options: Any) -> CpuPlan:
    """The processors of a machine on a host whose processor has protection keys and no XSAVE."""
    leaves = [(0, 0, 0, 7, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0), (7, 0, 1, 0, 0, PKU, 0)]
    fake = FakeKvm()
    fake.caps = dict.fromkeys(NEEDED, 1)
    fake.leaves = leaves
    with Kvm.open(seam=fake) as kvm:
        return plan(MachineConfig(kernel=Path("kernel"), **options), kvm)


WITH_VTLS: list[dict[str, Any]] = [
    {"vsm": True},
    {"cpu": "max,hv-passthrough,hv-vsm"},
    {"cpu": "max,hv-vsm,hv-synic"},
    {"cpu": "max,hv-vsm", "hyperv": True},
]
WITHOUT: list[dict[str, Any]] = [
    {},
    {"cpu": "max,hv-passthrough"},
    {"hyperv": True},
    {"cpu": "max,hv-passthrough,hv-vsm", "hyperv": False},
    {"cpu": "max,hv-passthrough,hv-vsm=off"},
    {"cpu": "max,hv-vsm=off", "vsm": True},
]


@pytest.mark.parametrize(
    ("options", "vtls"),
    [*((options, True) for options in WITH_VTLS), *((options, False) for options in WITHOUT)],
)
def test_protection_keys_without_xsave_are_for_machines_without_vtls(
    options: dict[str, Any], vtls: bool
) -> None:
    """A VTL switch could not carry PKRU."""
    cpus = planned(**options)

    assert any(leaf.function == 7 and leaf.ecx & PKU for leaf in cpus.cpuid[0]) is not vtls
    assert cpus.has_vtls is vtls
