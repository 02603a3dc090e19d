# SPDX-License-Identifier: Apache-2.0
"""Raw binaries: real mode below 1 MiB, protected mode above, and files that are no kernel at all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.boot.fake_memory import DIRTY, GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import BzImage, image
from vmm.machine.boot import BootError, BootRequest, EntryState, load

SECTOR = bytes(range(256)) * 2


def boot(address: int | None, memory: FakeMemory, data: bytes = SECTOR, **options: Any) -> EntryState:
    """options: fields of `BootRequest`."""
    request = BootRequest(image(data), raw_address=address, **options)
    return load(request, memory, memory.e820(), RSDP_GPA)


def refusal(address: int | None, data: bytes = SECTOR, **options: Any) -> str:
    memory = FakeMemory()
    with pytest.raises(BootError) as caught:
        boot(address, memory, data, **options)
    assert memory.writes == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "selector", "ip"),
    [(0x7C00, 0, 0x7C00), (0, 0, 0), (0xFFFF, 0, 0xFFFF), (0x10000, 0x1000, 0), (0x98765, 0x9876, 5)],
)
def test_below_1_mib_starts_in_real_mode(address: int, selector: int, ip: int) -> None:
    memory = FakeMemory()
    entry = boot(address, memory)
    assert memory.read(address, len(SECTOR)) == SECTOR
    assert (entry.cs.selector, entry.cs.base, entry.cs.limit, entry.rip) == (
        selector,
        selector << 4,
        0xFFFF,
        ip,
    )
    assert (entry.cr0, entry.cr4, entry.efer, entry.gprs) == (1 << 4, 0, 0, {})
    for segment in (entry.ds, entry.es, entry.fs, entry.gs, entry.ss):
        assert (segment.selector, segment.base, segment.limit, segment.db) == (0, 0, 0xFFFF, 0)
    assert entry.idt == (0, 0x3FF)
    assert entry.description == f"raw binary at {address:#x}, 16-bit real mode"


def test_real_mode_guest_finds_nothing_but_itself() -> None:
    memory = FakeMemory()
    boot(0x7C00, memory)
    assert memory.writes == [(0x7C00, len(SECTOR))]


def test_from_1_mib_on_starts_in_protected_mode_with_a_start_info() -> None:
    memory = FakeMemory()
    entry = boot(MIB, memory, initrd=image(b"module"), cmdline="x=1")
    assert entry.rip == MIB
    assert (entry.cr0 & 1, entry.cs.db, entry.cs.base) == (1, 1, 0)
    info = entry.gprs["rbx"]
    assert memory.number(info, 4) == 0x336EC578
    assert memory.string(memory.number(info + 24, 8)) == "x=1"
    assert memory.number(info + 12, 4) == 1
    assert entry.description == "raw binary at 0x100000, 32-bit protected mode"


def test_an_address_wins_over_the_files_format() -> None:
    memory = FakeMemory()
    data = BzImage().build()
    assert boot(0x1000, memory, data).rip == 0x1000
    assert memory.read(0x1000, len(data)) == data


def test_bytes_behind_the_binary_are_left_alone() -> None:
    memory = FakeMemory()
    boot(0x200000, memory)
    assert memory.read(0x200000 + len(SECTOR), 1) == bytes([DIRTY])


@pytest.mark.parametrize("address", [-1, 4 * GIB, 1 << 64])
def test_addresses_beyond_32_bits_are_refused(address: int) -> None:
    assert "a raw binary's address is 0 to 0xffffffff" in refusal(address)


@pytest.mark.parametrize("options", [{"initrd": image(b"x")}, {"cmdline": "x"}])
def test_real_mode_takes_no_initrd_and_no_command_line(options: dict[str, Any]) -> None:
    assert "takes no initrd and no command line" in refusal(0x7C00, **options)


@pytest.mark.parametrize("address", [0x9FE00, 0x9FFFF, 0xB0000, 16 * MIB - 511, 0xFFFFFE00])
def test_places_that_are_not_free_ram_are_refused(address: int) -> None:
    assert "the raw binary needs" in refusal(address)


def test_protected_mode_binary_over_the_boot_structures_is_impossible() -> None:
    """They lie below 1 MiB; a binary that begins there is started in real mode and needs none."""
    assert boot(0x90000, FakeMemory()).gprs == {}


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh9", "bzip2"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ],
)
def test_compressed_file_is_told_as_such(head: bytes, name: str) -> None:
    assert f"is compressed ({name})" in refusal(None, head + bytes(64))


def test_unknown_file_without_address_shows_its_first_bytes() -> None:
    message = refusal(None, b"#!/bin/sh\n")
    assert message.startswith("guest: is in no known format")
    assert "23 21 2f 62 69 6e" in message
    assert "--raw ADDRESS" in message
