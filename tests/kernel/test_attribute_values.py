# SPDX-License-Identifier: Apache-2.0
"""What KVM_SET_MEMORY_ATTRIBUTES accepts, and what KVM_CAP_MEMORY_ATTRIBUTES says about it."""

from __future__ import annotations

import errno
import time

import pytest

from kvmapi import Kvm, KvmError, Vm
from kvmapi.uapi.kvm import KVM_CAP_MEMORY_ATTRIBUTES, KVM_MEMORY_ATTRIBUTE_PRIVATE
from kvmapi.uapi.kvm_ioctl import KVM_SET_MEMORY_ATTRIBUTES
from kvmapi.uapi.kvm_memory import kvm_memory_attributes
from kvmapi.uapi.layout import build
from kvmapi.uapi.vsm import (
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_RWX_ATTRIBUTES)]

NR, NW, NX = KVM_MEMORY_ATTRIBUTE_NR, KVM_MEMORY_ATTRIBUTE_NW, KVM_MEMORY_ATTRIBUTE_NX
PAGE = 0x1000


def test_a_vm_supports_exactly_the_three_restrictions(vm: Vm) -> None:
    assert vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) == NR | NW | NX


def test_the_system_supports_them_for_all_vms(kvm: Kvm) -> None:
    assert kvm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) & (NR | NW | NX) == NR | NW | NX


@pytest.mark.parametrize("attributes", [0, NW, NX, NW | NX, NR | NW | NX])
def test_a_legal_mask(vm: Vm, attributes: int) -> None:
    vm.set_memory_attributes(0, PAGE, attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        NR,
        NR | NW,
        NR | NX,
        KVM_MEMORY_ATTRIBUTE_PRIVATE,
        KVM_MEMORY_ATTRIBUTE_PRIVATE | NW,
        1 << 4,
        1 << 63,
        (1 << 64) - 1,
    ],
)
def test_an_illegal_mask(vm: Vm, attributes: int) -> None:
    with pytest.raises(KvmError) as refusal:
        vm.set_memory_attributes(0, PAGE, attributes)

    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("address", "size"),
    [(1, PAGE), (0, 1), (0, 0), (PAGE, PAGE - 1), (0xFFF, 0x2000), ((1 << 64) - PAGE, 2 * PAGE)],
)
def test_an_illegal_range(vm: Vm, address: int, size: int) -> None:
    with pytest.raises(KvmError) as refusal:
        vm.set_memory_attributes(address, size, NW)

    assert refusal.value.errno == errno.EINVAL


def test_flags_must_be_zero(vm: Vm) -> None:
    argument = build(kvm_memory_attributes, address=0, size=PAGE, attributes=NW, flags=1)

    with pytest.raises(KvmError) as refusal:
        vm._ioctl(KVM_SET_MEMORY_ATTRIBUTES, argument)

    assert refusal.value.errno == errno.EINVAL


def test_memory_that_is_not_there_can_be_restricted(vm: Vm) -> None:
    vm.set_memory_attributes(1 << 40, PAGE, NR | NW | NX)


def _free_kib() -> int:
    with open("/proc/meminfo") as meminfo:
        return next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable:"))


@pytest.mark.original_fails("an entry per page")
def test_protecting_64_gib_costs_neither_time_nor_memory(vm: Vm) -> None:
    """An entry per page would be 16 million stores and 128 MiB; a hundredth of that is the bound here."""
    before = _free_kib()
    start = time.monotonic()

    vm.set_memory_attributes(0, 64 << 30, NW)

    assert time.monotonic() - start < 2.0
    assert before - _free_kib() < 1280


@pytest.mark.original_fails("an entry per page")
def test_a_range_set_page_by_page_costs_no_more(vm: Vm) -> None:
    """Neighbours with the same attributes are one entry, whichever of them came first: 1024 of them in any order."""
    pages = 1024

    for page in [*range(0, pages, 2), *range(pages - 1, 0, -2)]:
        vm.set_memory_attributes(page * PAGE, PAGE, NW)

    # What is the same already returns at once: the whole range, and no page of it, has to be looked at.
    start = time.monotonic()
    for _ in range(100):
        vm.set_memory_attributes(0, pages * PAGE, NW)
    assert time.monotonic() - start < 1.0
