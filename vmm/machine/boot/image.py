# SPDX-License-Identifier: Apache-2.0
"""A kernel or initrd file as bytes that can be looked at, and the one error of this package.

Every offset and size a file's header names is checked against the file in `Image.part`, nowhere else.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import BinaryIO

from vmm.outside import Buffer

LIMIT_BYTES = 4 << 30
"""Most bytes of one file: a kernel and its initrd lie below 4 GiB. Bounds what a pipe can make us read, too."""
CHUNK_BYTES = 1 << 20  # of a FIFO, at a time


class BootError(Exception):
    """A guest image cannot be booted. One line: the file, what was expected, what was found, what to do."""


def printable(name: str) -> str:
    """`name` as it can stand in a one-line message."""
    return name if name.isprintable() else repr(name)


@dataclass(frozen=True)
class Image:
    """The bytes of a file. `path` is what the user typed; it is also a multiboot guest's `argv[0]`.

    A copy, not a mapping: a file that is rebuilt or cut short under a running guest changes nothing.
    """

    path: str
    data: Buffer

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self.data)

    def error(self, text: str) -> BootError:
        """The error `text` about this file."""
        return BootError(f"{printable(self.path)}: {text}")

    def part(self, offset: int, size: int, what: str) -> memoryview:
        """`size` bytes at `offset`, without a copy.

        Errors: `BootError` that calls them `what` when the file ends before them.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.error(
                f"{what} should lie at file offset {offset:#x}, {size:#x} bytes long, but the file has only "
                f"{self.size:#x} bytes: it is truncated or corrupt"
            )
        return memoryview(self.data)[offset : offset + size]

    def head(self, size: int) -> bytes:
        """A copy of the first `size` bytes, or of the whole file when it is shorter."""
        return bytes(memoryview(self.data)[:size])

    def u8(self, offset: int, what: str) -> int:
        """The byte at `offset`. Errors: as `part`."""
        return self.part(offset, 1, what)[0]

    def u16(self, offset: int, what: str) -> int:
        """The little-endian 16-bit number at `offset`. Errors: as `part`."""
        return int.from_bytes(self.part(offset, 2, what), "little")

    def u32(self, offset: int, what: str) -> int:
        """The little-endian 32-bit number at `offset`. Errors: as `part`."""
        return int.from_bytes(self.part(offset, 4, what), "little")

    def u64(self, offset: int, what: str) -> int:
        """The little-endian 64-bit number at `offset`. Errors: as `part`."""
        return int.from_bytes(self.part(offset, 8, what), "little")


def open_image(path: str) -> Image:
    """The file at `path`, read whole; a pipe is read to its end.

    Errors: `BootError` when it is missing, unreadable, empty, neither a file nor a pipe, or has more than
    `LIMIT_BYTES`.
    """
    name = printable(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BootError(f"{name}: cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise BootError(f"{name}: is no file name: {error}") from error
    try:
        return _open_descriptor(path, name, descriptor)
    except OSError as error:
        raise BootError(f"{name}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _open_descriptor(path: str, name: str, descriptor: int) -> Image:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise BootError(f"{name}: is a directory: name a kernel or initrd file")
    if not stat.S_ISFIFO(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise BootError(f"{name}: is a device or a socket: name a kernel or initrd file")
    if status.st_size > LIMIT_BYTES:
        raise BootError(f"{name}: has {status.st_size >> 20} MiB, at most {LIMIT_BYTES >> 20} MiB are loaded")
    with open(descriptor, "rb", closefd=False) as file:
        # Not read(LIMIT_BYTES + 1), which takes that much address space before it reads anything.
        data = file.read() if stat.S_ISREG(status.st_mode) else _read_bounded(file)
    if len(data) > LIMIT_BYTES:
        raise BootError(f"{name}: gives more than {LIMIT_BYTES >> 20} MiB, at most that is loaded")
    if not data:
        raise BootError(f"{name}: is empty: a kernel or initrd was expected")
    return Image(path, data)


def _read_bounded(file: BinaryIO) -> bytes:
    """All of a FIFO, or just more than `LIMIT_BYTES`."""
    chunks: list[bytes] = []
    size = 0
    while size <= LIMIT_BYTES and (chunk := file.read(CHUNK_BYTES)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def cstring(text: str, limit: int, what: str) -> bytes:
    """`text` as a guest reads it: its bytes and a NUL.

    Errors: `BootError` that calls it `what` when it is longer than `limit` bytes without the NUL, holds a
    NUL, or cannot be encoded.
    """
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BootError(f"{what} cannot be encoded: {error.reason} at character {error.start}") from error
    if b"\0" in encoded:
        raise BootError(f"{what} has a NUL character at byte {encoded.index(0)}: take it out")
    if len(encoded) > limit:
        raise BootError(f"{what} has {len(encoded)} bytes, the guest takes at most {limit}: shorten it")
    return encoded + b"\0"


def pack(layout: str, *values: int) -> bytes:
    """`struct.pack`, little-endian without padding."""
    return struct.pack("<" + layout, *values)
