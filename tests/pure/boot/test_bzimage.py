# SPDX-License-Identifier: Apache-2.0
"""Linux bzImage: the zero page field by field, where things go, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.pure.boot.fake_memory import DIRTY, GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import BzImage, image
from vmm.machine.boot import BootError, BootFormat, BootRequest, E820Entry, EntryState, load, recognise
from vmm.machine.boot.zero_page import zero_page


def boot(
    built: BzImage, memory: FakeMemory, cmdline: str = "console=ttyS0 quiet", initrd: bytes | None = None
) -> EntryState:
    module = image(initrd, "initrd.gz") if initrd is not None else None
    request = BootRequest(image(built.build(), "vmlinuz"), module, cmdline)
    return load(request, memory, memory.e820(), RSDP_GPA)


def refusal(built: BzImage, memory: FakeMemory | None = None, **request: Any) -> str:
    memory = memory or FakeMemory()
    with pytest.raises(BootError) as caught:
        boot(built, memory, **request)
    assert memory.writes == []
    return str(caught.value)


def test_setup_header_makes_a_bzimage() -> None:
    assert recognise(image(BzImage().build())) is BootFormat.BZIMAGE


@pytest.mark.parametrize("spoiled", [BzImage(boot_flag=0x55AA), BzImage(magic=b"HdrT")])
def test_without_its_two_marks_it_is_none(spoiled: BzImage) -> None:
    assert recognise(image(spoiled.build())) is BootFormat.RAW


def test_kernel_goes_to_its_preferred_address() -> None:
    memory = FakeMemory()
    built = BzImage()
    boot(built, memory)
    assert memory.read(0x200000, len(built.kernel)) == built.kernel


def test_setup_sects_0_means_4() -> None:
    memory = FakeMemory()
    built = BzImage(setup_sects=0)
    boot(built, memory)
    assert memory.read(0x200000, len(built.kernel)) == built.kernel


def test_signature_behind_the_kernel_is_not_loaded() -> None:
    memory = FakeMemory()
    built = BzImage(tail=b"signature")
    boot(built, memory)
    assert memory.read(0x200000 + len(built.kernel), 9) == bytes([DIRTY]) * 9


def test_entry_is_64_bit_mode_as_boot_rst_documents_it() -> None:
    memory = FakeMemory()
    entry = boot(BzImage(), memory)
    assert entry.rip == 0x200200  # startup_64
    assert entry.gprs == {"rsi": 0x93000}
    assert entry.cr0 & (1 << 31 | 1) == 1 << 31 | 1  # PG, PE
    assert entry.cr4 == 1 << 5  # PAE
    assert entry.efer == 1 << 10 | 1 << 8  # LMA, LME
    assert entry.rflags == 2
    assert (entry.cs.selector, entry.cs.l, entry.cs.db, entry.cs.type) == (0x10, 1, 0, 0xB)
    for segment in (entry.ds, entry.es, entry.ss):
        assert (segment.selector, segment.base, segment.type) == (0x18, 0, 3)
    base, _ = entry.gdt
    assert memory.number(base + 0x10, 8) == 0x00AF9B000000FFFF  # __BOOT_CS: 4 GiB, execute/read, 64-bit
    assert memory.number(base + 0x18, 8) == 0x00CF93000000FFFF  # __BOOT_DS: 4 GiB, read/write
    assert entry.description == "Linux bzImage, 64-bit mode"


def walk(memory: FakeMemory, cr3: int, address: int) -> int:
    """Translate `address` through 4-level page tables whose leaves are 2 MiB pages."""
    table = cr3
    for shift in (39, 30):
        entry = memory.number(table + 8 * (address >> shift & 511), 8)
        assert entry & 0x83 == 0x03, "present, writable, no large page"
        table = entry & ~0xFFF
    leaf = memory.number(table + 8 * (address >> 21 & 511), 8)
    assert leaf & 0x83 == 0x83, "present, writable, 2 MiB"
    return (leaf & ~0x1FFFFF) | (address & 0x1FFFFF)


@pytest.mark.parametrize("address", [0, 0x93000, 0x200000, GIB - 1, GIB, 3 * GIB + 0x234567, 4 * GIB - 1])
def test_first_4_gib_are_mapped_on_themselves(address: int) -> None:
    memory = FakeMemory()
    assert walk(memory, boot(BzImage(), memory).cr3, address) == address


def test_zero_page_copies_the_setup_header() -> None:
    memory = FakeMemory()
    built = BzImage()
    page = boot(built, memory).gprs["rsi"]
    data = built.build()
    for first, last in ((0x1F1, 0x210), (0x22C, 0x26C)):  # between them lie the fields a loader writes
        assert memory.read(page + first, last - first) == data[first:last]
    assert memory.read(page + 0x26C, 0x2D0 - 0x26C) == bytes(0x2D0 - 0x26C)  # nothing behind the header


@pytest.mark.parametrize("end", [0x264, 0x290])
def test_the_shortest_and_the_longest_setup_header_are_taken_whole(end: int) -> None:
    """A header ends behind init_size at least, and before the zero page's next field."""
    memory = FakeMemory()
    built = BzImage(jump=end - 0x202)
    page = boot(built, memory).gprs["rsi"]
    assert memory.read(page + 0x22C, end - 0x22C) == built.build()[0x22C:end]
    assert memory.read(page + end, 0x2D0 - end) == bytes(0x2D0 - end)


def test_zero_page_keeps_the_kernels_own_load_flags() -> None:
    page = zero_page(b"\0" * (0x211 - 0x1F1) + b"\x20", [], 0, 0, 0)
    assert page[0x211] == 0x20 | 0x80 | 0x01  # quiet; heap in use, loaded high


def test_zero_page_has_the_upper_halves_of_an_initrds_place_and_size() -> None:
    page = zero_page(b"", [], 0x5_1234_0000, 0x6_8765_4321, 0)
    assert [page[at : at + 4] for at in (0x218, 0x21C, 0xC0, 0xC4)] == [
        value.to_bytes(4, "little") for value in (0x12340000, 0x87654321, 5, 6)
    ]


def test_zero_page_is_zero_but_for_what_is_set() -> None:
    memory = FakeMemory()
    page = memory.read(boot(BzImage(), memory).gprs["rsi"], 4096)
    known = [(0x70, 8), (0x1E8, 1), (0x1F1, 0x26C - 0x1F1), (0x2D0, 20 * 4)]
    rest = bytearray(page)
    for offset, size in known:
        rest[offset : offset + size] = bytes(size)
    assert rest == bytes(4096)


def test_zero_page_fields_of_the_loader() -> None:
    memory = FakeMemory()
    page = boot(BzImage(), memory).gprs["rsi"]
    assert memory.number(page + 0x070, 8) == RSDP_GPA
    assert memory.number(page + 0x210, 1) == 0xFF  # type_of_loader: none assigned
    assert memory.number(page + 0x211, 1) == 0x81  # LOADED_HIGH, CAN_USE_HEAP
    assert memory.number(page + 0x214, 4) == 0x200000  # code32_start
    assert memory.number(page + 0x224, 2) == 0xFE00  # heap_end_ptr
    assert memory.string(memory.number(page + 0x228, 4)) == "console=ttyS0 quiet"


def test_zero_page_has_the_memory_map() -> None:
    memory = FakeMemory()
    page = boot(BzImage(), memory).gprs["rsi"]
    count = memory.number(page + 0x1E8, 1)
    assert list(struct.iter_unpack("<QQI", memory.read(page + 0x2D0, 20 * count))) == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xE0000, 0x20000, 2),
        (MIB, 15 * MIB, 1),
    ]


@pytest.mark.parametrize(("count", "accepted"), [(128, True), (129, False)])
def test_memory_map_has_128_entries_at_most(count: int, accepted: bool) -> None:
    memory = FakeMemory()
    e820 = [E820Entry(index * MIB, MIB, 2) for index in range(count)]
    request = BootRequest(image(BzImage().build()))
    if accepted:
        page = load(request, memory, e820, RSDP_GPA).gprs["rsi"]
        assert memory.number(page + 0x2D0 + 127 * 20, 8) == 127 * MIB
    else:
        with pytest.raises(BootError, match="has 129 entries"):
            load(request, memory, e820, RSDP_GPA)


def test_no_initrd_is_address_and_size_0() -> None:
    memory = FakeMemory()
    page = boot(BzImage(), memory).gprs["rsi"]
    assert memory.read(page + 0x218, 8) == bytes(8)
    assert memory.read(page + 0x0C0, 8) == bytes(8)


def test_initrd_lies_at_the_end_of_ram() -> None:
    memory = FakeMemory()
    page = boot(BzImage(), memory, initrd=b"cpio" * 2000).gprs["rsi"]
    gpa, size = struct.unpack("<2I", memory.read(page + 0x218, 8))
    assert (gpa, size) == (16 * MIB - 0x2000, 8000)
    assert memory.read(gpa, size) == b"cpio" * 2000


def test_initrd_ends_at_initrd_addr_max_at_most() -> None:
    memory = FakeMemory()
    page = boot(BzImage(initrd_addr_max=0x7FFFFF), memory, initrd=b"x").gprs["rsi"]
    assert memory.number(page + 0x218, 4) == 0x7FF000


def test_initrd_that_fits_only_higher_goes_there_when_the_kernel_allows_it() -> None:
    memory = FakeMemory()
    page = boot(BzImage(initrd_addr_max=0x2FFFFF), memory, initrd=bytes(2 * MIB)).gprs["rsi"]
    assert memory.number(page + 0x218, 4) == 14 * MIB


def test_initrd_above_4_gib_is_told_by_the_ext_fields() -> None:
    memory = FakeMemory(5 * GIB)
    page = boot(
        BzImage(initrd_addr_max=0x2FFFFF, init_size=0xB0000000), memory, initrd=bytes(512 * MIB)
    ).gprs["rsi"]
    low, size = struct.unpack("<2I", memory.read(page + 0x218, 8))
    high, size_high = struct.unpack("<2I", memory.read(page + 0x0C0, 8))
    assert high << 32 | low == 6 * GIB - 512 * MIB
    assert (size, size_high) == (512 * MIB, 0)


def test_initrd_that_fits_only_higher_is_refused_when_the_kernel_forbids_it() -> None:
    built = BzImage(initrd_addr_max=0x2FFFFF, xloadflags=1)
    message = refusal(built, initrd=bytes(2 * MIB))
    assert "the initrd initrd.gz needs 2 MiB of free RAM between 0x100000 and 0x300000" in message


def test_initrd_keeps_out_of_init_size() -> None:
    built = BzImage(init_size=13 * MIB)  # [2, 15) MiB of 16
    assert "the largest free piece there has 1024 KiB" in refusal(built, initrd=bytes(2 * MIB))


def test_relocatable_kernel_avoids_a_preferred_address_without_ram() -> None:
    memory = FakeMemory(5 * GIB)
    built = BzImage(pref_address=0x1000, kernel_alignment=0x400000, init_size=0x200000)
    assert boot(built, memory).rip == 0x400200


def test_kernel_that_is_not_relocatable_stays_where_it_must() -> None:
    built = BzImage(pref_address=0x90000, relocatable_kernel=0)
    assert "the kernel" in refusal(built)


def test_kernel_that_does_not_fit_is_refused_with_what_it_needs() -> None:
    message = refusal(BzImage(init_size=0x3378000))
    assert "the kernel (init_size) needs 52704 KiB" in message
    assert "give the guest more memory" in message


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (BzImage(version=0x020B), "boot protocol 2.11; 2.12 or newer is needed"),
        (BzImage(version=0x0204), "boot protocol 2.04"),
        (BzImage(loadflags=0), "zImage"),
        (BzImage(xloadflags=0), "32-bit kernel"),
        (BzImage(jump=0x10), "setup header ends at 0x212"),
        (BzImage(jump=0xFF), "setup header ends at 0x301"),
        (BzImage(kernel_alignment=0), "kernel_alignment 0x0 is no power of two"),
        (BzImage(kernel_alignment=0x300000), "no power of two"),
        (BzImage(syssize=0), "only 0 bytes (syssize)"),
        (BzImage(syssize=32), "only 512 bytes (syssize)"),
        (BzImage(syssize=66), "truncated"),
        (BzImage(syssize=0xFFFFFFFF), "truncated"),
        (BzImage(pref_address=1 << 63), "the kernel (init_size) needs"),
        (BzImage(pref_address=(1 << 64) - 1, relocatable_kernel=0), "the kernel (init_size) needs"),
        (BzImage(init_size=0xFFFFFFFF), "the kernel (init_size) needs"),
    ],
)
def test_bad_headers_are_refused(built: BzImage, expected: str) -> None:
    assert expected in refusal(built)


@pytest.mark.parametrize("size", [0x206, 0x207, 0x240, 0x263, 0x268, 0xA00, 0xDFF])
def test_truncated_files_are_refused(size: int) -> None:
    memory = FakeMemory()
    request = BootRequest(image(BzImage().build()[:size], "vmlinuz"))
    with pytest.raises(BootError, match=r"^vmlinuz: .*truncated"):
        load(request, memory, memory.e820(), RSDP_GPA)
    assert memory.writes == []


@pytest.mark.parametrize(("length", "accepted"), [(255, True), (256, False)])
def test_command_line_is_limited_by_cmdline_size(length: int, accepted: bool) -> None:
    built, memory = BzImage(cmdline_size=255), FakeMemory()
    if accepted:
        page = boot(built, memory, "x" * length).gprs["rsi"]
        assert memory.string(memory.number(page + 0x228, 4)) == "x" * length
    else:
        assert "has 256 bytes, the guest takes at most 255" in refusal(built, memory, cmdline="x" * length)
