# SPDX-License-Identifier: Apache-2.0
"""Multiboot 1: loading, the information structure field by field, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.pure.boot.fake_memory import DIRTY, GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import EM_X86_64, Elf, Segment, image, multiboot_header
from vmm.machine.boot import BootError, BootFormat, BootRequest, EntryState, load, recognise
from vmm.machine.boot.multiboot1 import HEADER_MAGIC, find_header, has_multiboot2_header

CODE = b"\x90" * 100
TEXT = multiboot_header() + CODE


def flat(bits: int = 32, **changes: Any) -> bytes:
    """Like a kvm-unit-tests `.flat`: text with the header at 4 MiB, data with bss behind it. changes: of `Elf`."""
    segments = [Segment(0x400000, TEXT), Segment(0x401000, b"data", memsz=0x2000)]
    return Elf(segments, 0x40000C, bits, **changes).build()


def boot(
    data: bytes,
    memory: FakeMemory,
    cmdline: str = "",
    initrd: bytes | None = None,
    name: str = "dir/test.flat",
) -> EntryState:
    module = image(initrd, "env.txt") if initrd is not None else None
    return load(BootRequest(image(data), module, cmdline, name), memory, memory.e820(), RSDP_GPA)


def refusal(data: bytes, memory: FakeMemory | None = None, **request: Any) -> str:
    """The message of the refusal; guest memory must be untouched. request: parameters of `boot`."""
    memory = memory or FakeMemory()
    with pytest.raises(BootError) as caught:
        boot(data, memory, **request)
    assert memory.writes == []
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_segments_are_loaded_and_bss_is_cleared(bits: int) -> None:
    memory = FakeMemory()
    boot(flat(bits), memory)
    assert memory.read(0x400000, len(TEXT)) == TEXT
    assert memory.read(0x401000, 0x2000) == b"data" + bytes(0x2000 - 4)
    assert memory.read(0x403000, 1) == bytes([DIRTY])  # nothing behind the segment


def test_entry_is_flat_32_bit_protected_mode_with_magic_and_information() -> None:
    entry = boot(flat(), FakeMemory())
    assert entry.rip == 0x40000C
    assert entry.gprs == {"rax": 0x2BADB002, "rbx": 0x91000}
    assert entry.cr0 & 0x80000001 == 1  # PE, no PG
    assert (entry.cr3, entry.cr4, entry.efer, entry.rflags) == (0, 0, 0, 2)
    assert (entry.cs.base, entry.cs.limit, entry.cs.db, entry.cs.l) == (0, 0xFFFFFFFF, 1, 0)
    for segment in (entry.ds, entry.es, entry.fs, entry.gs, entry.ss):
        assert (segment.base, segment.limit, segment.type, segment.present) == (0, 0xFFFFFFFF, 3, 1)
    assert entry.description == "multiboot 1, 32-bit protected mode"


def test_higher_half_entry_is_translated_to_a_physical_address() -> None:
    high = Segment(0x400000, TEXT, vaddr=0xC0400000)
    assert boot(Elf([high], 0xC040000C).build(), FakeMemory()).rip == 0x40000C


def test_physical_entry_of_a_higher_half_kernel_is_kept() -> None:
    high = Segment(0x400000, TEXT, vaddr=0xC0400000)
    assert boot(Elf([high], 0x40000C).build(), FakeMemory()).rip == 0x40000C


def test_information_has_qemus_flags_and_memory_sizes() -> None:
    memory = FakeMemory(128 * MIB)
    info = boot(flat(), memory).gprs["rbx"]
    flags, lower, upper, device = struct.unpack("<4I", memory.read(info, 16))
    assert flags == 0x24F  # memory, boot device, command line, modules, map, loader name
    assert (lower, upper) == (639, 0x1FB80)  # QEMU 7.2 with 128 MiB
    assert device == 0x8000FFFF


def test_memory_above_4_gib_does_not_count_as_upper_memory() -> None:
    memory = FakeMemory(5 * GIB)
    info = boot(flat(), memory).gprs["rbx"]
    assert memory.number(info + 8, 4) == (3 * GIB - MIB - 128 * 1024) // 1024


@pytest.mark.parametrize(("arguments", "expected"), [("a b=c", "dir/test.flat a b=c"), ("", "dir/test.flat")])
def test_command_line_begins_with_the_name(arguments: str, expected: str) -> None:
    memory = FakeMemory()
    info = boot(flat(), memory, arguments).gprs["rbx"]
    assert memory.string(memory.number(info + 16, 4)) == expected


def test_command_line_begins_with_the_path_when_no_name_is_given() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory, "x", name="").gprs["rbx"]
    assert memory.string(memory.number(info + 16, 4)) == "guest x"


def test_command_line_keeps_bytes_that_are_not_utf8() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory, "caf\udce9").gprs["rbx"]
    assert memory.read(memory.number(info + 16, 4), 19) == b"dir/test.flat caf\xe9\0"


def test_memory_map_lists_every_entry() -> None:
    memory = FakeMemory(5 * GIB)
    info = boot(flat(), memory).gprs["rbx"]
    length, address = struct.unpack("<2I", memory.read(info + 44, 8))
    entries = list(struct.iter_unpack("<IQQI", memory.read(address, length)))
    assert entries == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x400, 2),
        (20, 0xE0000, 0x20000, 2),
        (20, MIB, 3 * GIB - MIB, 1),
        (20, 4 * GIB, 2 * GIB, 1),
    ]


def test_loader_name_is_given() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory).gprs["rbx"]
    assert memory.string(memory.number(info + 64, 4)) == "vmm"


def test_fields_without_a_flag_are_zero() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory).gprs["rbx"]
    assert memory.read(info + 28, 16) == bytes(16)  # symbols
    assert memory.read(info + 52, 12) == bytes(12)  # drives, ROM configuration
    assert memory.read(info + 68, 48) == bytes(48)  # APM, VBE, frame buffer


def test_no_initrd_is_no_module() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory).gprs["rbx"]
    assert memory.number(info + 20, 4) == 0


def test_initrd_is_the_one_module_on_the_page_above_the_image() -> None:
    memory = FakeMemory()
    info = boot(flat(), memory, initrd=b"NR_CPUS=2\n").gprs["rbx"]
    count, modules = struct.unpack("<2I", memory.read(info + 20, 8))
    start, end, name, padding = struct.unpack("<4I", memory.read(modules, 16))
    assert (count, padding) == (1, 0)
    assert (start, end) == (0x403000, 0x403000 + 10)
    assert memory.read(start, 10) == b"NR_CPUS=2\n"
    assert memory.string(name) == "env.txt"


def test_initrd_of_a_low_image_goes_above_1_mib() -> None:
    memory = FakeMemory()
    low = Elf([Segment(0x8000, TEXT)], 0x800C).build()
    info = boot(low, memory, initrd=b"x").gprs["rbx"]
    assert memory.number(memory.number(info + 24, 4), 4) == MIB


def test_first_page_is_left_alone() -> None:
    memory = FakeMemory()
    boot(flat(), memory, "args", initrd=b"x")
    assert memory.read(0, 4096) == bytes([DIRTY]) * 4096


def test_gdt_in_memory_holds_the_loaded_segments() -> None:
    memory = FakeMemory()
    entry = boot(flat(), memory)
    base, limit = entry.gdt
    assert limit == 0x2F
    assert memory.number(base, 8) == 0
    assert memory.number(base + entry.cs.selector, 8) == 0x00CF9B000000FFFF
    assert memory.number(base + entry.ds.selector, 8) == 0x00CF93000000FFFF
    assert memory.number(base + entry.tr.selector, 8) == 0x00008B0000000067


ADDRESSES = 1 << 16
HEADER_AT = 8


def kludge(*addresses: int, body: bytes = bytes(range(64)), flags: int = ADDRESSES) -> bytes:
    """A file that is no ELF: 8 bytes, the header with `addresses`, `body`."""
    return bytes([0xEE] * HEADER_AT) + multiboot_header(flags, *addresses) + body


def test_address_fields_say_where_and_how_much_is_loaded() -> None:
    memory = FakeMemory()
    data = kludge(0x200008, 0x200000, 0x200040, 0x200080, 0x200030)
    assert boot(data, memory).rip == 0x200030
    assert memory.read(0x200000, 0x80) == data[:0x40] + bytes(0x40)
    assert memory.read(0x200080, 1) == bytes([DIRTY])


def test_address_fields_may_leave_out_the_start_of_the_file() -> None:
    memory = FakeMemory()
    data = kludge(0x200000, 0x200000, 0x200040, 0, 0x200020)
    boot(data, memory)
    assert memory.read(0x200000, 0x40) == data[HEADER_AT : HEADER_AT + 0x40]


def test_load_end_0_means_the_whole_file() -> None:
    memory = FakeMemory()
    data = kludge(0x200008, 0x200000, 0, 0, 0x200020)
    boot(data, memory)
    assert memory.read(0x200000, len(data)) == data
    assert memory.read(0x200000 + len(data), 1) == bytes([DIRTY])


def test_address_fields_of_an_elf_file_win() -> None:
    memory = FakeMemory()
    text = multiboot_header(ADDRESSES, 0x300054, 0x300054, 0, 0, 0x300054) + CODE
    # The ELF header and one program header take 0x54 bytes; they say 4 MiB, the header says 3 MiB.
    assert boot(Elf([Segment(0x400000, text)], 0x400000).build(), memory).rip == 0x300054
    assert memory.read(0x300054, len(text)) == text


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ((0x1FFFFF, 0x200000, 0, 0, 0x200020), "does not fit its file offset"),
        ((0x300000, 0x200000, 0, 0, 0x200020), "does not fit its file offset"),
        ((0x200008, 0x200000, 0x1F0000, 0, 0x200020), "not in order"),
        ((0x200008, 0x200000, 0x200040, 0x200020, 0x200020), "not in order"),
        ((0x200008, 0x200000, 0x200040, 0, 0x200040), "not in order"),
        ((0x200008, 0x200000, 0x200040, 0, 0x1FFFFF), "not in order"),
        ((0x200008, 0x200000, 0x900000, 0, 0x200020), "truncated"),
        ((0x200008, 0x200000, 0x200040, 0xFFFFFFFF, 0x200020), "but RAM is"),
    ],
)
def test_contradicting_address_fields_are_refused(addresses: tuple[int, ...], expected: str) -> None:
    assert expected in refusal(kludge(*addresses))


def test_header_cut_off_in_its_address_fields_is_refused() -> None:
    assert "multiboot header" in refusal(kludge(0x200008, 0x200000, body=b""))


@pytest.mark.parametrize(
    ("flags", "named"),
    [(1 << 2, "bit 2 (video mode information)"), (1 << 3, "bit 3"), (1 << 15 | 1 << 2, "bit 15")],
)
def test_demands_that_cannot_be_met_are_refused_by_name(flags: int, named: str) -> None:
    assert named in refusal(Elf([Segment(0x400000, multiboot_header(flags) + CODE)], 0x40000C).build())


@pytest.mark.parametrize("flags", [1, 2, 3, 1 << 17, 1 << 31])
def test_met_demands_and_optional_flags_are_accepted(flags: int) -> None:
    text, memory = multiboot_header(flags) + CODE, FakeMemory()

    assert boot(Elf([Segment(0x400000, text)], 0x40000C).build(), memory).rip == 0x40000C
    assert memory.read(0x400000, len(text)) == text


def test_header_without_addresses_in_a_file_that_is_no_elf_is_refused() -> None:
    assert "ELF file was expected" in refusal(bytes(16) + TEXT)


@pytest.mark.parametrize("offset", [0, 4, 8180])
def test_header_is_found_up_to_the_end_of_the_first_8_kib(offset: int) -> None:
    assert recognise(image(bytes(offset) + TEXT)) is BootFormat.MULTIBOOT1


@pytest.mark.parametrize("offset", [2, 8184, 8192])
def test_header_elsewhere_is_none(offset: int) -> None:
    assert recognise(image(bytes(offset) + TEXT)) is BootFormat.RAW


def test_wrong_checksum_is_no_header_but_a_later_right_one_is() -> None:
    spoiled = bytearray(multiboot_header())
    spoiled[8] ^= 1
    assert recognise(image(bytes(spoiled))) is BootFormat.RAW
    assert recognise(image(bytes(spoiled) + multiboot_header())) is BootFormat.MULTIBOOT1


def test_a_header_without_its_checksum_is_none() -> None:
    """Its flags alone make the sum 0."""
    assert find_header(image(struct.pack("<2I", HEADER_MAGIC, -HEADER_MAGIC & 0xFFFFFFFF))) is None


MULTIBOOT2 = struct.pack("<4I", 0xE85250D6, 0, 16, 0x17ADAF1A)


@pytest.mark.parametrize(
    ("offset", "found"), [(0, True), (8, True), (32752, True), (4, False), (32760, False), (32768, False)]
)
def test_a_multiboot2_header_is_found_in_the_first_32_kib(offset: int, found: bool) -> None:
    assert has_multiboot2_header(image(bytes(offset) + MULTIBOOT2 + bytes(16))) is found


def test_a_multiboot2_header_has_its_checksum() -> None:
    spoiled = MULTIBOOT2[:-1] + b"\x18"
    assert not has_multiboot2_header(image(spoiled))
    assert not has_multiboot2_header(image(MULTIBOOT2[:-1]))
    assert has_multiboot2_header(image(spoiled + MULTIBOOT2))


def test_image_above_ram_is_refused_with_the_memory_it_needs() -> None:
    message = refusal(Elf([Segment(0x400000, TEXT, memsz=32 * MIB)], 0x40000C).build())
    assert message.startswith("guest: segment 0 needs [0x400000, 0x2400000), 32 MiB")
    assert "give the guest at least 36 MiB of memory" in message


def test_image_in_the_vga_hole_is_refused() -> None:
    assert "link the image where there is RAM" in refusal(Elf([Segment(0xA0000, TEXT)], 0xA000C).build())


@pytest.mark.parametrize(
    ("paddr", "owner"),
    [
        (0x90000, "the GDT"),
        (0x8FFF0, "the GDT"),
        (0x91000, "the boot information"),
        (0x95800, "the command line"),
        (0x9FBF0, "the extended BIOS data area"),
        (0xE0000, "the ACPI tables"),
        (0xFFFF0, "the ACPI tables"),
    ],
)
def test_image_over_boot_structures_is_refused_by_name(paddr: int, owner: str) -> None:
    assert owner in refusal(Elf([Segment(paddr, TEXT)], paddr + 12).build())


def test_overlapping_segments_are_refused() -> None:
    segments = [Segment(0x400000, TEXT, memsz=0x2000), Segment(0x401000, b"x")]
    assert "segment 1 needs [0x401000, 0x401001), 1 KiB, but segment 0 takes [0x400000, 0x402000)" in refusal(
        Elf(segments, 0x40000C).build()
    )


@pytest.mark.parametrize(
    ("bits", "paddr", "memsz"),
    [
        (64, 0x400000, 1 << 63),
        (64, (1 << 64) - 16, 0x1000),
        (32, 0xFFFFFFF0, 0x1000),
        (64, 0x400000, (1 << 64) - 1),
    ],
)
def test_huge_and_wrapping_segments_are_refused(bits: int, paddr: int, memsz: int) -> None:
    good = Segment(0x200000, TEXT)
    bad = Segment(paddr, b"x", memsz=memsz)
    assert "but RAM is" in refusal(Elf([good, bad], 0x20000C, bits).build())


def test_image_above_4_gib_is_refused() -> None:
    segments = [Segment(0x400000, TEXT), Segment(4 * GIB, b"x")]
    assert "below 4 GiB" in refusal(Elf(segments, 0x40000C, 64).build(), FakeMemory(5 * GIB))


def test_entry_outside_the_image_is_refused() -> None:
    assert "its entry point 0x500000 lies in no loaded segment" in refusal(
        Elf([Segment(0x400000, TEXT)], 0x500000).build()
    )


def test_initrd_that_does_not_fit_is_refused_with_both_sizes() -> None:
    message = refusal(flat(), initrd=bytes(12 * MIB))
    assert "the initrd env.txt needs 12 MiB of free RAM" in message
    assert "the largest free piece there has 12276 KiB" in message  # 16 MiB - 0x403000


def test_too_long_command_line_is_refused_with_the_limit() -> None:
    message = refusal(flat(), cmdline="x" * 9000)
    assert "has 9014 bytes, the guest takes at most 8191" in message


def test_nul_in_the_command_line_is_refused() -> None:
    assert "NUL" in refusal(flat(), cmdline="a\0b")


def test_surrogate_that_stands_for_no_byte_is_refused() -> None:
    assert "cannot be encoded" in refusal(flat(), cmdline="\ud800")


def test_x86_64_machine_in_a_32_bit_file_is_accepted() -> None:
    assert boot(flat(machine=EM_X86_64), FakeMemory()).rip == 0x40000C
