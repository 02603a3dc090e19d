# SPDX-License-Identifier: Apache-2.0
"""Byte-wide ports: how a PC's bus carries wider accesses to an 8-bit device.

Source: IBM PC/AT Technical Reference, bus converter: a 16-bit access to an 8-bit device becomes two byte
cycles at rising addresses, low byte first. A 32-bit access becomes four.
"""

from __future__ import annotations


class BytePorts:
    """A `Region` of byte registers. A subclass decodes single bytes, wider accesses are split for it."""

    def read_byte(self, offset: int) -> int:
        """The register at `offset`; 0xff where none is decoded."""
        return 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """Store the byte `value` in the register at `offset`; ignored where none is decoded."""

    def read(self, offset: int, size: int) -> int:
        """`size` byte reads at rising offsets, the first in the low byte."""
        if size == 1:
            return self.read_byte(offset)
        value = 0
        for index in range(size):
            value |= self.read_byte(offset + index) << (8 * index)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """`size` byte writes at rising offsets, the low byte first."""
        for index in range(size):
            self.write_byte(offset + index, value >> (8 * index) & 0xFF)
