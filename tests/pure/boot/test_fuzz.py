# SPDX-License-Identifier: Apache-2.0
"""Spoiled images of every format: a boot or one `BootError` line, never another exception.

Fake RAM raises for a write outside it, so an image that escapes its bounds fails the test. `VMM_FUZZ_EXAMPLES`
sets the number of images per format.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure.boot.fake_memory import GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import (
    PT_NOTE,
    BzImage,
    Elf,
    Segment,
    image,
    multiboot_header,
    note,
    pvh_note,
)
from vmm.machine.boot import BootError, BootFormat, BootRequest, load, recognise
from vmm.machine.boot.layout import BOARD_AREAS

EXAMPLES = int(os.environ.get("VMM_FUZZ_EXAMPLES", "50"))
CODE = bytes(range(256))


def elf(bits: int, *notes: bytes) -> bytes:
    segments = [
        Segment(0x200000, multiboot_header() * (not notes) + CODE),
        Segment(0x201000, CODE, memsz=0x400),
    ]
    segments += [Segment(0, data, type=PT_NOTE) for data in notes]
    return Elf(segments, 0x200010, bits).build()


PLAIN = Elf(
    [Segment(0x200000, CODE), Segment(0x300000, CODE, vaddr=0xFFFFFFFF80300000)], 0x200010, 64
).build()
KLUDGE = multiboot_header(1 << 16, 0x200000, 0x200000, 0x200080, 0x200100, 0x200040) + CODE
IMAGES = {
    "multiboot-elf32": (elf(32), BootFormat.MULTIBOOT1),
    "multiboot-elf64": (elf(64), BootFormat.MULTIBOOT1),
    "multiboot-addresses": (KLUDGE, BootFormat.MULTIBOOT1),
    "pvh-elf32": (elf(32, note(b"GNU\0", 3, bytes(20)) + pvh_note(0x200010)), BootFormat.PVH),
    "pvh-elf64": (elf(64, pvh_note(0x200010, 8), note(b"Xen\0", 6, b"linux\0")), BootFormat.PVH),
    "elf64": (PLAIN, BootFormat.ELF64),
    "bzimage": (BzImage(kernel=CODE * 4).build(), BootFormat.BZIMAGE),
}
"""File and format, for each way into a loader."""

HEADER_BYTES = {"bzimage": (0x1F1, 0x270)}
"""Where spoiling is worth most; the first 0x140 bytes where nothing is said."""

# Zero, small numbers, sign and width limits, RAM's and holes' edges, ELF type numbers: what bounds checks miss.
EDGES = [0, 1, 2, 3, 4, 0x1F, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x8FFFF, 0x90000, 0x9FC00, 0xA0000, 0xFFFFF]
EDGES += [MIB, 8 * MIB - 1, 8 * MIB, 1 << 31, (1 << 32) - 1, 4 * GIB, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
MEMORY = FakeMemory(8 * MIB)


def edit(low: int, high: int) -> st.SearchStrategy[tuple[int, bytes]]:
    """Where to write what: an edge value of some width, or any bytes."""
    values = st.builds(
        lambda value, width: (value & (1 << 8 * width) - 1).to_bytes(width, "little"),
        st.sampled_from(EDGES),
        st.sampled_from([1, 2, 4, 8]),
    )
    return st.tuples(st.integers(low, high), values | st.binary(min_size=1, max_size=8))


def boots_or_is_refused(data: bytes, **options: Any) -> None:
    """options: fields of `BootRequest`."""
    MEMORY.writes.clear()
    request = BootRequest(image(data), **options)
    try:
        entry = load(request, MEMORY, MEMORY.e820(), RSDP_GPA)
    except BootError as error:
        assert "\n" not in str(error)
        assert MEMORY.writes == []
        return
    for gpa, size in MEMORY.writes:
        for area in BOARD_AREAS:
            assert gpa + size <= area.gpa or area.gpa + area.size <= gpa, f"wrote over {area.what}"
    assert 0 <= entry.rip < 1 << 64
    MEMORY.read(entry.cs.base + entry.rip, 1)  # the first instruction is in RAM


def fuzz_settings() -> settings:
    return settings(
        max_examples=EXAMPLES,
        deadline=timedelta(seconds=10),  # some 2 ms on an idle machine; a loop without a bound takes for ever
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.mark.parametrize("name", IMAGES)
def test_unspoiled_image_boots_as_its_format(name: str) -> None:
    data, boot_format = IMAGES[name]
    assert recognise(image(data)) is boot_format
    MEMORY.writes.clear()
    load(BootRequest(image(data)), MEMORY, MEMORY.e820(), RSDP_GPA)
    assert MEMORY.writes


@pytest.mark.parametrize("name", IMAGES)
@fuzz_settings()
@given(data=st.data())
def test_spoiled_header(name: str, data: st.DataObject) -> None:
    spoiled = bytearray(IMAGES[name][0])
    low, high = HEADER_BYTES.get(name, (0, 0x140))
    for offset, value in data.draw(st.lists(edit(low, high), min_size=1, max_size=6)):
        spoiled[offset : offset + len(value)] = value
    initrd = image(b"initrd", "initrd") if data.draw(st.booleans()) else None
    boots_or_is_refused(bytes(spoiled), initrd=initrd, cmdline="x")


@pytest.mark.parametrize("name", IMAGES)
@fuzz_settings()
@given(data=st.data())
def test_truncated_and_spoiled_image(name: str, data: st.DataObject) -> None:
    spoiled = bytearray(IMAGES[name][0])
    for offset, value in data.draw(st.lists(edit(0, len(spoiled)), max_size=3)):
        spoiled[offset : offset + len(value)] = value
    boots_or_is_refused(bytes(spoiled[: data.draw(st.integers(1, len(spoiled)))]))


@fuzz_settings()
@given(
    magic=st.sampled_from([b"\x7fELF", b"\x7fELF\2\1\1", b"\x7fELF\1\1\1", multiboot_header(), b""]),
    rest=st.binary(max_size=0x400),
)
def test_noise_behind_a_magic_number(magic: bytes, rest: bytes) -> None:
    boots_or_is_refused((magic + rest) or b"\0")


@fuzz_settings()
@given(address=st.sampled_from(EDGES) | st.integers(-1, 1 << 64), size=st.integers(1, 0x2000))
def test_raw_binary_anywhere(address: int, size: int) -> None:
    boots_or_is_refused(bytes(size), raw_address=address)


@fuzz_settings()
@given(cmdline=st.text(max_size=9000), initrd_size=st.integers(1, 9 * MIB))
def test_any_command_line_and_initrd_size(cmdline: str, initrd_size: int) -> None:
    for data, _ in IMAGES.values():
        boots_or_is_refused(data, cmdline=cmdline, initrd=image(bytes(initrd_size), "initrd"))
