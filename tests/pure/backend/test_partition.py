# SPDX-License-Identifier: Apache-2.0
"""A VTL's KVM VM: what KVM is asked for when it is made."""

from __future__ import annotations

import struct

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from vmm.backend.partition import KVM_X2APIC_API_FLAGS, VmOptions, VtlVm


class Mapping:
    """No memory slot is made of it."""

    address = 0


def enabled(fake: FakeKvm) -> dict[int, int]:
    """Capability -> its first argument, of each KVM_ENABLE_CAP."""
    calls = [struct.unpack_from("<IIQ", call.argument) for call in fake.called("KVM_ENABLE_CAP")]
    return {capability: argument for capability, _flags, argument in calls}


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        (True, KVM_X2APIC_API_FLAGS, {k.KVM_CAP_X2APIC_API: KVM_X2APIC_API_FLAGS}),
        (True, KVM_X2APIC_API_FLAGS & 1, {}),
        (False, KVM_X2APIC_API_FLAGS, {}),
    ],
    ids=["x2APIC", "a KVM with half of it", "no x2APIC"],
)
def test_apic_ids_are_wide_only_where_processors_have_them(
    wanted: bool, offered: int, expected: dict[int, int]
) -> None:
    fake = FakeKvm()
    fake.caps = {k.KVM_CAP_X2APIC_API: offered}

    with Kvm.open(seam=fake) as kvm, VtlVm(kvm, 0, Mapping(), [], VmOptions(wide_apic_ids=wanted)):
        assert enabled(fake) == expected
