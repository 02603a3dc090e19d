# SPDX-License-Identifier: Apache-2.0
"""VMs come and go: nothing of them stays in the process."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import psutil
import pytest

from kvmapi import Kvm
from kvmapi import exit_types as exits
from tests.host.kvmapi.guest import Guest

pytestmark = pytest.mark.host

VMS = 1000
# What the allocator may keep; a leaked kvm_run mapping alone would be 12 MiB, guest RAM 64 MiB.
GROWTH_BYTES = 4 << 20


def footprint() -> tuple[int, int, int]:
    """Open fds, mappings, threads."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    # Only KVM's and shared anonymous ones (guest RAM): the heap's own mappings come and go as they like.
    ours = [line for line in maps if "kvm" in line or "/dev/zero" in line]
    return len(os.listdir("/proc/self/fd")), len(ours), threading.active_count()


@pytest.mark.timeout(600)
def test_a_thousand_vms_leave_nothing_behind(kvm: Kvm) -> None:
    def one() -> None:
        vm = kvm.create_vm()
        vm.create_irqchip()
        with Guest(vm, "b02a e680") as guest:
            exit_ = guest.run()
        assert isinstance(exit_, exits.IoExit)

    for _ in range(20):  # caches, arenas, the first use of everything
        one()
    before, memory = footprint(), psutil.Process().memory_info().rss

    for _ in range(VMS):
        one()

    assert footprint() == before
    assert psutil.Process().memory_info().rss - memory < GROWTH_BYTES


def test_many_vms_open_at_once_close_with_their_parent() -> None:
    before = footprint()
    kvm = Kvm.open()
    vms = [kvm.create_vm() for _ in range(50)]
    vcpus = [vm.create_vcpu(number) for vm in vms for number in range(2)]
    assert footprint()[1] == before[1] + 100

    kvm.close()

    assert all(entry.closed for entry in [*vms, *vcpus])
    assert footprint() == before
