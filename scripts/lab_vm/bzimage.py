# SPDX-License-Identifier: Apache-2.0
"""The ELF kernel inside a bzImage. Layout: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib

from scripts.lab_vm.errors import LabError, missing_packages

SECTOR_BYTES = 512
SETUP_SECTS = 0x1F1
SIGNATURE = 0x202
PROTOCOL = 0x206
PAYLOAD_OFFSET = 0x248
PAYLOAD_LENGTH = 0x24C
HEADER_END = 0x250
PROTOCOL_WITH_PAYLOAD = 0x0208
SETUP_SECTS_WHEN_ZERO = 4

SIZE_TRAILER_BYTES = 4
"""The build appends the unpacked size, little endian, to a payload whose format does not end with it."""


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF file that `image`, a bzImage, unpacks at boot. LabError when `image` is something else."""
    if len(image) < HEADER_END or image[SIGNATURE : SIGNATURE + 4] != b"HdrS":
        raise LabError("not a bzImage: no HdrS signature at offset 0x202")
    (protocol,) = struct.unpack_from("<H", image, PROTOCOL)
    if protocol < PROTOCOL_WITH_PAYLOAD:
        raise LabError(f"boot protocol {protocol:#06x} does not say where the kernel is; 0x0208 and later do")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = ((image[SETUP_SECTS] or SETUP_SECTS_WHEN_ZERO) + 1) * SECTOR_BYTES + offset
    payload = image[start : start + length]
    if len(payload) < length or length <= SIZE_TRAILER_BYTES:
        raise LabError(
            f"truncated bzImage: its payload is {length} bytes at {start}, the file has {len(image)}"
        )
    kernel = _unpack(payload)
    if kernel[:4] != b"\x7fELF":
        raise LabError(f"the bzImage's payload unpacks to {kernel[:4]!r}..., expected an ELF file")
    return kernel


def _unpack(payload: bytes) -> bytes:
    try:
        if payload.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(payload)
        if payload.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
        if payload.startswith(b"\x5d\0\0"):
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)
        if payload.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(payload)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise LabError(f"the bzImage's payload is damaged: {error}") from error
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _by_tool("zstd", payload[:-SIZE_TRAILER_BYTES])
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return _by_tool("lz4", payload[:-SIZE_TRAILER_BYTES])
    if payload.startswith(b"\x7fELF"):
        return payload
    raise LabError(f"unknown compression of the bzImage's payload, which begins with {payload[:6].hex(' ')}")


def _by_tool(name: str, payload: bytes) -> bytes:
    """Python 3.11 has neither format."""
    program = shutil.which(name)
    if program is None:
        raise missing_packages(f"no {name} to unpack the kernel", [name])
    done = subprocess.run([program, "-dc"], input=payload, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{name} cannot unpack the kernel: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
