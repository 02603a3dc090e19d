# SPDX-License-Identifier: Apache-2.0
"""Resource descriptors, what `_CRS` and `_PRS` buffers are made of (ACPI 6.3 section 6.4).

Ranges are given as base and size; address spaces of a bridge as the producer's windows.
"""

from __future__ import annotations

import struct
from typing import Final

from vmm.machine.acpi import aml

_IO_16_BIT_DECODE: Final = 1
_END_TAG: Final = b"\x79\x00"  # checksum byte 0: "treat the sum as right" (6.4.2.9)

# Address space descriptors, type byte (6.4.3.5, table 6-43).
_SPACE_MEMORY: Final = 0
_SPACE_IO: Final = 1
_SPACE_BUS: Final = 2
_FIXED_MIN_MAX_POSITIVE_DECODE: Final = 0x0C
_IO_ENTIRE_RANGE: Final = 0x03
MEMORY_READ_WRITE: Final = 0x01
MEMORY_CACHEABLE: Final = 0x02

# Extended interrupt descriptor, flags (6.4.3.6): consumer; level and active high are 0 in bits 1, 2; shared.
_INTERRUPT_LEVEL_HIGH_SHARED: Final = 0x01 | 0x08


def template(*descriptors: bytes) -> bytes:
    """`ResourceTemplate () { descriptors }`."""
    return aml.buffer(b"".join(descriptors) + _END_TAG)


def io(base: int, size: int) -> bytes:
    """`IO (Decode16, base, base, 1, size)`: fixed ports."""
    return struct.pack("<BBHHBB", 0x47, _IO_16_BIT_DECODE, base, base, 1, size)


def irq(number: int) -> bytes:
    """`IRQNoFlags () { number }`: an ISA interrupt, edge, active high, not shared."""
    return struct.pack("<BH", 0x22, 1 << number)


def interrupt_level_high_shared(gsi: int) -> bytes:
    """`Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { gsi }`."""
    return struct.pack("<BHBBI", 0x89, 6, _INTERRUPT_LEVEL_HIGH_SHARED, 1, gsi)


def bus_numbers(first: int, last: int) -> bytes:
    """`WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, ...)`."""
    return _address_space(0x88, "H", _SPACE_BUS, 0, first, last)


def io_window(base: int, size: int) -> bytes:
    """`WordIO` producer window of a host bridge."""
    return _address_space(0x88, "H", _SPACE_IO, _IO_ENTIRE_RANGE, base, base + size - 1)


def memory_window(base: int, size: int, flags: int) -> bytes:
    """`DWordMemory` producer window below 4 GiB; `flags` from `MEMORY_*`."""
    return _address_space(0x87, "I", _SPACE_MEMORY, flags, base, base + size - 1)


def memory_window64(base: int, size: int, flags: int) -> bytes:
    """`QWordMemory` producer window."""
    return _address_space(0x8A, "Q", _SPACE_MEMORY, flags, base, base + size - 1)


def _address_space(tag: int, width: str, space: int, flags: int, minimum: int, maximum: int) -> bytes:
    granularity = translation = 0
    body = struct.pack(
        f"<BBB5{width}",
        space,
        _FIXED_MIN_MAX_POSITIVE_DECODE,
        flags,
        granularity,
        minimum,
        maximum,
        translation,
        maximum - minimum + 1,
    )
    return struct.pack("<BH", tag, len(body)) + body
