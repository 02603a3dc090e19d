# SPDX-License-Identifier: Apache-2.0
"""Tests of what our kernel series adds to KVM, through `kvmapi`, on the running kernel's /dev/kvm.

A test names the features it is about with `vsm_feature`. On a kernel that does not report one of them, the test
asserts instead that the feature is really absent: nothing is skipped, and no kernel has half a feature.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, Vm
from kvmapi.uapi.vsm import KVM_CAP_X86_VSM
from tests.kernel.absent import ABSENT
from tests.kernel.guest import KICK


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "vsm_feature(*bits): the bits of KVM_CAP_X86_VSM that this test is about"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    wanted = [feature for mark in pyfuncitem.iter_markers("vsm_feature") for feature in mark.args]
    with Kvm.open() as kvm:
        have = kvm.check_extension(KVM_CAP_X86_VSM)
        missing = [feature for feature in wanted if not have & feature]
        for feature in missing:
            ABSENT[feature](kvm)
    return True if missing else None


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm.open() as kvm:
        yield kvm


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    with kvm.create_vm() as vm:
        yield vm


@pytest.fixture(autouse=True)
def kick_handler() -> Iterator[None]:
    """KICK interrupts system calls and does nothing else."""
    before = signal.signal(KICK, lambda number, frame: None)
    yield
    signal.signal(KICK, before)
