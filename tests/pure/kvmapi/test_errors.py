# SPDX-License-Identifier: Apache-2.0
"""Error messages: the ioctl, the errno, the operands, the usual cause."""

from __future__ import annotations

import errno

import pytest

from kvmapi import KvmError, KvmTooBigError, KvmUnsupportedError
from kvmapi.causes import _BY_CALL, _BY_ERRNO, NOT_OFFERED, usual_cause
from kvmapi.errors import error_for
from kvmapi.names import IOCTL_NAMES
from kvmapi.uapi.kvm import (
    KVM_CAP_SYNC_REGS,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_SUPPORTED_HV_CPUID,
    KVM_SET_USER_MEMORY_REGION,
)


def test_message_has_all_parts() -> None:
    operands = {"slot": 1, "gpa": 0x1000, "size": 4096}

    error = error_for(errno.EEXIST, KVM_SET_USER_MEMORY_REGION, operands, "Vm fd 7")

    assert str(error) == (
        "KVM_SET_USER_MEMORY_REGION(slot=1, gpa=0x1000, size=0x1000) on Vm fd 7 failed: EEXIST (File exists). "
        "The guest physical range overlaps another slot. Delete that slot (size 0) first"
    )


def test_is_an_oserror_with_its_errno() -> None:
    error = error_for(errno.EEXIST, KVM_CREATE_VCPU, {"vcpu_id": 3}, "Vm fd 7")

    assert isinstance(error, OSError)
    assert (error.errno, error.call, error.operands) == (errno.EEXIST, "KVM_CREATE_VCPU", {"vcpu_id": 3})


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOTTY, KvmUnsupportedError),
        (errno.EOPNOTSUPP, KvmUnsupportedError),
        (errno.ENOSYS, KvmUnsupportedError),
        (errno.E2BIG, KvmTooBigError),
        (errno.EINVAL, KvmError),
    ],
)
def test_kinds(number: int, kind: type[KvmError]) -> None:
    assert type(error_for(number, KVM_CREATE_VCPU, {}, "")) is kind


def test_unknown_errno_and_ioctl_are_shown_as_numbers() -> None:
    assert str(error_for(4095, 0x1234, {}, "")) == "ioctl 0x1234() failed: 4095 (Unknown error 4095)"


def test_hardware_poison_has_its_name() -> None:
    assert "EHWPOISON (Memory page has hardware error)" in str(KvmError(133, "KVM_RUN"))


@pytest.mark.parametrize("call", sorted({call for call, _ in [*_BY_CALL, *NOT_OFFERED]}))
def test_table_names_real_calls(call: str) -> None:
    assert call in set(IOCTL_NAMES.values()) | {"open", "mmap"}


@pytest.mark.parametrize("text", [*_BY_CALL.values(), *NOT_OFFERED.values(), *_BY_ERRNO.values()])
def test_causes_read_as_sentences_that_the_message_ends(text: str) -> None:
    assert text[0].isupper()
    assert text[-1] not in ". "
    assert "  " not in text


def test_particular_cause_wins_over_the_general_one() -> None:
    assert usual_cause("KVM_SET_CPUID2", errno.E2BIG) != usual_cause("KVM_RUN", errno.E2BIG)
    assert usual_cause("KVM_RUN", 4095) == ""


def test_capabilities_are_shown_by_name() -> None:
    error = error_for(errno.EINVAL, KVM_ENABLE_CAP, {"cap": KVM_CAP_SYNC_REGS, "flags": 0}, "")

    assert str(error).startswith("KVM_ENABLE_CAP(cap=KVM_CAP_SYNC_REGS, flags=0) failed: EINVAL")


def test_einval_of_an_ioctl_that_the_kernel_does_not_know_is_told_apart() -> None:
    error = error_for(errno.EINVAL, KVM_GET_SUPPORTED_HV_CPUID, {}, "")

    assert isinstance(error, KvmUnsupportedError)
    assert "CONFIG_KVM_HYPERV" in str(error)


def test_eopnotsupp_has_the_name_of_the_documentation() -> None:
    assert "EOPNOTSUPP" in str(KvmError(errno.EOPNOTSUPP, "KVM_PRE_FAULT_MEMORY"))
