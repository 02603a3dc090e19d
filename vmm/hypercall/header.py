# SPDX-License-Identifier: Apache-2.0
"""A call's fixed header as a typed value, the VTL it names checked and resolved (TLFS 15.15.1).

A reader is made once for each row of the call table. It does what `Layout.unpack` does, and the row's checks in the
same pass: it runs for every hypercall.

Implements: HC-017, REG-003, REG-004
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from vmm.hv.bits import Bits
from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.layout import FieldInfo, Layout, Scalar
from vmm.hv.status import HvStatus
from vmm.hypercall.call import Call, TargetVtl, VtlForm

_USE: Final = HV_INPUT_VTL.UseTargetVtl.mask
_VTL: Final = HV_INPUT_VTL.TargetVtl.mask
_RSVDZ: Final = HV_INPUT_VTL.RSVDZ_MASK
_RESOLVED: Final = tuple(HV_INPUT_VTL(_USE | vtl) for vtl in range(HV_NUM_VTLS_ARCHITECTURAL))
_FLAGS_SHIFT: Final = 56
_FLAGS_BELOW: Final = (1 << _FLAGS_SHIFT) - 1
_WORD_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

HeaderReader = Callable[[bytes, int], Any]
"""`(block, caller's VTL)` to the header. Raises `RefusedError`."""
_Convert = Callable[[Any, int], Any]
"""`(raw value, caller's VTL)` to the field's value."""


class RefusedError(Exception):
    """The header asks for something that no handler may do. Ends the call with `status`."""

    def __init__(self, status: HvStatus) -> None:
        super().__init__(status.name)
        self.status = int(status)


def header_reader(call: Call) -> HeaderReader:
    """The reader of the row's header: None as value where the call has no header."""
    layout = call.header
    if layout is None:
        return lambda block, caller: None
    unpack_from = struct.Struct("<" + "".join(_code(field) for field in layout.FIELDS)).unpack_from
    convert = _conversions(call, layout)
    new = tuple.__new__

    def plain(block: bytes, caller: int) -> Layout:
        return new(layout, unpack_from(block))

    def converted(block: bytes, caller: int) -> Layout:
        values = list(unpack_from(block))
        for index, function in convert:
            values[index] = function(values[index], caller)
        return new(layout, values)

    def converted_once(block: bytes, caller: int) -> Layout:
        values = unpack_from(block)
        return new(layout, (*values[:first], convert_first(values[first], caller), *values[behind:]))

    first, convert_first = convert[0] if convert else (0, _unconverted)
    behind = first + 1
    read = (plain, converted_once, converted)[min(len(convert), 2)]
    return _refusing_reserved(read) if call.refuse_reserved else read


def _code(field: FieldInfo) -> str:
    if isinstance(field.type, Scalar):
        return field.type.code
    if isinstance(field.type, type) and issubclass(field.type, Bits):
        return _WORD_CODES[field.size]
    return f"{field.size}s"


def _conversions(call: Call, layout: type[Layout]) -> tuple[tuple[int, _Convert], ...]:
    rule = call.target_vtl
    if rule is not None and rule.field not in {field.name for field in layout.FIELDS}:
        raise ValueError(f"{call.name}: {layout.__name__} has no field {rule.field} to name a VTL")
    found: list[tuple[int, _Convert]] = []
    for index, field in enumerate(layout.FIELDS):
        if rule is not None and field.name == rule.field:
            found.append((index, _vtl_conversion(rule, field)))
        elif isinstance(field.type, type) and issubclass(field.type, Bits):
            found.append((index, _as_bits(field.type)))
        elif isinstance(field.type, type) and issubclass(field.type, Layout):
            found.append((index, _as_layout(field.type)))
    return tuple(found)


def _unconverted(value: Any, caller: int) -> Any:
    return value


def _as_bits(of: type[Bits]) -> _Convert:
    return lambda value, caller: of(value)


def _as_layout(of: type[Layout]) -> _Convert:
    return lambda value, caller: of.unpack(value)


def _refusing_reserved(read: HeaderReader) -> HeaderReader:
    def checked(block: bytes, caller: int) -> Any:
        header = read(block, caller)
        if not header.rsvdz_is_zero():
            raise RefusedError(HvStatus.INVALID_PARAMETER)
        return header

    return checked


def _target(input_vtl: int, caller: int, above_caller: bool) -> int:
    """The VTL meant by an HV_INPUT_VTL.

    Implements: HC-017, REG-003, REG-004
    """
    if not input_vtl:
        return caller
    if input_vtl & _RSVDZ:
        raise RefusedError(HvStatus.INVALID_PARAMETER)
    target = input_vtl & _VTL if input_vtl & _USE else caller
    if target > caller and not above_caller:
        raise RefusedError(HvStatus.ACCESS_DENIED)
    return target


def _vtl_conversion(rule: TargetVtl, field: FieldInfo) -> _Convert:
    above_caller = rule.above_caller

    def input_vtl(value: int, caller: int) -> HV_INPUT_VTL:
        return _RESOLVED[_target(value, caller, above_caller)]

    def in_flags(value: int, caller: int) -> int:
        target = _target(value >> _FLAGS_SHIFT, caller, above_caller)
        resolved = value & _FLAGS_BELOW | _RESOLVED[target] << _FLAGS_SHIFT
        return of(resolved)

    def plain(value: int, caller: int) -> int:
        if value >= HV_NUM_VTLS_ARCHITECTURAL:
            raise RefusedError(HvStatus.INVALID_PARAMETER)
        if value > caller and not above_caller:
            raise RefusedError(HvStatus.ACCESS_DENIED)
        return value

    of = field.type if isinstance(field.type, type) and issubclass(field.type, Bits) else int
    return {VtlForm.INPUT_VTL: input_vtl, VtlForm.IN_FLAGS: in_flags, VtlForm.PLAIN: plain}[rule.form]
