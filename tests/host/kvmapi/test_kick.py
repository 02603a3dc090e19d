# SPDX-License-Identifier: Apache-2.0
"""Getting a vCPU out of the guest: immediate_exit, signals, signal masks."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from kvmapi import Vm
from tests.host.kvmapi.guest import KICK, Guest
from tests.patience import patient

pytestmark = pytest.mark.host

FOREVER = "ebfe"  # jmp $


def test_immediate_exit_returns_at_once(vm: Vm) -> None:
    with Guest(vm, FOREVER) as guest:
        guest.vcpu.run.immediate_exit = True

        assert guest.vcpu.run_once() == errno.EINTR
        assert guest.vcpu.run.immediate_exit  # KVM leaves the flag alone


def test_immediate_exit_in_a_fresh_process_returns_within_a_second() -> None:
    """From Python 3.14 on fcntl.ioctl repeats a call that ended with EINTR, for ever: KVM_RUN must not use it."""
    program = textwrap.dedent(
        """
        import time
        from kvmapi import Kvm
        with Kvm.open() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
            vcpu.run.immediate_exit = True
            start = time.monotonic()
            result = vcpu.run_once()
            print(result, time.monotonic() - start < 1.0)
        """
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=patient(60)
    )

    assert (done.stdout, done.stderr) == (f"{errno.EINTR} True\n", "")


@pytest.mark.parametrize("round_", range(20))
def test_a_kick_always_brings_the_thread_back(vm: Vm, round_: int) -> None:
    """The flag first, then the signal: no window between the thread's last look and the kernel."""
    results: list[int] = []
    with Guest(vm, FOREVER) as guest:
        thread = threading.Thread(target=lambda: results.append(guest.vcpu.run_once()))
        thread.start()
        time.sleep(round_ * 0.0002)  # from before the ioctl to well inside the guest
        guest.vcpu.run.immediate_exit = True
        if thread.ident is not None and thread.is_alive():
            signal.pthread_kill(thread.ident, KICK)
        thread.join(patient(10))

        assert not thread.is_alive()
        assert results == [errno.EINTR]


def test_a_signal_let_through_by_the_mask_needs_no_handler(vm: Vm) -> None:
    results: list[int] = []

    def run(guest: Guest) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        guest.vcpu.set_signal_mask(())
        results.append(guest.vcpu.run_once())
        taken = signal.sigtimedwait({signal.SIGUSR2}, patient(5))
        results.append(0 if taken is None else taken.si_signo)

    with Guest(vm, FOREVER) as guest:
        thread = threading.Thread(target=run, args=(guest,))
        thread.start()
        time.sleep(0.05)
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGUSR2)
        thread.join(patient(10))
        if thread.is_alive():  # leave nothing spinning behind a failed test
            guest.vcpu.run.immediate_exit = True
            signal.pthread_kill(thread.ident, KICK)
            thread.join(patient(10))

    assert results == [errno.EINTR, signal.SIGUSR2]
