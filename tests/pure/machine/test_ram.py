# SPDX-License-Identifier: Apache-2.0
"""Guest RAM: layout, bounds, mappings, and that closing gives everything back."""

from __future__ import annotations

import errno
import os

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmm.machine.ram as ram_module
from vmm.machine.ram import GIB, MIB, GuestRam, RamBlock, RamError, lay_out
from vmm.outside import GuestMemoryError


def test_small_memory_lies_below_the_hole() -> None:
    assert lay_out(128 * MIB) == [
        RamBlock(0, 0xA0000, 0),
        RamBlock(0xC0000, 128 * MIB - 0xC0000, 0xC0000),
    ]


def test_memory_beyond_3_gib_goes_above_4_gib() -> None:
    blocks = lay_out(5 * GIB)

    assert blocks[1:] == [
        RamBlock(0xC0000, 3 * GIB - 0xC0000, 0xC0000),
        RamBlock(4 * GIB, 2 * GIB, 3 * GIB),
    ]


def test_what_is_written_is_read_back_on_both_sides_of_the_hole() -> None:
    with GuestRam(4 * GIB) as ram:  # sparse: only touched pages exist
        ram.write(0x1000, b"low")
        ram.write(5 * GIB - 4, b"high")

        assert ram.read(0x1000, 3) == b"low"
        assert ram.read(5 * GIB - 4, 4) == b"high"


@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        (0xA0000, 1),
        (0x9FFFF, 2),
        (0xBFFFF, 2),
        (4 * MIB - 1, 2),
        (4 * MIB, 1),
        (-1, 1),
        (0, -1),
        (1 << 64, 1),
    ],
)
def test_an_access_that_is_not_all_ram_is_refused_and_changes_nothing(gpa: int, size: int) -> None:
    with GuestRam(4 * MIB) as ram:
        with pytest.raises(GuestMemoryError, match="is not all guest RAM"):
            ram.read(gpa, size)
        with pytest.raises(GuestMemoryError):
            ram.fill(gpa, size, 0xFF)
        if size > 0:
            with pytest.raises(GuestMemoryError):
                ram.write(gpa, b"\xff" * size)

        assert not any(ram.read(0, 0xA0000)) and not any(ram.read(0xC0000, 4 * MIB - 0xC0000))


@settings(max_examples=50)
@given(st.integers(0, 4 * MIB), st.integers(0, 4 * MIB), st.integers(0, 255))
def test_fill_fills_exactly_its_range(gpa: int, size: int, value: int) -> None:
    with GuestRam(4 * MIB) as ram:
        inside = any(b.gpa <= gpa and gpa + size <= b.gpa + b.size for b in ram.blocks)
        if not inside:
            return
        ram.fill(gpa, size, value)

        assert ram.read(gpa, size) == bytes([value]) * size
        total = sum(sum(ram.read(b.gpa, b.size)) for b in ram.blocks)
        assert total == value * size


def test_every_mapping_shows_the_same_memory() -> None:
    with GuestRam(4 * MIB) as ram:
        mapping = ram.map_for_kvm()
        ram.write(0x2000, b"shared")
        assert bytes(mapping.view[0x2000:0x2006]) == b"shared"

        mapping.drop_page(0x2000)  # takes the page out of the mapping, not out of the memory

        assert bytes(mapping.view[0x2000:0x2006]) == b"shared"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (MIB, "too small: at least 2 MiB"),
        (0, "too small"),
        (4 * MIB + 1, "not a multiple of 4 KiB"),
        (psutil.virtual_memory().total // MIB * MIB + GIB, "more than this host's"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(size: int, words: str) -> None:
    with pytest.raises(RamError, match=words) as caught:
        GuestRam(size)

    assert "\n" not in str(caught.value)


def test_huge_pages_that_the_host_has_not_reserved_are_refused_with_advice() -> None:
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        free = next((int(line.split()[1]) for line in meminfo if line.startswith("HugePages_Free")), 0)

    with pytest.raises(RamError, match=r"vm\.nr_hugepages"):
        GuestRam((free + 1) * 2 * MIB + 2 * MIB, huge_pages=True)


def test_closing_leaves_no_descriptor_and_no_mapping() -> None:
    def state() -> tuple[int, int]:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return len(os.listdir("/proc/self/fd")), sum("guest-ram" in line for line in maps)

    before = state()
    for _ in range(20):
        ram = GuestRam(4 * MIB)
        ram.map_for_kvm()
        ram.close()
        ram.close()

    assert state() == before


def test_a_mapping_that_is_refused_is_a_ram_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second mapping, for KVM, may be the one that meets a limit of address space."""

    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with GuestRam(4 * MIB) as ram:
        monkeypatch.setattr(ram_module, "RamMapping", refuse)

        with pytest.raises(
            RamError, match=r"4 MiB cannot be mapped \(Cannot allocate memory\): ask for less"
        ):
            ram.map_for_kvm()


def test_a_refused_first_mapping_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(ram_module, "RamMapping", refuse)

    with pytest.raises(RamError):
        GuestRam(4 * MIB)

    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_sixteen_bytes_are_exchanged_if_they_are_as_expected() -> None:
    with GuestRam(2 << 20) as ram:
        ram.write(0x1000, b"0123456789abcdef")

        assert ram.compare_exchange(0x1000, bytes(16), b"x" * 16) == b"0123456789abcdef"
        assert ram.compare_exchange(0x1000, b"0123456789abcdef", b"x" * 16) == b"0123456789abcdef"

        assert ram.read(0xFF0, 48) == bytes(16) + b"x" * 16 + bytes(16)


def test_an_exchange_outside_ram_is_refused() -> None:
    with GuestRam(2 << 20) as ram, pytest.raises(GuestMemoryError):
        ram.compare_exchange(0xA0000, bytes(16), bytes(16))
