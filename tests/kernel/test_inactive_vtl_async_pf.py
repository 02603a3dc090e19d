# SPDX-License-Identifier: Apache-2.0
"""Memory that arrives wakes an inactive VTL, as it does a halted processor (async page faults).

Collected where pages can be held back (conftest.py): the lab, and root elsewhere.
"""

from __future__ import annotations

import errno
import signal
import threading

import pytest

from kvmapi import Vm
from kvmapi.uapi.vsm import KVM_X86_VSM_INACTIVE_VTL
from tests.kernel.guest import DATA, KICK, PAGE
from tests.kernel.hypercall_guest import DONE
from tests.kernel.test_inactive_vtl import IF, INACTIVE, QUIET_SECONDS, RUNNABLE, InactiveVtl
from tests.kernel.userfault import HeldPages

pytestmark = [
    pytest.mark.host,
    pytest.mark.vsm_feature(KVM_X86_VSM_INACTIVE_VTL),
    pytest.mark.original_fails("trap 10"),
]


READ_AND_TELL = b"\x8a\x07" + bytes([0xE6, DONE])  # mov al, [rdi]; out DONE, al


def access_missing_page(guest: InactiveVtl) -> None:
    """Let the guest read DATA, which KVM then fetches in the background, and take it out of KVM_RUN."""
    guest.start(READ_AND_TELL, rdi=DATA, rflags=2 | IF)
    thread = threading.get_ident()

    def kick() -> None:
        guest.vcpu.run.immediate_exit = True
        signal.pthread_kill(thread, KICK)

    timer = threading.Timer(QUIET_SECONDS, kick)
    timer.start()
    try:
        assert guest.vcpu.run_once() == errno.EINTR
    finally:
        timer.cancel()
        timer.join()
        guest.vcpu.run.immediate_exit = False


def test_a_page_that_arrives_wakes(vm: Vm) -> None:
    with InactiveVtl(vm) as guest, HeldPages(guest.host_address + DATA, PAGE) as held:
        access_missing_page(guest)
        guest.stop()
        assert not guest.woken()
        threading.Timer(QUIET_SECONDS / 5, held.release).start()

        assert guest.woken()
        assert guest.vcpu.get_mp_state() == INACTIVE


def test_the_access_goes_on_once_the_vtl_runs(vm: Vm) -> None:
    with InactiveVtl(vm) as guest, HeldPages(guest.host_address + DATA, PAGE) as held:
        access_missing_page(guest)
        guest.stop()
        held.release()
        assert guest.woken()
        guest.vcpu.set_mp_state(RUNNABLE)

        assert guest.port(guest.exit()) == DONE
