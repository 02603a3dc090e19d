# SPDX-License-Identifier: Apache-2.0
"""Words with named bits, described once as data.

    class HV_REGISTER_VSM_VINA(Bits):
        Vector = bits(0, 8)
        Enabled = bit(8)
        ReservedP = rsvdp(9, 55)

    vina = HV_REGISTER_VSM_VINA(0x130)          # an int, so it goes wherever a number goes
    vina.Vector, vina.Enabled                    # 0x30, True
    vina.replace(Enabled=False)                  # another value; this one never changes
    HV_REGISTER_VSM_VINA.Enabled.mask            # 0x100
    HV_REGISTER_VSM_VINA.RSVDZ_MASK, .RSVDP_MASK # what a write must leave zero, or gives back as it was

The same description prints a value, checks it and fills the documentation. Every bit of a word belongs to
exactly one field: a gap or an overlap is an error when the class is made.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

from vmm.hv.open_enum import OpenIntEnum

T = TypeVar("T", bound=int)


class FieldKind(enum.Enum):
    """What a field that carries no value asks of its writer (TLFS 1.5 "Reserved Values")."""

    VALUE = "value"
    RSVDZ = "RsvdZ"  # must be written as zero, anything else is refused
    RSVDP = "RsvdP"  # written as anything, kept and read back
    IGNORED = "reserved"  # padding: ignored on input, zero on output


class BitField(Generic[T]):
    """Some bits of a `Bits` class. Read through a value it is a number, anywhere else it is this description."""

    __slots__ = ("_value_mask", "kind", "low", "mask", "name", "names", "owner", "width")

    def __init__(self, low: int, width: int, kind: FieldKind, names: type[OpenIntEnum] | None) -> None:
        self.low = low
        self.width = width
        self.kind = kind
        self.names = names  # names of the field's values, for people
        self._value_mask = (1 << width) - 1
        self.mask = self._value_mask << low
        self.name = ""
        self.owner: type[Bits] = Bits

    def __set_name__(self, owner: type[Bits], name: str) -> None:
        self.name = name
        self.owner = owner

    @overload
    def __get__(self, instance: None, owner: type[Bits]) -> Self: ...
    @overload
    def __get__(self, instance: Bits, owner: type[Bits]) -> T: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> Self: ...
    def __get__(self, instance: object, owner: type[Any]) -> Self | T:
        if not isinstance(instance, Bits):
            return self
        return cast(T, (instance >> self.low) & self._value_mask)

    @property
    def high(self) -> int:
        """The highest bit, as documents write ranges: `high:low`."""
        return self.low + self.width - 1

    @property
    def span(self) -> str:
        """`8` or `11:2`."""
        return str(self.low) if self.width == 1 else f"{self.high}:{self.low}"

    def show(self, value: int) -> str:
        """The field's number as people read it."""
        name = None if self.names is None else self.names.name_of(value)
        if name is not None:
            return name
        return f"{value:#x}" if value > 9 else str(value)

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.name} (bit {self.span})"


class _Flag(BitField[bool]):
    """One bit, as a truth value."""

    __slots__ = ()

    @overload
    def __get__(self, instance: None, owner: type[Bits]) -> Self: ...
    @overload
    def __get__(self, instance: Bits, owner: type[Bits]) -> bool: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> Self: ...
    def __get__(self, instance: object, owner: type[Any]) -> Self | bool:
        if not isinstance(instance, Bits):
            return self
        return instance & self.mask != 0


def bit(position: int) -> BitField[bool]:
    """One bit."""
    return _Flag(position, 1, FieldKind.VALUE, None)


def bits(low: int, width: int, names: type[OpenIntEnum] | None = None) -> BitField[int]:
    """`width` bits from bit `low` up."""
    return BitField(low, width, FieldKind.VALUE, names)


def rsvdz(low: int, width: int = 1) -> BitField[int]:
    """Bits that must be zero."""
    return BitField(low, width, FieldKind.RSVDZ, None)


def rsvdp(low: int, width: int = 1) -> BitField[int]:
    """Bits that keep what is written."""
    return BitField(low, width, FieldKind.RSVDP, None)


def reserved(low: int, width: int = 1) -> BitField[int]:
    """Bits nobody looks at."""
    return BitField(low, width, FieldKind.IGNORED, None)


class WithoutDict(type):
    """Makes classes whose values have no dictionary, so that they are small and nothing can be added to them."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> WithoutDict:
        namespace.setdefault("__slots__", ())
        return super().__new__(cls, name, bases, namespace, **options)


class Bits(int, metaclass=WithoutDict):
    """A word of `SIZE` bytes with named bits; see the module's text."""

    SIZE: ClassVar[int] = 8
    FIELDS: ClassVar[tuple[BitField[Any], ...]] = ()
    RSVDZ_MASK: ClassVar[int] = 0
    RSVDP_MASK: ClassVar[int] = 0

    def __init_subclass__(cls, *, size: int = 8) -> None:
        super().__init_subclass__()
        found = (value for value in vars(cls).values() if isinstance(value, BitField))
        fields = sorted(found, key=lambda field: field.low)
        position = 0
        for field in fields:
            if field.low != position:
                raise TypeError(
                    f"{cls.__name__}.{field.name} begins at bit {field.low}; the field before it ends at bit "
                    f"{position - 1}: describe every bit once, reserved ones too"
                )
            position += field.width
        if position != size * 8:
            raise TypeError(f"{cls.__name__} describes {position} bits, its size is {size} bytes")
        cls.SIZE = size
        cls.FIELDS = tuple(fields)
        cls.RSVDZ_MASK = sum(field.mask for field in fields if field.kind is FieldKind.RSVDZ)
        cls.RSVDP_MASK = sum(field.mask for field in fields if field.kind is FieldKind.RSVDP)

    @classmethod
    def make(cls, **values: int) -> Self:
        """A word with these fields set and all others zero. `ValueError` for a number a field cannot hold."""
        return cls(0).replace(**values)

    def replace(self, **values: int) -> Self:
        """This word with some fields changed."""
        word = int(self)
        for name, value in values.items():
            field = vars(type(self)).get(name)
            if not isinstance(field, BitField):
                raise TypeError(f"{type(self).__name__} has no field {name}")
            if not 0 <= value < 1 << field.width:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {field.width} bits wide, {value:#x} does not fit"
                )
            word = word & ~field.mask | value << field.low
        return type(self)(word)

    def set_fields(self) -> list[str]:
        """The fields that are not zero, as `Name` for a flag and `Name=value` otherwise."""
        return [
            field.name if isinstance(field, _Flag) else f"{field.name}={field.show(value)}"
            for field in type(self).FIELDS
            if (value := (self & field.mask) >> field.low)
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.set_fields()) or '0'})"

    __str__ = __repr__
