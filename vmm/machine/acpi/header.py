# SPDX-License-Identifier: Apache-2.0
"""What all ACPI tables share: the 36-byte header, the checksum, generic addresses, packing by field list."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

HEADER_SIZE: Final = 36
_CHECKSUM_OFFSET: Final = 9
OEM_ID: Final = b"VSMVMM"
OEM_TABLE_ID: Final = b"VSMBOARD"
OEM_REVISION: Final = 1
CREATOR_ID: Final = b"VSMV"
CREATOR_REVISION: Final = 1

# Generic Address Structure, AddressSpaceId and AccessSize (ACPI 6.3 section 5.2.3.2).
SYSTEM_IO: Final = 1
BYTE_ACCESS: Final = 1
WORD_ACCESS: Final = 2
DWORD_ACCESS: Final = 3


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of `data` and itself 0 modulo 256."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A whole table: System Description Table header (5.2.6), `body`, right length and checksum."""
    header = struct.pack(
        "<4sIBB6s8sI4sI",
        signature,
        HEADER_SIZE + len(body),
        revision,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        CREATOR_ID,
        CREATOR_REVISION,
    )
    data = bytearray(header + body)
    data[_CHECKSUM_OFFSET] = checksum(data)
    return bytes(data)


def io_address(port: int, size_bytes: int, access: int) -> bytes:
    """A Generic Address Structure for `size_bytes` of I/O ports at `port`."""
    return struct.pack("<BBBBQ", SYSTEM_IO, 8 * size_bytes, 0, access, port)


def pack(fields: Iterable[tuple[str, str]], values: Mapping[str, int | bytes]) -> bytes:
    """Pack `fields`, pairs of name and `struct` code, from `values`; a field without a value is zero.

    Errors: `KeyError` for a value that no field takes.
    """
    names = [name for name, _ in fields]
    unknown = values.keys() - set(names)
    if unknown:
        raise KeyError(f"no such field: {', '.join(sorted(unknown))}")
    return b"".join(
        struct.pack("<" + code, values.get(name, b"" if code.endswith("s") else 0)) for name, code in fields
    )
