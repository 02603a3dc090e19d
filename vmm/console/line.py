# SPDX-License-Identifier: Apache-2.0
"""A serial line's outer end over file descriptors: bounded, interruptible, never blocking the VMM for ever."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

# A pipe that poll() calls writable takes this much without blocking (POSIX PIPE_BUF).
WRITE_CHUNK_BYTES = 4096
READ_CHUNK_BYTES = 1024

Receive = Callable[[bytes], int]  # hands input to the UART; how many bytes it took


class PeerClosedError(Exception):
    """Whoever read the guest's output went away. The message is one line for the user."""


class Cancel:
    """An eventfd that wakes every `wait` for good once `set`. Safe to set from a signal handler."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake all waiters, now and later."""
        os.eventfd_write(self.fd, 1)

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return bool(select.select([self.fd], [], [], 0)[0])

    def close(self) -> None:
        """Close the eventfd. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LineEnd:
    """The base of all ends: output discarded, no input. Subclasses set the descriptors.

    `write` is called by VP threads and by the UART's timer; `start_input` makes the thread that reads.
    """

    def __init__(self) -> None:
        self.output_fd = -1
        self.input_fd = -1
        self._cancel = Cancel()
        self._thread: threading.Thread | None = None
        self._room = threading.Event()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Send what the guest sent. Blocks while the reader is slow, until `cancel`.

        Errors: `PeerClosedError`.
        """
        if self.output_fd >= 0:
            self._write_fd(self.output_fd, data)

    def start_input(self, receive: Receive) -> None:
        """Read the input in a thread of its own and hand it to `receive`; `room` says when to try again."""
        if self.input_fd >= 0:
            self._thread = threading.Thread(
                target=self._read_loop, args=(receive,), name="vmm-console", daemon=True
            )
            self._thread.start()

    def room(self) -> None:
        """The UART has room again."""
        self._room.set()

    def cancel(self) -> None:
        """Let no `write` wait any longer: the run is ending. Safe in a signal handler."""
        self._cancel.set()

    def close(self) -> None:
        """Stop reading, give everything back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._cancel.set()
        self._room.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._close_descriptors()
        self._cancel.close()

    def _close_descriptors(self) -> None:
        """Close what the subclass opened."""

    def _read_loop(self, receive: Receive) -> None:
        while True:
            readable, _, _ = select.select([self.input_fd, self._cancel.fd], [], [])
            if self._cancel.fd in readable:
                return
            try:
                data = os.read(self.input_fd, READ_CHUNK_BYTES)
            except OSError:
                data = b""
            if not data:
                if not self.input_ended():
                    return
                continue
            self._deliver(self.filter_input(data), receive)

    def _deliver(self, data: bytes, receive: Receive) -> None:
        while data and not self._closed:
            self._room.clear()
            taken = receive(data)
            data = data[taken:]
            if data:
                self._room.wait()

    def filter_input(self, data: bytes) -> bytes:
        """What of `data` is for the guest."""
        return data

    def input_ended(self) -> bool:
        """The input is at its end. True: there is a new one in `input_fd`, read on."""
        return False

    def _write_fd(self, fd: int, data: bytes) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.register(self._cancel.fd, select.POLLIN)
        view = memoryview(data)
        while view:
            ready = dict(poll.poll())
            if ready.get(fd, 0) & select.POLLOUT:
                try:
                    view = view[os.write(fd, view[:WRITE_CHUNK_BYTES]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise PeerClosedError(
                        f"the guest's output cannot be written: {error.strerror}"
                    ) from error
            elif ready.get(fd, 0):  # POLLERR or POLLHUP without POLLOUT
                raise PeerClosedError("the reader of the guest's output went away")
            elif self._cancel.fd in ready:
                return
