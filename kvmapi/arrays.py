# SPDX-License-Identifier: Apache-2.0
"""ioctls that take or fill an array of any length: CPUID leaves, MSRs, MSR numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kvmapi.errors import KvmMsrError, KvmTooBigError
from kvmapi.uapi.kvm_ioctl import KVM_GET_MSRS, KVM_SET_MSRS
from kvmapi.uapi.x86_features import kvm_cpuid_entry2, make_kvm_cpuid2, make_kvm_msr_list, make_kvm_msrs

# No list of KVM is longer (KVM_MAX_CPUID_ENTRIES is 256, MSR lists have some hundred): stop growing here.
MOST_ENTRIES = 1 << 14

# Entries per KVM_GET_MSRS and KVM_SET_MSRS: the kernel's MAX_IO_MSRS is 256 and excludes the limit itself.
MSRS_PER_CALL = 255

Issue = Callable[..., int]


def growing(issue: Issue, request: int, make: Callable[[int], Any], count_field: str, first: int) -> Any:
    """Issue `request` with more and more room until KVM stops answering E2BIG; the filled structure."""
    room = first
    while True:
        argument = make(room)()
        setattr(argument, count_field, room)
        try:
            issue(request, argument, entries=room)
        except KvmTooBigError:
            needed = getattr(argument, count_field)
            if room >= MOST_ENTRIES:
                raise
            # Where KVM says how many it has, take that; some ioctls leave the field alone.
            room = min(max(needed, room * 2), MOST_ENTRIES)
        else:
            return argument


def cpuid_leaves(issue: Issue, request: int) -> list[kvm_cpuid_entry2]:
    """The leaves that a KVM_GET_*CPUID* ioctl gives, as structures of their own."""
    filled = growing(issue, request, make_kvm_cpuid2, "nent", 128)
    return [kvm_cpuid_entry2.from_buffer_copy(entry) for entry in filled.entries[: filled.nent]]


def msr_numbers(issue: Issue, request: int) -> list[int]:
    """The MSR numbers that a KVM_GET_MSR_*INDEX_LIST ioctl gives."""
    filled = growing(issue, request, make_kvm_msr_list, "nmsrs", 256)
    return list(filled.indices[: filled.nmsrs])


def read_msrs(issue: Issue, indices: Iterable[int], where: str) -> list[tuple[int, int]]:
    """KVM_GET_MSRS for any number of MSRs. Raises KvmMsrError at the first that KVM refuses."""
    wanted = list(indices)
    done: list[tuple[int, int]] = []
    for part in _parts(wanted):
        argument = make_kvm_msrs(len(part))()
        argument.nmsrs = len(part)
        for entry, index in zip(argument.entries, part, strict=True):
            entry.index = index
        count = issue(KVM_GET_MSRS, argument, msrs=len(part))
        done += [(entry.index, entry.data) for entry in argument.entries[:count]]
        if count < len(part):
            raise KvmMsrError("KVM_GET_MSRS", part[count], done, len(wanted), where)
    return done


def write_msrs(issue: Issue, pairs: Iterable[tuple[int, int]], where: str) -> None:
    """KVM_SET_MSRS for any number of MSRs, in order. Raises KvmMsrError at the first that KVM refuses."""
    wanted = list(pairs)
    done: list[tuple[int, int]] = []
    for part in _parts(wanted):
        argument = make_kvm_msrs(len(part))()
        argument.nmsrs = len(part)
        for entry, (index, value) in zip(argument.entries, part, strict=True):
            entry.index = index
            entry.data = value
        count = issue(KVM_SET_MSRS, argument, msrs=len(part))
        done += part[:count]
        if count < len(part):
            raise KvmMsrError("KVM_SET_MSRS", part[count][0], done, len(wanted), where)


def cpuid2(leaves: Sequence[kvm_cpuid_entry2]) -> Any:
    """A kvm_cpuid2 that holds copies of `leaves`."""
    argument = make_kvm_cpuid2(len(leaves))()
    argument.nent = len(leaves)
    for position, leaf in enumerate(leaves):
        argument.entries[position] = leaf
    return argument


def _parts(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + MSRS_PER_CALL] for start in range(0, len(items), MSRS_PER_CALL)]
