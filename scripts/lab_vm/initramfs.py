# SPDX-License-Identifier: Apache-2.0
"""An initramfs in the "newc" cpio format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import gzip
import stat
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 4
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A file, folder, symbolic link or device. `mode` has the file type; a link's `content` is its target."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, content)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def make_cpio(entries: Sequence[Entry]) -> bytes:
    """The archive, its trailer included. Times are 0 and owners root, so equal entries give equal bytes."""
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry(TRAILER, 0)], start=1):
        name = entry.path.encode() + b"\0"
        major, minor = entry.device
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, major, minor, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % value for value in fields) + name
        archive += bytes(-len(archive) % ALIGNMENT)
        archive += entry.content
        archive += bytes(-len(archive) % ALIGNMENT)
    return bytes(archive)


def make_initramfs(entries: Sequence[Entry]) -> bytes:
    return gzip.compress(make_cpio(entries), mtime=0)
