# SPDX-License-Identifier: Apache-2.0
"""KVM_X86_VSM_ANY_THREAD: threads run a vCPU in turn. How long a change takes is measured, not tested: docs/vsm.md."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvmapi import Vm
from kvmapi.uapi.vsm import KVM_X86_VSM_ANY_THREAD
from tests.kernel.guest import Guest
from tests.kernel.hypercall_guest import DONE, HypercallGuest

pytestmark = [pytest.mark.host, pytest.mark.vsm_feature(KVM_X86_VSM_ANY_THREAD)]

COUNT = bytes([0x48, 0xFF, 0xC3, 0xE6, DONE, 0xEB, 0xF9])  # again: inc rbx; out DONE, al; jmp again
TURNS = 200


def turn(guest: Guest) -> int:
    result, _ = guest.run()
    assert result == 0
    return threading.get_ident()


def test_two_threads_take_turns(vm: Vm) -> None:
    with HypercallGuest(vm) as guest, ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        guest.start(COUNT, rbx=0)

        threads = {pool.submit(turn, guest).result() for _ in range(TURNS) for pool in (first, second)}

        assert len(threads) == 2
        assert guest.vcpu.get_regs().rbx == 2 * TURNS
