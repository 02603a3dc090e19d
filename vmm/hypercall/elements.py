# SPDX-License-Identifier: Apache-2.0
"""Arrays in parameter blocks: rep elements in, rep elements out, and single outputs, as typed values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, get_args

from vmm.hv.layout import U32, U64, Layout, Scalar
from vmm.hv.outputs import HV_REGISTER_VALUE_SIZE

Reader = Callable[[bytes], tuple[Any, ...]]


class Elements(Protocol):
    """One type of array element."""

    name: str
    """As documents write it."""
    size: int
    """Bytes of one element."""

    def reader(self, offset: int, count: int) -> Reader:
        """What takes `count` elements at `offset` out of a block that is long enough."""

    def pack(self, values: Sequence[Any]) -> bytes:
        """The elements' bytes. Raises for a value that does not fit: a handler's mistake, never a guest's."""


class Numbers:
    """Unsigned numbers of 4 or 8 bytes."""

    def __init__(self, annotation: object) -> None:
        scalar = next(item for item in get_args(annotation) if isinstance(item, Scalar))
        self.name = f"u{scalar.size * 8}"
        self.size = scalar.size
        self._code = scalar.code

    def reader(self, offset: int, count: int) -> Reader:
        unpack_from = struct.Struct(f"<{count}{self._code}").unpack_from
        return lambda block: unpack_from(block, offset)

    def pack(self, values: Sequence[int]) -> bytes:
        return struct.pack(f"<{len(values)}{self._code}", *values)


class Structures:
    """Structures without a gap between them."""

    def __init__(self, layout: type[Layout]) -> None:
        self.name = layout.__name__
        self.size = layout.SIZE
        self.layout = layout
        self._unpack = layout.unpack

    def reader(self, offset: int, count: int) -> Reader:
        unpack = self._unpack
        offsets = range(offset, offset + count * self.size, self.size)
        return lambda block: tuple([unpack(block, at) for at in offsets])

    def pack(self, values: Sequence[Layout]) -> bytes:
        data = b"".join([value.pack() for value in values])
        if len(data) != len(values) * self.size:
            raise TypeError(f"{len(values)} {self.name} are {len(values) * self.size} bytes, got {len(data)}")
        return data


class Blocks:
    """Opaque bytes, `size` of them each."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def reader(self, offset: int, count: int) -> Reader:
        size = self.size
        offsets = range(offset, offset + count * size, size)
        return lambda block: tuple([block[at : at + size] for at in offsets])

    def pack(self, values: Sequence[bytes]) -> bytes:
        data = values[0] if len(values) == 1 else b"".join(values)
        if len(data) != len(values) * self.size:
            raise ValueError(
                f"{len(values)} {self.name} are {len(values) * self.size} bytes, got {len(data)}"
            )
        return data


U32_ELEMENTS: Final = Numbers(U32)
U64_ELEMENTS: Final = Numbers(U64)
REGISTER_VALUES: Final = Blocks("HV_REGISTER_VALUE", HV_REGISTER_VALUE_SIZE)
"""Values of VP registers, 16 bytes each; a shorter register is zero-extended (TLFS 7.9)."""
