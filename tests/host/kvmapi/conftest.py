# SPDX-License-Identifier: Apache-2.0
"""A real /dev/kvm. These tests do not skip: what a host lacks must be reported as KvmUnsupportedError."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, Vm
from tests.host.kvmapi.guest import KICK


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
