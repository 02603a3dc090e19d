# SPDX-License-Identifier: Apache-2.0
"""Structures in guest memory, described once: unpacked into frozen typed values, packed back, printed.

    class HV_INPUT_SIGNAL_EVENT(Layout):
        ConnectionId: U32
        FlagNumber: U16
        Reserved: bytes = padding(2)

    block = HV_INPUT_SIGNAL_EVENT.unpack(data)   # about a microsecond
    block.ConnectionId                           # a number, read only
    HV_INPUT_SIGNAL_EVENT(ConnectionId=1, FlagNumber=0).pack()

Fields lie one behind the other, little-endian, as in the C declaration with its padding written out; a scalar
that is not naturally aligned is an error when the class is made. A field is `U8` to `U64`, `I64`, a `Bits` class,
another `Layout` or `raw(size)` bytes. `element=` names the array behind the fixed part (rep elements, processor banks).

A module that declares layouts must not import `annotations` from `__future__`: the annotations are the data.
"""

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, dataclass_transform, get_origin

from vmm.hv.bits import Bits, FieldKind, WithoutDict

Buffer = bytes | bytearray | memoryview


class Scalar(NamedTuple):
    """A number in memory: `struct` code and size in bytes."""

    code: str
    size: int


U8 = Annotated[int, Scalar("B", 1)]
U16 = Annotated[int, Scalar("H", 2)]
U32 = Annotated[int, Scalar("I", 4)]
U64 = Annotated[int, Scalar("Q", 8)]
I64 = Annotated[int, Scalar("q", 8)]


class _Filler(NamedTuple):
    size: int
    kind: FieldKind


def raw(size: int) -> Any:
    """`size` bytes that mean something, zero unless given."""
    return _Filler(size, FieldKind.VALUE)


def rsvdz(size: int, *, init: Literal[False] = False) -> Any:
    """`size` bytes that a caller must leave zero: `Layout.rsvdz_is_zero`."""
    return _Filler(size, FieldKind.RSVDZ)


def padding(size: int, *, init: Literal[False] = False) -> Any:
    """`size` bytes that are ignored on input and zero on output."""
    return _Filler(size, FieldKind.IGNORED)


class FieldInfo(NamedTuple):
    """Where a field lies. `type` is the scalar, the `Bits` or `Layout` class, or None for bytes."""

    name: str
    offset: int
    size: int
    kind: FieldKind
    type: Scalar | type[Bits] | type["Layout"] | None


class ElementInfo(NamedTuple):
    """The array behind the fixed part: its name, and the type and size in bytes of one element."""

    name: str
    size: int
    type: Scalar | type["Layout"]


def _scalar(annotation: object) -> Scalar | None:
    if get_origin(annotation) is Annotated:
        return next(item for item in annotation.__metadata__ if isinstance(item, Scalar))  # type: ignore[attr-defined]  # Annotated
    return None


def _element(name: str, annotation: object) -> ElementInfo:
    if isinstance(annotation, type) and issubclass(annotation, Layout):
        return ElementInfo(name, annotation.SIZE, annotation)
    scalar = _scalar(annotation)
    if scalar is None:
        raise TypeError(f"element {name}: {annotation!r} is neither a number type nor a Layout")
    return ElementInfo(name, scalar.size, scalar)


@dataclass_transform(frozen_default=True, field_specifiers=(raw, rsvdz, padding))
class Layout(tuple[Any, ...], metaclass=WithoutDict):
    """A structure; see the module's text. `SIZE` counts the fixed part's bytes."""

    SIZE: ClassVar[int] = 0
    FIELDS: ClassVar[tuple[FieldInfo, ...]] = ()
    ELEMENT: ClassVar[ElementInfo | None] = None
    _STRUCT: ClassVar[struct.Struct] = struct.Struct("<")
    _CONVERT: ClassVar[tuple[tuple[int, Callable[[Any], Any]], ...]] = ()
    _ZERO_BYTES: ClassVar[tuple[tuple[int, bytes], ...]] = ()
    _ZERO_BITS: ClassVar[tuple[tuple[int, int], ...]] = ()
    _ZERO_PARTS: ClassVar[tuple[int, ...]] = ()
    _NESTED: ClassVar[bool] = False
    _DEFAULTS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, *, element: tuple[str, object] | None = None) -> None:
        super().__init_subclass__()
        codes = []
        fields: list[FieldInfo] = []
        convert: list[tuple[int, Callable[[Any], Any]]] = []
        defaults: dict[str, Any] = {}
        offset = 0
        for index, (name, annotation) in enumerate(cls.__annotations__.items()):
            filler = cls.__dict__.get(name)
            kind, alignment = FieldKind.VALUE, 1
            of: Scalar | type[Bits] | type[Layout] | None = None
            if isinstance(filler, _Filler):
                size, kind = filler
                codes.append(f"{size}s")
                defaults[name] = bytes(size)
            elif (scalar := _scalar(annotation)) is not None:
                size, of, alignment = scalar.size, scalar, scalar.size
                codes.append(scalar.code)
            elif isinstance(annotation, type) and issubclass(annotation, Bits):
                size, of, alignment = annotation.SIZE, annotation, min(annotation.SIZE, 8)
                codes.append({1: "B", 2: "H", 4: "I", 8: "Q"}[size])
                convert.append((index, annotation))
            elif isinstance(annotation, type) and issubclass(annotation, Layout):
                size, of = annotation.SIZE, annotation
                codes.append(f"{size}s")
                convert.append((index, annotation.unpack))
            else:
                raise TypeError(
                    f"{cls.__name__}.{name}: {annotation!r} is no field type; if it is a string, the module "
                    "imports annotations from __future__, which a module of layouts must not"
                )
            if offset % alignment:
                raise TypeError(
                    f"{cls.__name__}.{name} at offset {offset} is not aligned to its {alignment} bytes"
                )
            fields.append(FieldInfo(name, offset, size, kind, of))
            setattr(cls, name, property(itemgetter(index)))
            offset += size
        cls.SIZE = offset
        cls.FIELDS = tuple(fields)
        cls.ELEMENT = None if element is None else _element(*element)
        cls._STRUCT = struct.Struct("<" + "".join(codes))
        cls._CONVERT = tuple(convert)
        cls._DEFAULTS = defaults
        cls._ZERO_BYTES = tuple((i, bytes(f.size)) for i, f in enumerate(fields) if f.kind is FieldKind.RSVDZ)
        cls._ZERO_BITS = tuple(
            (i, f.type.RSVDZ_MASK)
            for i, f in enumerate(fields)
            if isinstance(f.type, type) and issubclass(f.type, Bits) and f.type.RSVDZ_MASK
        )
        nested = [
            (i, f.type)
            for i, f in enumerate(fields)
            if isinstance(f.type, type) and issubclass(f.type, Layout)
        ]
        cls._NESTED = bool(nested)
        cls._ZERO_PARTS = tuple(
            i for i, part in nested if part._ZERO_BYTES or part._ZERO_BITS or part._ZERO_PARTS
        )

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Values by position or name, reserved bytes left out. `TypeError` names what is missing or unknown."""
        given = [field.name for field in cls.FIELDS if field.kind is FieldKind.VALUE]
        if len(args) > len(given):
            raise TypeError(f"{cls.__name__} has {len(given)} fields, got {len(args)} values")
        known = cls._DEFAULTS | dict(zip(given, args, strict=False)) | values
        try:
            ordered = [known.pop(field.name) for field in cls.FIELDS]
        except KeyError as error:
            raise TypeError(f"{cls.__name__} needs {error.args[0]}") from None
        if known:
            raise TypeError(f"{cls.__name__} has no field {', '.join(known)}")
        for index, convert in cls._CONVERT:
            if isinstance(convert, type):
                ordered[index] = convert(ordered[index])
        return tuple.__new__(cls, ordered)

    @classmethod
    def unpack(cls, data: Buffer, offset: int = 0) -> Self:
        """The structure at `offset`. `struct.error` when fewer than `SIZE` bytes are there: check lengths before."""
        values: Any = cls._STRUCT.unpack_from(data, offset)
        if cls._CONVERT:
            values = list(values)
            for index, convert in cls._CONVERT:
                values[index] = convert(values[index])
        return tuple.__new__(cls, values)

    def pack(self) -> bytes:
        """The structure's bytes. `struct.error` when a number does not fit its field."""
        if self._NESTED:
            return self._STRUCT.pack(
                *[value.pack() if isinstance(value, Layout) else value for value in self]
            )
        return self._STRUCT.pack(*self)

    def rsvdz_is_zero(self) -> bool:
        """Whether what a caller must leave zero is zero: bytes, bits of words, nested structures (HC-017)."""
        for index, zeroes in self._ZERO_BYTES:
            if self[index] != zeroes:
                return False
        for index, mask in self._ZERO_BITS:
            if self[index] & mask:
                return False
        return not self._ZERO_PARTS or all(self[index].rsvdz_is_zero() for index in self._ZERO_PARTS)

    def replace(self, **values: Any) -> Self:
        """This structure with some fields changed."""
        return type(self)(
            **{field.name: value for field, value in zip(type(self).FIELDS, self, strict=True)} | values
        )

    @classmethod
    def offset_of(cls, name: str) -> int:
        """The offset in bytes of a field, or of the array behind the fixed part."""
        for field in cls.FIELDS:
            if field.name == name:
                return field.offset
        if cls.ELEMENT is not None and cls.ELEMENT.name == name:
            return cls.SIZE
        raise KeyError(f"{cls.__name__} has no field {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        shown = []
        for field, value in zip(type(self).FIELDS, self, strict=True):
            if field.kind is not FieldKind.VALUE and not any(value):
                continue
            if isinstance(value, bytes):
                text = f"{value.rstrip(bytes(1)).hex() or '00'}"
            elif type(value) is int:
                text = f"{value:#x}" if abs(value) > 9 else str(value)
            else:
                text = str(value)
            shown.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"
