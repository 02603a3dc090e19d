# SPDX-License-Identifier: Apache-2.0
"""The serial line's outer ends, each with a guest that talks back."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.run.launch import command, guest, vmm_run
from tests.patience import patient

pytestmark = pytest.mark.host
WATCHDOG_S = patient(20)
END_ECHO = b"\x04"


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        command("run", *arguments, "--time-limit", "15"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def read_until(read: object, words: bytes) -> bytes:
    """Read with `read(size)` until `words` came."""
    assert callable(read)
    data = b""
    deadline = time.monotonic() + WATCHDOG_S
    while words not in data:
        assert time.monotonic() < deadline, data
        piece = read(1024)
        assert piece, data
        data += piece
    return data


def wait_for_prompt(child: subprocess.Popen[bytes]) -> None:
    """The guest has set up its UART; before that it throws away what was received, as on hardware."""
    assert child.stdout is not None
    assert b"echo" in child.stdout.readline()


def test_input_from_a_pipe_reaches_the_guest() -> None:
    with running(guest("echo")) as child:
        wait_for_prompt(child)
        out, _ = child.communicate(b"one two three" + END_ECHO, timeout=WATCHDOG_S)

    assert b"one two three" in out
    assert child.returncode == 1


def test_more_input_than_the_uart_takes_is_not_lost() -> None:
    text = bytes(65 + i % 26 for i in range(20_000))

    with running(guest("echo")) as child:
        wait_for_prompt(child)
        out, _ = child.communicate(text + END_ECHO, timeout=WATCHDOG_S)

    assert text in out.replace(b"\r\n", b"")


def test_file(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text("what an earlier run left")

    result = vmm_run(guest("dummy"), "--serial", f"file:{log}")

    assert (result.returncode, result.stdout) == (1, "")
    assert log.read_text().startswith("PASS: ") and "SUMMARY" in log.read_text()


def test_none() -> None:
    result = vmm_run(guest("dummy"), "--serial", "none")

    assert (result.returncode, result.stdout) == (1, "")


def test_pty() -> None:
    with running(guest("echo"), "--serial", "pty") as child:
        assert child.stderr is not None
        told = child.stderr.readline().decode()
        match = re.search(r"/dev/pts/\d+", told)
        assert match, told
        fd = os.open(match.group(), os.O_RDWR | os.O_NOCTTY)
        try:
            read_until(lambda size: os.read(fd, size), b"\n")  # before it, the guest drops its input
            os.write(fd, b"over the terminal")
            data = read_until(lambda size: os.read(fd, size), b"over the terminal")
            os.write(fd, END_ECHO)
            status = child.wait(timeout=WATCHDOG_S)
        finally:
            os.close(fd)

    assert b"over the terminal" in data and status == 1


def test_unix_socket_keeps_what_came_before_the_client(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with running(guest("echo"), "--serial", f"unix:{path}") as child:
        assert child.stderr is not None
        assert str(path).encode() in child.stderr.readline()
        time.sleep(0.5)  # the guest has printed its first line to nobody
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WATCHDOG_S)
            client.connect(str(path))
            first = read_until(client.recv, b"\n")
        assert b"left" in child.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WATCHDOG_S)
            client.connect(str(path))
            client.sendall(b"second client")
            second = read_until(client.recv, b"second client")
            client.sendall(END_ECHO)
            status = child.wait(timeout=WATCHDOG_S)

    assert b"echo" in first and b"second client" in second
    assert status == 1
    assert not path.exists()


def test_a_socket_in_use_is_refused_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        refused = vmm_run(guest("dummy"), "--serial", f"unix:{path}")
    stale = vmm_run(guest("dummy"), "--serial", f"unix:{path}")

    assert refused.returncode == 2 and "another program listens" in refused.stderr
    assert stale.returncode == 1
    assert not path.exists()


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("keep")

    result = vmm_run(guest("dummy"), "--serial", f"unix:{path}")

    assert result.returncode == 2 and "no socket" in result.stderr
    assert path.read_text() == "keep"
