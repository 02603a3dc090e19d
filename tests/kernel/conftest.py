# SPDX-License-Identifier: Apache-2.0
"""Tests of what our kernel series adds to KVM, through `kvmapi`, on the running kernel's /dev/kvm.

A test names the features it is about with `vsm_feature`. On a kernel that does not report one of them, the test
asserts instead that the feature is really absent: nothing is skipped, and no kernel has half a feature.

A kernel with the original series is known, too. What it has is tested; `original_fails` names the tests that find its
defects, which are then expected.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, KvmError, Vm
from kvmapi.vsm_support import VsmSeries, VsmSupport, vsm_support
from scripts.host_series import sentence
from tests.kernel.absent import ABSENT
from tests.kernel.guest import KICK
from tests.kernel.userfault import can_hold_pages

collect_ignore = [] if can_hold_pages() else ["test_inactive_vtl_async_pf.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "vsm_feature(*bits): the bits of KVM_CAP_X86_VSM that this test is about"
    )
    config.addinivalue_line(
        "markers",
        "original_fails(why): fails on a kernel with the original series; trap N is that of kernel/README.md",
    )


def _support() -> VsmSupport | None:
    """What the running kernel has; None without a usable /dev/kvm, which each test reports."""
    try:
        with Kvm.open() as kvm:
            return vsm_support(kvm)
    except KvmError:
        return None


def pytest_report_header() -> list[str]:
    support = _support()
    if support is None:
        return []
    return [
        sentence(support),
        f"KVM: VSM series: {support.series}, features {support.features:#x}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [(item, mark) for item in items for mark in item.iter_markers("original_fails")]
    support = _support() if marked else None
    if support is None or support.series is not VsmSeries.ORIGINAL:
        return
    for item, mark in marked:
        item.add_marker(pytest.mark.xfail(reason=f"original series: {mark.args[0]}", strict=False))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    wanted = [feature for mark in pyfuncitem.iter_markers("vsm_feature") for feature in mark.args]
    with Kvm.open() as kvm:
        have = vsm_support(kvm).features
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
