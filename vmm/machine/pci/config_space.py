# SPDX-License-Identifier: Apache-2.0
"""256 bytes of configuration space: values, and for each bit what a guest's write does to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

CONFIG_SIZE: Final = 256


@dataclass(frozen=True, slots=True)
class Register:
    """A field of configuration space: `size` bytes at `offset`.

    Bits of `writable` take what is written, bits of `write_one_clears` become 0 where a 1 is written, the others
    are read-only. `reset` is the value after power-on.
    """

    name: str
    offset: int
    size: int
    reset: int = 0
    writable: int = 0
    write_one_clears: int = 0


class ConfigSpace:
    """Registers of one function. What was never declared reads as zero and ignores writes. Not thread-safe."""

    def __init__(self, registers: Iterable[Register]) -> None:
        self._values = bytearray(CONFIG_SIZE)
        self._reset = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self._write_one_clears = bytearray(CONFIG_SIZE)
        for register in registers:
            self.declare(register)
        self.reset()

    def declare(self, register: Register) -> None:
        """Give the bytes of `register` their rules; replaces what was declared there before.

        Errors: `ValueError` when it lies outside, a value does not fit, or a bit has two rules.
        """
        end = register.offset + register.size
        if not 0 <= register.offset < end <= CONFIG_SIZE:
            raise ValueError(f"{register.name}: {register.offset:#x}+{register.size} is outside 0..0xff")
        if register.writable & register.write_one_clears:
            raise ValueError(f"{register.name}: a bit is both writable and cleared by writing 1")
        for target, value in (
            (self._reset, register.reset),
            (self._writable, register.writable),
            (self._write_one_clears, register.write_one_clears),
        ):
            if value < 0 or value >> 8 * register.size:
                raise ValueError(f"{register.name}: {value:#x} does not fit into {register.size} bytes")
            target[register.offset : end] = value.to_bytes(register.size, "little")

    def reset(self) -> None:
        """Every register takes its reset value."""
        self._values[:] = self._reset

    def read(self, offset: int, size: int) -> int:
        """`size` bytes at `offset`, little-endian; the caller keeps `offset + size` within 256."""
        return int.from_bytes(self._values[offset : offset + size], "little")

    def guest_write(self, offset: int, size: int, value: int) -> None:
        """What a guest's write does, by the rules of each bit."""
        for index in range(offset, offset + size):
            byte = value & 0xFF
            value >>= 8
            writable = self._writable[index]
            kept = self._values[index] & ~writable & ~(byte & self._write_one_clears[index])
            self._values[index] = kept | byte & writable

    def store(self, offset: int, size: int, value: int) -> None:
        """Set `size` bytes whatever their rules: the device's own write."""
        self._values[offset : offset + size] = value.to_bytes(size, "little")
