# SPDX-License-Identifier: Apache-2.0
"""Getting a thread out of `KVM_RUN`: the kick signal.

`immediate_exit` in the mapped kvm_run closes the race before the ioctl, the signal ends one under way
(api.rst KVM_RUN, `immediate_exit`). The handler does nothing: only the interruption counts.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType

# The last real-time signal: neither the C library's own (the first two) nor one a program is likely to use.
KICK_SIGNAL = signal.SIGRTMAX

AGAIN_S = 0.1
"""After how long one who waits for a kicked thread kicks it again: the first may have had no room in the queue."""


class KickError(RuntimeError):
    """The kick signal's handler cannot be installed here; says from where it can."""


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Exists so that the signal interrupts a system call instead of ending the process."""


def install() -> None:
    """Install the handler. Idempotent. Errors: `KickError` when first called off the main thread."""
    if signal.getsignal(KICK_SIGNAL) is _ignore:
        return
    if threading.current_thread() is not threading.main_thread():
        raise KickError(
            "the first machine must be made on the main thread: Python installs signal handlers only there"
        )
    signal.signal(KICK_SIGNAL, _ignore)


def kick(thread: threading.Thread) -> None:
    """Interrupt `thread`'s system call; harmless when it is in none, or not started yet.

    The caller makes sure that it cannot end meanwhile: a thread's id is a pointer that its end makes invalid. Who
    relies on it has to kick again (`AGAIN_S`): the queue of signals is one for all processes of a user
    (RLIMIT_SIGPENDING), and where it is full the kick is lost, though none for this thread may be in it.
    """
    if thread.ident is not None:
        with contextlib.suppress(BlockingIOError):
            signal.pthread_kill(thread.ident, KICK_SIGNAL)
