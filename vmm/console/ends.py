# SPDX-License-Identifier: Apache-2.0
"""`--serial`: the file, pseudo-terminal and unix-socket ends, and how the option names them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
import tty
from collections.abc import Callable

from vmm.console.line import LineEnd, PeerClosedError

# Output that comes while no client is connected is kept for the next one, up to this; older output goes first.
UNIX_BACKLOG_BYTES = 64 << 10

Tell = Callable[[str], None]  # prints one line for the user


class LineError(ValueError):
    """`--serial` names an end that cannot be had: one line that says why and what would do."""


class FileEnd(LineEnd):
    """Output into a file, which is replaced; no input."""

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            self.output_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self.close()
            raise LineError(f"--serial file:{path}: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Append to the file. Errors: `PeerClosedError` (a full disk, a reader-less FIFO)."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.output_fd, view) :]
            except OSError as error:
                raise PeerClosedError(f"the guest's output cannot be written: {error.strerror}") from error

    def _close_descriptors(self) -> None:
        if self.output_fd >= 0:
            os.close(self.output_fd)


class PtyEnd(LineEnd):
    """A pseudo-terminal; its name is told to the user. Output that nobody reads is dropped once it is full."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self.input_fd, self._slave_fd = os.openpty()
        # We keep the slave side open ourselves: otherwise each client that leaves would end the line.
        tty.setraw(self._slave_fd)
        os.set_blocking(self.input_fd, False)
        self.output_fd = self.input_fd
        tell(f"serial line on {os.ttyname(self._slave_fd)}")

    def write(self, data: bytes) -> None:
        """Send as much as the terminal's buffer takes."""
        with contextlib.suppress(BlockingIOError):  # nobody reads: a real serial line would lose it as well
            os.write(self.output_fd, data)

    def _close_descriptors(self) -> None:
        os.close(self.input_fd)
        os.close(self._slave_fd)


class UnixEnd(LineEnd):
    """A listening unix socket, one client at a time. A client that leaves makes room for the next."""

    def __init__(self, path: str, tell: Tell) -> None:
        super().__init__()
        self._path = path
        self._tell = tell
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._backlog = bytearray()
        self._bound = False  # the socket file is ours to remove
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _remove_stale_socket(path)
            self._listener.bind(path)
            self._bound = True
            self._listener.listen(1)
        except OSError as error:
            self.close()
            raise LineError(f"--serial unix:{path}: {error.strerror or error}") from error
        self.input_fd = self._listener.fileno()
        tell(f"serial line on unix socket {path}")

    def write(self, data: bytes) -> None:
        """Send to the client, or keep for the next one."""
        with self._lock:
            if self._client is None:
                self._keep(data)
                return
            fd = self._client.fileno()
            try:
                self._write_fd(fd, data)
            except PeerClosedError:
                self._keep(data)  # the reader thread sees the hang-up and lets the client go

    def _keep(self, data: bytes) -> None:
        self._backlog += data
        del self._backlog[:-UNIX_BACKLOG_BYTES]

    def _read_loop(self, receive: Callable[[bytes], int]) -> None:
        while (client := self._accept()) is not None:
            self._serve(client, receive)

    def _accept(self) -> socket.socket | None:
        readable, _, _ = select.select([self._listener.fileno(), self._cancel.fd], [], [])
        if self._cancel.fd in readable:
            return None
        client, _ = self._listener.accept()
        with self._lock:
            self._client = client
            backlog, self._backlog = bytes(self._backlog), bytearray()
        self.write(backlog)
        return client

    def _serve(self, client: socket.socket, receive: Callable[[bytes], int]) -> None:
        while True:
            readable, _, _ = select.select([client.fileno(), self._cancel.fd], [], [])
            if self._cancel.fd in readable:
                data = b""
            else:
                try:
                    data = client.recv(1024)
                except OSError:
                    data = b""
            if not data:
                break
            self._deliver(data, receive)
        with self._lock:
            self._client = None
        client.close()
        if not self._cancel.is_set():
            self._tell(f"the client of unix socket {self._path} left; the guest goes on, another may connect")

    def _close_descriptors(self) -> None:
        self._listener.close()
        if self._bound:
            with contextlib.suppress(FileNotFoundError):  # somebody tidied up before us
                os.unlink(self._path)


def _remove_stale_socket(path: str) -> None:
    """Remove a socket file that an earlier run left behind; one that answers is somebody's."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(17, "the path exists and is no socket: choose another")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise FileExistsError(17, "another program listens there: choose another path")
