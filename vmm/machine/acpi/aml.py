# SPDX-License-Identifier: Apache-2.0
"""ACPI Machine Language, the part a static DSDT needs: each function returns the bytes of one term.

Terms nest as in ASL: `device("COM1", name("_UID", integer(1)))`. Encodings: ACPI 6.3 section 20.2. Errors are
`AmlError`: these functions are fed by the board's own tables, never by a guest.
"""

from __future__ import annotations

import re
from typing import Final

_ZERO_OP: Final = b"\x00"
_ONE_OP: Final = b"\x01"
_NAME_OP: Final = b"\x08"
_STRING_PREFIX: Final = b"\x0d"
_SCOPE_OP: Final = b"\x10"
_BUFFER_OP: Final = b"\x11"
_PACKAGE_OP: Final = b"\x12"
_METHOD_OP: Final = b"\x14"
_DUAL_NAME_PREFIX: Final = b"\x2e"
_MULTI_NAME_PREFIX: Final = b"\x2f"
_DEVICE_OP: Final = b"\x5b\x82"

# (opcode, bytes of data), smallest first: BytePrefix, WordPrefix, DWordPrefix, QWordPrefix.
_INTEGER_PREFIXES: Final = ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8))

_NAME_SEGMENT: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_EISA_ID: Final = re.compile(r"[A-Z]{3}[0-9A-F]{4}")
_MAX_PACKAGE_LENGTH: Final = (1 << 28) - 1
_MAX_METHOD_ARGUMENTS: Final = 7
_METHOD_SERIALIZED: Final = 1 << 3


class AmlError(ValueError):
    """A term that AML cannot express; the message names it and the rule."""


def integer(value: int) -> bytes:
    """An integer constant of 0..2^64-1, in its shortest encoding."""
    if value == 0:
        return _ZERO_OP
    if value == 1:
        return _ONE_OP
    for opcode, size in _INTEGER_PREFIXES:
        if 0 <= value < 1 << 8 * size:
            return bytes([opcode]) + value.to_bytes(size, "little")
    raise AmlError(f"integer {value:#x} is not in 0..2^64-1")


def string(text: str) -> bytes:
    """A string constant; AML has ASCII 0x01..0x7f only."""
    if not text.isascii() or "\0" in text:
        raise AmlError(f"string {text!r} is not ASCII without NUL")
    return _STRING_PREFIX + text.encode("ascii") + b"\0"


def path(text: str) -> bytes:
    r"""A name string: `"COM1"`, `"\\_SB.PCI0"`, `"^LNKA"`. Short segments are padded with `_`."""
    prefix_length = len(text) - len(text.lstrip("\\^"))
    prefix = text[:prefix_length]
    if prefix not in ("", "\\") and prefix.strip("^"):
        raise AmlError(f"name {text!r}: a path starts with one backslash, or with carets")
    body = text[prefix_length:]
    segments = body.split(".") if body else []
    for segment in segments:
        if not _NAME_SEGMENT.fullmatch(segment):
            raise AmlError(
                f"name {text!r}: segment {segment!r} is not 1-4 characters of A-Z, _, 0-9 (not first)"
            )
    encoded = b"".join(segment.ljust(4, "_").encode("ascii") for segment in segments)
    match len(segments):
        case 0:
            count = b"\x00"  # NullName
        case 1:
            count = b""
        case 2:
            count = _DUAL_NAME_PREFIX
        case number if number <= 255:
            count = _MULTI_NAME_PREFIX + bytes([number])
        case number:
            raise AmlError(f"name of {number} segments: 255 are the most")
    return prefix.encode("ascii") + count + encoded


def name(text: str, value: bytes) -> bytes:
    """`Name (text, value)`."""
    return _NAME_OP + path(text) + value


def scope(text: str, *terms: bytes) -> bytes:
    """`Scope (text) { terms }`."""
    return _SCOPE_OP + _with_length(path(text) + b"".join(terms))


def device(text: str, *terms: bytes) -> bytes:
    """`Device (text) { terms }`."""
    return _DEVICE_OP + _with_length(path(text) + b"".join(terms))


def method(text: str, argument_count: int, *terms: bytes, serialized: bool = False) -> bytes:
    """`Method (text, argument_count, [Serialized]) { terms }`."""
    if not 0 <= argument_count <= _MAX_METHOD_ARGUMENTS:
        raise AmlError(f"method {text}: {argument_count} arguments, 0..{_MAX_METHOD_ARGUMENTS} are possible")
    flags = argument_count | (_METHOD_SERIALIZED if serialized else 0)
    return _METHOD_OP + _with_length(path(text) + bytes([flags]) + b"".join(terms))


def package(*elements: bytes) -> bytes:
    """`Package () { elements }`; an element may be a bare `path` (a reference)."""
    if len(elements) > 255:
        raise AmlError(f"package of {len(elements)} elements: 255 are the most")
    return _PACKAGE_OP + _with_length(bytes([len(elements)]) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    """`Buffer () { data }`."""
    return _BUFFER_OP + _with_length(integer(len(data)) + data)


def eisa_id(text: str) -> bytes:
    """`EisaId ("PNP0A03")`: three letters in 5 bits each, four hex digits, as a byte-swapped dword."""
    if not _EISA_ID.fullmatch(text):
        raise AmlError(f"EISA id {text!r} is not three capital letters and four hex digits")
    vendor = 0
    for letter in text[:3]:
        vendor = vendor << 5 | (ord(letter) - ord("A") + 1)
    compressed = vendor << 16 | int(text[3:], 16)
    return integer(int.from_bytes(compressed.to_bytes(4, "big"), "little"))


def _with_length(body: bytes) -> bytes:
    """`body` after its PkgLength, which counts itself (20.2.4: 6 bits in one byte, else 4 + 8 per byte)."""
    for extra in range(4):
        total = 1 + extra + len(body)
        if total < (1 << 6 if extra == 0 else 1 << 4 + 8 * extra):
            break
    else:
        raise AmlError(f"a term of {len(body)} bytes: {_MAX_PACKAGE_LENGTH} are the most")
    if extra == 0:
        return bytes([total]) + body
    lead = extra << 6 | total & 0xF
    return bytes([lead]) + (total >> 4).to_bytes(extra, "little") + body
