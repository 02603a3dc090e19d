# SPDX-License-Identifier: Apache-2.0
"""How a C structure of the KVM UAPI is written down in ctypes, and how it is checked.

A structure keeps its C name, has fixed-width fields with the padding written out, and `__slots__ = ()`,
without which ctypes takes a misspelt field name for a new attribute. `layout` compares its size and offsets
with the numbers a C compiler gives, at import, so a mistake never reaches the kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import ioctl_opt

u8 = ctypes.c_uint8
u16 = ctypes.c_uint16
u32 = ctypes.c_uint32
u64 = ctypes.c_uint64
s16 = ctypes.c_int16
s32 = ctypes.c_int32
s64 = ctypes.c_int64
Structure = ctypes.Structure
Union = ctypes.Union

Aggregate = type[ctypes.Structure] | type[ctypes.Union]
T = TypeVar("T", bound=Aggregate)

# Members that C declares without a type name of their own (`struct { ... } io;`), and the structure they
# stand in. The comparison with the kernel headers reaches them through that structure.
UNNAMED: dict[Aggregate, str] = {}

# Header structure -> (name of its flexible array, element type).
FLEXIBLE: dict[Aggregate, tuple[str, Any]] = {}


def layout(*, size: int, offsets: Mapping[str, int], inside: str | None = None) -> Callable[[T], T]:
    """Class decorator: check `size` and `offsets` (bytes) of a structure or union.

    `inside` names the C structure that declares it, for a member type that has no name in C.
    Raises TypeError that shows both numbers.
    """

    def check(cls: T) -> T:
        actual = ctypes.sizeof(cls)
        if actual != size:
            raise TypeError(f"{cls.__name__}: size is {actual} bytes, the C structure has {size}")
        for name, offset in offsets.items():
            field = getattr(cls, name, None)
            if field is None:
                raise TypeError(f"{cls.__name__}: has no field {name!r}, expected at offset {offset}")
            if field.offset != offset:
                raise TypeError(f"{cls.__name__}.{name}: offset is {field.offset}, C has {offset}")
        if inside is not None:
            UNNAMED[cls] = inside
        return cls

    return check


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """`_fields_` entries for several fields of one type: `*fields(u64, "rax rbx rcx")`."""
    return [(name, kind) for name in names.split()]


def flexible_array(header: type[ctypes.Structure], name: str, element: Any) -> Callable[[int], Any]:
    """The factory of `header` followed by `element name[n]`, for C's flexible array members.

    ioctl numbers are computed from `header`; the argument is an object of the class that `factory(n)`
    returns. The last 64 classes are kept, because making one costs about 50 microseconds.
    """
    FLEXIBLE[header] = (name, element)

    @lru_cache(maxsize=64)
    def sized(count: int) -> Any:
        if count < 0:
            raise ValueError(f"{header.__name__}: {count} entries asked for, at least 0 expected")
        body = {"__slots__": (), "_fields_": [(name, element * count)], "__doc__": header.__doc__}
        return type(f"{header.__name__}_{count}", (header,), body)

    return sized


def build(cls: Any, /, **values: Any) -> Any:
    """An object of `cls` with `values` set, each checked to be a field and to fit.

    ctypes itself stores 0 for `1 << 64` and accepts unknown names. Raises ValueError or AttributeError.
    """
    made = cls()
    for name, value in values.items():
        setattr(made, name, value)
        if isinstance(value, int) and getattr(made, name) != value:
            size = getattr(cls, name).size
            raise ValueError(f"{cls.__name__}.{name} = {value:#x}: does not fit its {size * 8} bits")
    return made


def _number(kind: int, group: int, nr: int, argument: Any = None) -> int:
    size = 0 if argument is None else ctypes.sizeof(argument)
    # ioctl_opt checks these ranges with assert, which -O removes.
    if not (0 <= group <= 0xFF and 0 <= nr <= 0xFF and size < 1 << 14):
        raise ValueError(f"ioctl group {group:#x}, number {nr:#x}, argument of {size} bytes: out of range")
    number: int = ioctl_opt.IOC(kind, group, nr, size)
    return number


def IO(group: int, nr: int) -> int:  # noqa: N802  (the C macro's name)
    """C's `_IO(group, nr)`: an ioctl without a structure."""
    return _number(ioctl_opt.IOC_NONE, group, nr)


def IOR(group: int, nr: int, argument: Any) -> int:  # noqa: N802  (the C macro's name)
    """C's `_IOR(group, nr, type)`: the kernel writes the structure."""
    return _number(ioctl_opt.IOC_READ, group, nr, argument)


def IOW(group: int, nr: int, argument: Any) -> int:  # noqa: N802  (the C macro's name)
    """C's `_IOW(group, nr, type)`: the kernel reads the structure."""
    return _number(ioctl_opt.IOC_WRITE, group, nr, argument)


def IOWR(group: int, nr: int, argument: Any) -> int:  # noqa: N802  (the C macro's name)
    """C's `_IOWR(group, nr, type)`: the kernel reads and writes the structure."""
    return _number(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, group, nr, argument)
