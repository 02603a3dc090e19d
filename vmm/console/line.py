# SPDX-License-Identifier: Apache-2.0
"""A serial line's outer end over file descriptors: bounded, interruptible, never blocking the VMM for ever."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

from vmm.backend import host_thread

# A pipe that poll() calls writable takes this much without blocking (POSIX PIPE_BUF).
WRITE_CHUNK_BYTES = 4096
READ_CHUNK_BYTES = 1024

# Input that the guest has not taken yet. A pipe waits then; what is typed beyond it is dropped, so that the escape
# sequence always gets through.
INPUT_BACKLOG_BYTES = 64 << 10

Receive = Callable[[bytes], int]  # hands input to the UART; how many bytes it took


class PeerClosedError(Exception):
    """Whoever read the guest's output went away. The message is one line for the user.

    rest: what had not been written yet.
    """

    def __init__(self, message: str, rest: bytes = b"") -> None:
        super().__init__(message)
        self.rest = rest


class Latch:
    """An eventfd that poll() sees as readable once it was set. Safe to set from a signal handler."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake whoever polls, now or later."""
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget that it was set."""
        with contextlib.suppress(BlockingIOError):  # it was not
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the eventfd. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LineEnd:
    """The base of all ends: output discarded, no input. Subclasses set the descriptors.

    `write` is called by VP threads and by the UART's timer; `start_input` makes the thread that reads.
    """

    input_is_typed = False  # a person's keys: never leave them unread, rather drop what is too much

    def __init__(self) -> None:
        self.output_fd = -1
        self.input_fd = -1
        self._cancel = Latch()
        self._room = Latch()
        self._thread: threading.Thread | None = None
        self._closed = False

    def write(self, data: bytes) -> None:
        """Send what the guest sent. Waits while the reader is slow, until `cancel`. Errors: `PeerClosedError`."""
        if self.output_fd >= 0:
            self._write_fd(self.output_fd, data)

    def start_input(self, receive: Receive) -> None:
        """Read the input in a thread of its own and hand it to `receive`; `room` says when to try again."""
        if self.input_fd >= 0:
            self._thread = threading.Thread(
                target=self._run_input, args=(receive,), name="vmm-console", daemon=True
            )
            self._thread.start()

    def room(self) -> None:
        """The UART has room again."""
        self._room.set()

    def cancel(self) -> None:
        """Let no `write` wait any longer, and read no more: the run is ending. Safe in a signal handler."""
        self._cancel.set()

    def stop_input(self) -> None:
        """Wait until nothing more is handed to `receive`. The board may be closed then. Idempotent."""
        self._cancel.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Stop reading, give everything back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.stop_input()
        try:
            self._close_descriptors()
        finally:
            self._cancel.close()
            self._room.close()

    def _close_descriptors(self) -> None:
        """Close what the subclass opened."""

    def filter_input(self, data: bytes) -> bytes:
        """What of `data` is for the guest."""
        return data

    def input_ended(self) -> None:
        """There is no more input; the guest goes on without."""

    def _run_input(self, receive: Receive) -> None:
        host_thread.tell_name()
        self._read_input(receive)

    def _read_input(self, receive: Receive) -> None:
        """The thread: one source of input for the whole run."""
        if self._serve_input(self.input_fd, lambda: os.read(self.input_fd, READ_CHUNK_BYTES), receive):
            self.input_ended()

    def _serve_input(self, fd: int, read: Callable[[], bytes], receive: Receive) -> bool:
        """Hand on what `fd` gives until it ends and all is taken. False: `cancel` came first."""
        pending = bytearray()
        open_ = True
        while open_ or pending:
            wanted = open_ and (self.input_is_typed or len(pending) < INPUT_BACKLOG_BYTES)
            ready = self._poll({fd: select.POLLIN if wanted else 0} if open_ else {}, self._room.fd)
            if self._cancel.fd in ready:
                return False
            if self._room.fd in ready:
                self._room.clear()
            if fd in ready and wanted:
                data = _read_or_end(read)
                open_ = bool(data)
                pending += self.filter_input(data)
                del pending[INPUT_BACKLOG_BYTES:]
            elif fd in ready:
                open_ = False  # it hung up while we were not reading
            if pending:
                del pending[: receive(bytes(pending))]
        return True

    def _poll(self, events: dict[int, int], *latches: int) -> dict[int, int]:
        """Wait for `events` (by descriptor), one of the latches or `cancel`; what is ready."""
        poll = select.poll()
        for fd, mask in events.items():
            poll.register(fd, mask)
        for latch in (*latches, self._cancel.fd):
            poll.register(latch, select.POLLIN)
        return dict(poll.poll())

    def _write_fd(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            ready = self._poll({fd: select.POLLOUT})
            if ready.get(fd, 0) & select.POLLOUT:
                try:
                    view = view[os.write(fd, view[:WRITE_CHUNK_BYTES]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    message = f"the guest's output cannot be written: {error.strerror}"
                    raise PeerClosedError(message, bytes(view)) from error
            elif ready.get(fd, 0):  # POLLERR or POLLHUP without POLLOUT
                raise PeerClosedError("the reader of the guest's output went away", bytes(view))
            elif self._cancel.fd in ready:
                return


def _read_or_end(read: Callable[[], bytes]) -> bytes:
    """The next piece; empty at the end, of whatever kind it is."""
    try:
        return read()
    except OSError:
        return b""
