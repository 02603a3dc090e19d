# SPDX-License-Identifier: Apache-2.0
"""The kernel inside a bzImage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import pytest

from scripts.lab_vm.bzimage import extract_vmlinux
from scripts.lab_vm.errors import LabError

KERNEL = b"\x7fELF" + bytes(range(256)) * 40


def bzimage(payload: bytes, setup_sects: int = 4, protocol: int = 0x20F, offset: int = 0x100) -> bytes:
    """Setup sectors, then the protected-mode part with the payload at `offset`."""
    image = bytearray((setup_sects + 1) * 512 + offset) + payload + bytes(64)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image)


def alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, alone, bz2.compress, bytes])
def test_every_compression_unpacks(compress: Callable[[bytes], bytes]) -> None:
    # The build appends the unpacked size to all but gzip's payload.
    trailer = b"" if compress in (gzip.compress, bytes) else struct.pack("<I", len(KERNEL))

    assert extract_vmlinux(bzimage(compress(KERNEL) + trailer)) == KERNEL


def test_zero_setup_sectors_mean_four() -> None:
    image = bytearray(bzimage(gzip.compress(KERNEL)))
    image[0x1F1] = 0

    assert extract_vmlinux(bytes(image)) == KERNEL


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "no HdrS"),
        (KERNEL, "no HdrS"),
        (bzimage(gzip.compress(KERNEL), protocol=0x0207), "boot protocol 0x0207"),
        (bzimage(gzip.compress(KERNEL))[:-400], "truncated"),
        (bzimage(gzip.compress(b"no ELF here")), "expected an ELF file"),
        (bzimage(b"\x1f\x8b" + bytes(100)), "damaged"),
        (bzimage(b"\xfd7zXZ\0" + bytes(100)), "damaged"),
        (bzimage(b"????" + bytes(100)), "unknown compression"),
        (bzimage(b""), "truncated"),
    ],
)
def test_what_is_no_kernel_is_refused_with_a_reason(image: bytes, words: str) -> None:
    with pytest.raises(LabError, match=words):
        extract_vmlinux(image)
