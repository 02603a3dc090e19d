# SPDX-License-Identifier: Apache-2.0
"""How many variable MTRRs this KVM gives a vCPU, and what it says to those that there are not."""

from __future__ import annotations

import pytest

from kvmapi import Kvm, KvmMsrError
from vmm.backend.vsm.shared_msrs import MSRS as SHARED_MSRS

MTRRCAP, BASE, NAMES = 0xFE, 0x200, 16
VCNT = 0xFF


@pytest.mark.host
@pytest.mark.tlfs("VSM-063", "IMP-005")
def test_kvm_has_the_variable_mtrrs_that_vtls_share_and_no_other() -> None:
    """Those beyond MTRRCAP's count are refused, so that their VP registers are unknown; whatever ignore_msrs is."""
    shared = [msr for msr in range(BASE, BASE + 2 * NAMES) if msr in SHARED_MSRS]

    with Kvm.open() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert shared == list(range(BASE, BASE + 2 * (vcpu.get_msrs([MTRRCAP])[0][1] & VCNT)))
        assert [msr for msr, _ in vcpu.get_msrs(shared)] == shared
        for msr in range(shared[-1] + 1, BASE + 2 * NAMES):
            with pytest.raises(KvmMsrError):
                vcpu.get_msrs([msr])
            with pytest.raises(KvmMsrError):
                vcpu.set_msrs([(msr, 0)])
