# SPDX-License-Identifier: Apache-2.0
"""`--serial`: the file, pseudo-terminal and unix-socket ends, and how the option names them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import threading
import tty
from collections.abc import Callable, Sequence

from vmm.console.line import READ_CHUNK_BYTES, LineEnd, PeerClosedError, Receive

# Output that comes while no client is connected is kept for the next one, up to this; older output goes first.
UNIX_BACKLOG_BYTES = 64 << 10

Tell = Callable[[str], None]  # prints one line for the user


class LineError(ValueError):
    """`--serial` names an end that cannot be had: one line that says why and what would do."""


class FileEnd(LineEnd):
    """Output into a file, which is emptied when the guest starts; no input."""

    def __init__(self, path: str, keep: Sequence[str]) -> None:
        """keep: files that must not be written to, the guest's own."""
        super().__init__()
        try:
            # Without O_NONBLOCK a FIFO would be waited for here, where nothing can end the wait.
            self.output_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            mine = os.fstat(self.output_fd)
            for other in keep:
                with contextlib.suppress(OSError):  # one that is missing is told of later
                    if os.path.samestat(mine, os.stat(other)):
                        raise LineError(f"--serial file:{path}: this is the guest's own file {other}")
        except OSError as error:
            self.close()
            reason = "nobody reads this FIFO" if error.errno == errno.ENXIO else error.strerror
            raise LineError(f"--serial file:{path}: {reason}") from error
        except BaseException:
            self.close()
            raise

    def start_input(self, receive: Receive) -> None:
        """Empty the file: now there is a guest whose output takes its place."""
        if stat.S_ISREG(os.fstat(self.output_fd).st_mode):
            os.ftruncate(self.output_fd, 0)

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
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _remove_stale_socket(path)
            self._listener.bind(path)
            self._listener.listen(1)
            tell(f"serial line on unix socket {path}")
        except OSError as error:
            self.close()
            raise LineError(f"--serial unix:{path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.input_fd = self._listener.fileno()

    def write(self, data: bytes) -> None:
        """Send to the client, or keep for the next one."""
        with self._lock:
            if self._client is None:
                self._keep(data)
                return
            try:
                self._write_fd(self._client.fileno(), data)
            except PeerClosedError as closed:
                self._keep(closed.rest)  # the reader thread sees the hang-up and lets the client go

    def _keep(self, data: bytes) -> None:
        self._backlog += data
        del self._backlog[:-UNIX_BACKLOG_BYTES]

    def _read_input(self, receive: Receive) -> None:
        while (client := self._accept()) is not None:
            try:
                going_on = self._serve_client(client, receive)
            finally:
                with self._lock:
                    self._client = None
                client.close()
            if not going_on:
                return
            self._tell(f"the client of unix socket {self._path} left; the guest goes on, another may connect")

    def _accept(self) -> socket.socket | None:
        ready = self._poll({self._listener.fileno(): select.POLLIN})
        if self._cancel.fd in ready:
            return None
        client, _ = self._listener.accept()
        with self._lock:
            self._client = client
            backlog, self._backlog = bytes(self._backlog), bytearray()
        self.write(backlog)
        return client

    def _serve_client(self, client: socket.socket, receive: Receive) -> bool:
        """Until the client has hung up; one that only ends its input still gets output. False: cancelled."""
        fd = client.fileno()
        if not self._serve_input(fd, lambda: client.recv(READ_CHUNK_BYTES), receive):
            return False
        return self._cancel.fd not in self._poll({fd: 0})

    def _close_descriptors(self) -> None:
        try:
            bound = bool(self._listener.getsockname())  # the socket file is ours to remove
        except OSError:
            bound = False
        self._listener.close()
        if bound:
            with contextlib.suppress(FileNotFoundError):  # somebody tidied up before us
                os.unlink(self._path)


def _remove_stale_socket(path: str) -> None:
    """Remove a socket file that an earlier run left behind; one with a socket behind it is somebody's.

    Asked with a socket of another type: it cannot be connected to a listener (EPROTOTYPE, unix(7)), so it neither waits
    where too many clients do nor is taken for one.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(17, "the path exists and is no socket: choose another")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise FileExistsError(17, "another program listens there: choose another path")
