# SPDX-License-Identifier: Apache-2.0
"""One child process that runs one guest: its output as it comes, its time limit, its certain end.

A child gets a session, and so a process group, of its own: all that it may start ends with it, and a Ctrl-C at
the terminal reaches only us. It gets PR_SET_PDEATHSIG too, so that even a SIGKILL of ours leaves no guest behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from enum import Enum

from vmm.guesttest.console import BoundedLog, Console

READ_BYTES = 64 << 10
TERM_GRACE_S = 3.0  # between SIGTERM and SIGKILL: time to write how the run ended
DONE_LINGER_S = 1.0  # after `--- DONE ---`, the last thing a guest says; it then halts for ever
ERROR_HEAD_BYTES = 16 << 10  # of standard error, kept: its beginning ...
ERROR_TAIL_BYTES = 64 << 10  # ... and its end

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class EndedBy(Enum):
    """Why a child ended."""

    ITSELF = "itself"
    TIME_LIMIT = "time limit"
    DONE_LINE = "done line"
    STUCK = "stuck"
    STOPPED = "stopped by the user"


class Child:
    """A started process. Drive it with `on_output`, `on_errors`, `on_exit` when its descriptors are readable.

    Not thread-safe. Whoever makes one calls `close` in the end, whatever happens in between.
    """

    def __init__(self, argv: Sequence[str], limit_s: float, is_stuck: Callable[[bytes], bool]) -> None:
        """limit_s: seconds until the child is ended from outside, 0 for none. Errors: `OSError`."""
        self.console = Console()
        self.errors = BoundedLog(ERROR_HEAD_BYTES, ERROR_TAIL_BYTES)
        self.ended_by = EndedBy.ITSELF
        self.returncode: int | None = None
        self._is_stuck = is_stuck
        self.started = time.monotonic()
        self.ended = self.started
        self._kill_at: float | None = None
        self._deadline = self.started + limit_s if limit_s else None
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,  # two system calls, nothing that another thread could hold a lock of
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.output_fd = self._process.stdout.fileno()
        self.errors_fd = self._process.stderr.fileno()
        os.set_blocking(self.output_fd, False)
        os.set_blocking(self.errors_fd, False)
        self.exit_fd = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """The process id, which is the process group's too."""
        return self._process.pid

    @property
    def next_deadline(self) -> float | None:
        """When (`time.monotonic`) `on_time` has something to do."""
        times = [at for at in (self._deadline, self._kill_at) if at is not None]
        return min(times, default=None)

    def on_output(self) -> bool:
        """Read what the guest printed; False when nothing more can come."""
        data = _read(self.output_fd)
        if data is None:
            return True
        self.console.feed(data)
        if self.console.done_code is not None and self.ended_by is EndedBy.ITSELF and self._kill_at is None:
            self._deadline = min(self._deadline or float("inf"), time.monotonic() + DONE_LINGER_S)
        return bool(data)

    def on_errors(self) -> bool:
        """Read the standard error; False when nothing more can come."""
        data = _read(self.errors_fd)
        if data is None:
            return True
        self.errors.feed(data)
        if self.ended_by is EndedBy.ITSELF and self._is_stuck(self.errors.content()):
            self.stop(EndedBy.STUCK)
        return bool(data)

    def on_time(self, now: float) -> None:
        """Do what is due at `now`: the time limit, or the end of a SIGTERM's grace."""
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._signal(signal.SIGKILL)
                self._kill_at = None
        elif self._deadline is not None and now >= self._deadline:
            done = self.console.done_code is not None
            self.stop(EndedBy.DONE_LINE if done else EndedBy.TIME_LIMIT)

    def stop(self, reason: EndedBy) -> None:
        """End the child from outside: SIGTERM now, SIGKILL after a grace. No effect on one that has ended."""
        if self.returncode is not None or self.ended_by is not EndedBy.ITSELF:
            return
        self.ended_by = reason
        self._deadline = None
        self._kill_at = time.monotonic() + TERM_GRACE_S
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child at once."""
        self._signal(signal.SIGKILL)

    def on_exit(self) -> None:
        """The process has ended: end the rest of its group, read what is left in its pipes."""
        self.ended = time.monotonic()
        self._signal(
            signal.SIGKILL
        )  # before it is reaped: until then nobody else can have its group's number
        self.returncode = self._process.wait()
        while (data := _read(self.output_fd)) not in (None, b""):
            self.console.feed(data or b"")
        while (data := _read(self.errors_fd)) not in (None, b""):
            self.errors.feed(data or b"")
        self.console.finish()

    def close(self) -> None:
        """Leave no process and no descriptor behind. May be called again."""
        if self.returncode is None:
            self.kill()
            self.returncode = self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            self.exit_fd = -1

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            self._process.send_signal(number)  # it has not come to setsid() yet, or has just ended


def _read(fd: int) -> bytes | None:
    """What can be read now: b"" at the end, None when nothing is there yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
