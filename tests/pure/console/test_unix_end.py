# SPDX-License-Identifier: Apache-2.0
"""`--serial unix:PATH` where a socket file lies already."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from vmm.console.ends import LineError, UnixEnd


@contextmanager
def listener(path: Path, backlog: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(backlog)
        yield listening


def fill(path: Path, stack: ExitStack) -> None:
    """Connect until the listener's queue takes no more."""
    while True:
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return


def refusal(path: Path) -> list[str]:
    """What a second run is told, empty while it waits."""
    told: list[str] = []

    def start() -> None:
        with pytest.raises(LineError) as error:
            UnixEnd(str(path), lambda line: None)
        told.append(str(error.value))

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(2)
    return told


def test_a_busy_listener_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with listener(path, backlog=0), ExitStack() as clients:
        fill(path, clients)

        told = refusal(path)

        assert told == [f"--serial unix:{path}: another program listens there: choose another path"]
        assert path.is_socket()


def test_a_listener_is_somebodys_and_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with listener(path, backlog=1) as listening:
        told = refusal(path)

        assert told == [f"--serial unix:{path}: another program listens there: choose another path"]
        assert path.is_socket()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            listening.accept()


def test_a_socket_of_another_type_is_somebodys(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))

        told = refusal(path)

        assert told == [f"--serial unix:{path}: another program listens there: choose another path"]
        assert path.is_socket()


def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with listener(path, backlog=1):
        pass

    end = UnixEnd(str(path), lambda line: None)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(str(path))
    end.close()
    assert not path.exists()
