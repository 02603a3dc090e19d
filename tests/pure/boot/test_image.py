# SPDX-License-Identifier: Apache-2.0
"""Opening files: what comes in, what is refused, that nothing stays open."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

import vmm.machine.boot.image as image_module
from vmm.machine.boot import BootError, Image, open_image


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def refusal(path: Path | str) -> str:
    before = open_descriptors()
    with pytest.raises(BootError) as caught:
        open_image(str(path))
    assert open_descriptors() == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_file_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(bytes(range(256)) * 100)
    before = open_descriptors()
    image = open_image(str(file))
    assert image.path == str(file)
    assert image.size == 25600
    assert bytes(image.part(0x100, 3, "three bytes")) == b"\0\1\2"
    assert open_descriptors() == before


def test_a_file_that_is_cut_short_later_changes_nothing(tmp_path: Path) -> None:
    """A mapping would end the process with SIGBUS here, at the guest's next reset."""
    file = tmp_path / "kernel"
    file.write_bytes(b"a kernel")
    image = open_image(str(file))
    os.truncate(file, 0)
    assert bytes(image.part(0, 8, "all")) == b"a kernel"


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    with file.open("wb") as sparse:
        sparse.truncate((4 << 30) + 1)
    assert "at most 4096 MiB" in refusal(file)


def test_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    data = bytes(100_000)  # more than a pipe holds

    def write() -> None:
        os.write(writer, data)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert open_image(f"/dev/fd/{reader}").size == len(data)
    finally:
        thread.join()
        os.close(reader)


def test_endless_pipe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "LIMIT_BYTES", 16)
    reader, writer = os.pipe()
    os.write(writer, bytes(17))
    os.close(writer)
    try:
        assert "at most" in refusal(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").endswith("none: cannot be opened: No such file or directory")


@pytest.mark.parametrize(
    ("call", "number", "expected"),
    [
        ("os.open", errno.EACCES, "cannot be opened: Permission denied"),
        ("os.open", errno.ELOOP, "cannot be opened: Too many levels of symbolic links"),
        ("builtins.open", errno.EIO, "cannot be read: Input/output error"),
    ],
)
def test_failing_system_call_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: str
) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)  # root, who may run this, is refused nothing by a file's mode
    assert expected in refusal(file)


def test_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    assert "is empty" in refusal(file)


def test_empty_pipe_is_refused() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    try:
        assert "is empty" in refusal(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


def test_device_is_refused() -> None:
    assert "is a device or a socket" in refusal("/dev/zero")


def test_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "cannot be opened" in refusal(tmp_path / "socket")


def test_nul_in_a_name_is_refused() -> None:
    assert "is no file name" in refusal("a\0b")


def test_line_break_in_a_name_stays_on_one_line(tmp_path: Path) -> None:
    assert "\\n" in refusal(tmp_path / "a\nb")


@pytest.mark.parametrize(("offset", "size"), [(0, 4), (3, 1), (-1, 1), (1, -1), (1 << 64, 1), (0, 1 << 64)])
def test_part_outside_the_file_is_refused(offset: int, size: int) -> None:
    with pytest.raises(BootError, match=r"^k: the header should lie at .* only 0x3 bytes"):
        Image("k", b"abc").part(offset, size, "the header")
