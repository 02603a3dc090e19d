# SPDX-License-Identifier: Apache-2.0
"""A kernel or initrd file as bytes that can be looked at, and the one error of this package.

Every offset and size a file's header names is checked against the file in `Image.part`, nowhere else.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from vmm.outside import Buffer

PIPE_LIMIT_BYTES = 1 << 30
"""Most bytes read from a pipe (`--initrd <(...)`), whose length is not known beforehand."""


class BootError(Exception):
    """A guest image cannot be booted. One line: the file, what was expected, what was found, what to do."""


def printable(name: str) -> str:
    """`name` as it can stand in a one-line message."""
    return name if name.isprintable() else repr(name)


@dataclass(frozen=True)
class Image:
    """The bytes of a file. `path` is what the user typed; it is also a multiboot guest's `argv[0]`.

    A context manager; `close` unmaps the file. An image must outlive the `load` it is given to, not the VM.
    """

    path: str
    data: Buffer
    _mapping: mmap.mmap | None = field(default=None, repr=False, compare=False)

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

    def close(self) -> None:
        """Unmap the file. May be called more than once; the image cannot be read afterwards."""
        if isinstance(self.data, memoryview):
            self.data.release()
        if self._mapping is not None:
            try:
                self._mapping.close()
            except BufferError:
                # A part is still referenced (a debugger, a kept traceback). The map goes with the last one.
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_image(path: str) -> Image:
    """The file at `path`, mapped read-only; a pipe is read to its end. A mapped file must not shrink while open.

    Errors: `BootError` when it is missing, unreadable, empty, neither a file nor a pipe, or a pipe that gives
    more than `PIPE_LIMIT_BYTES`.
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
    if stat.S_ISFIFO(status.st_mode):
        with os.fdopen(os.dup(descriptor), "rb") as pipe:
            data = pipe.read(PIPE_LIMIT_BYTES + 1)
        if len(data) > PIPE_LIMIT_BYTES:
            raise BootError(f"{name}: the pipe gives more than {PIPE_LIMIT_BYTES >> 20} MiB: use a file")
    elif not stat.S_ISREG(status.st_mode):
        raise BootError(f"{name}: is a device or a socket: name a kernel or initrd file")
    elif status.st_size:
        mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        return Image(path, memoryview(mapping), mapping)
    else:
        data = b""
    if not data:
        raise BootError(f"{name}: is empty: a kernel or initrd was expected")
    return Image(path, data)


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
