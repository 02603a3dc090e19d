# SPDX-License-Identifier: Apache-2.0
"""A real /dev/kvm. These tests do not skip: what a host lacks must be reported as KvmUnsupportedError."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, Vcpu, Vm
from tests.host.kvmapi.guest import KICK


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm.open() as kvm:
        yield kvm


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    with kvm.create_vm() as vm:
        yield vm


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    """vCPU 0 of a VM with PIC, I/O APIC, local APIC and PIT."""
    vm.create_irqchip()
    vm.create_pit2()
    with vm.create_vcpu(0) as vcpu:
        yield vcpu


@pytest.fixture(autouse=True)
def kick_handler() -> Iterator[None]:
    """KICK interrupts system calls and does nothing else."""
    before = signal.signal(KICK, lambda number, frame: None)
    yield
    signal.signal(KICK, before)
