# SPDX-License-Identifier: Apache-2.0
"""A number that Linux uses for something else means that, on a kernel with VSM, too."""

from __future__ import annotations

import errno

import pytest

from kvmapi import KvmError, Vm
from kvmapi.uapi.kvm_cap import KVM_CAP_PRE_FAULT_MEMORY
from tests.kernel.guest import DATA, PAGE, Guest

pytestmark = pytest.mark.host


@pytest.mark.original_fails("trap 7, without nested paging")
def test_capability_236_tells_of_memory_that_can_be_mapped_ahead(vm: Vm) -> None:
    """The original series answers with it, on every kernel, that fault exits have the instruction's length."""
    with Guest(vm) as guest:
        told = bool(vm.check_extension(KVM_CAP_PRE_FAULT_MEMORY))
        try:
            works = guest.vcpu.pre_fault_memory(DATA, PAGE) == 0
        except KvmError as error:
            # No nested paging; an older kernel.
            assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY)
            works = False

        assert works == told
