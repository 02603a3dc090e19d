# SPDX-License-Identifier: Apache-2.0
"""The kick signal, where the host has no room for another one."""

from __future__ import annotations

import resource
import signal
import threading

import pytest

from vmm.backend import kick


def test_a_full_queue_of_signals_is_kick_enough() -> None:
    """Real-time signals queue up, and RLIMIT_SIGPENDING bounds how many wait in all of a user's processes."""
    kick.install()
    before = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    blocked, end = threading.Event(), threading.Event()

    def wait_without_taking_any() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {kick.KICK_SIGNAL})
        blocked.set()
        end.wait()

    thread = threading.Thread(target=wait_without_taking_any)
    thread.start()
    blocked.wait()
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (8, before[1]))
    try:
        for _ in range(10_000):
            kick.kick(thread)
        with pytest.raises(BlockingIOError):  # there is indeed no room
            signal.pthread_kill(thread.ident or 0, kick.KICK_SIGNAL)
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, before)
        end.set()
        thread.join()
