# SPDX-License-Identifier: Apache-2.0
"""Plain ELF64: entry state, what RDI and RSI point at, page tables for much RAM, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.pure.boot.fake_memory import GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import (
    EM_386,
    EM_AARCH64,
    ET_DYN,
    ET_REL,
    PF_R,
    PT_INTERP,
    Elf,
    Segment,
    image,
)
from tests.pure.boot.test_bzimage import walk
from vmm.machine.boot import BootError, BootFormat, BootRequest, EntryState, load, recognise

CODE = b"\x90" * 0x200


def guest(**changes: Any) -> Elf:
    """changes: fields of `Elf`."""
    fields: dict[str, Any] = {
        "segments": [Segment(0x200000, CODE, memsz=0x1000)],
        "entry": 0x200010,
        "bits": 64,
    }
    return Elf(**(fields | changes))


def boot(
    elf: Elf, memory: FakeMemory | None = None, cmdline: str = "verbose", initrd: bytes | None = None
) -> EntryState:
    memory = memory or FakeMemory()
    module = image(initrd, "data.bin") if initrd is not None else None
    return load(BootRequest(image(elf.build()), module, cmdline), memory, memory.e820(), RSDP_GPA)


def refusal(elf: Elf, memory: FakeMemory | None = None) -> str:
    memory = memory or FakeMemory()
    with pytest.raises(BootError) as caught:
        boot(elf, memory)
    assert memory.writes == []
    return str(caught.value)


@pytest.mark.parametrize("elf", [guest(), guest(type=ET_DYN)])
def test_elf64_without_another_protocols_mark_is_plain(elf: Elf) -> None:
    assert recognise(image(elf.build())) is BootFormat.ELF64


def test_entry_is_64_bit_mode() -> None:
    entry = boot(guest())
    assert entry.rip == 0x200010
    assert entry.gprs == {"rdi": 0x91000, "rsi": 0x93000, "rsp": 0x94FF8}
    assert (entry.cs.l, entry.cs.db, entry.cr4, entry.efer) == (1, 0, 1 << 5, 0x500)
    assert entry.description == "plain ELF64, 64-bit mode"


def test_stack_is_as_behind_a_call() -> None:
    memory = FakeMemory()
    rsp = boot(guest(), memory).gprs["rsp"]
    assert rsp % 16 == 8  # System V ABI: RSP + 8 is a multiple of 16 at a function's entry
    assert memory.number(rsp, 8) == 0
    assert memory.read(rsp & ~0xFFF, 4096) == bytes(4096)


def test_rdi_is_a_start_info_and_rsi_a_zero_page() -> None:
    memory = FakeMemory()
    entry = boot(guest(), memory, initrd=b"module")
    info, page = entry.gprs["rdi"], entry.gprs["rsi"]
    assert memory.number(info, 4) == 0x336EC578
    assert memory.string(memory.number(info + 24, 8)) == "verbose"
    module, size = struct.unpack("<2Q", memory.read(memory.number(info + 16, 8), 16))
    assert memory.read(module, size) == b"module"
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert (memory.number(page + 0x1FE, 2), memory.number(page + 0x206, 2)) == (0xAA55, 0x020C)
    assert memory.number(page + 0x210, 1) == 0xFF
    assert memory.string(memory.number(page + 0x228, 4)) == "verbose"
    assert struct.unpack("<2I", memory.read(page + 0x218, 8)) == (module, size)
    assert memory.number(page + 0x230, 4) == 2 * MIB  # kernel_alignment
    assert memory.number(page + 0x1E8, 1) == 4
    assert memory.number(page + 0x070, 8) == RSDP_GPA


def test_virtual_entry_is_translated_by_executable_segments_only() -> None:
    data = Segment(0x300000, b"data", vaddr=0x200000, memsz=0x1000, flags=PF_R)
    text = Segment(0x200000, CODE, vaddr=0xFFFFFFFF80000000)
    assert boot(guest(segments=[data, text], entry=0xFFFFFFFF80000010)).rip == 0x200010
    assert boot(guest(segments=[data, text], entry=0x200010)).rip == 0x200010


@pytest.mark.parametrize("address", [0, 4 * GIB - 1, 4 * GIB, 6 * GIB - 1])
def test_all_ram_is_mapped_on_itself(address: int) -> None:
    memory = FakeMemory(5 * GIB)
    assert walk(memory, boot(guest(), memory).cr3, address) == address


def test_tables_that_do_not_fit_into_low_memory_go_to_the_end_of_low_ram() -> None:
    memory = FakeMemory(5 * GIB)  # ends at 6 GiB: PML4, PDPT and 6 directories
    assert boot(guest(), memory).cr3 == 3 * GIB - 8 * 4096


def test_map_of_more_than_512_gib_has_a_second_pointer_table() -> None:
    memory = FakeMemory(600 * GIB)
    cr3 = boot(guest(), memory).cr3
    assert walk(memory, cr3, 511 * GIB) == 511 * GIB
    assert walk(memory, cr3, 600 * GIB) == 600 * GIB


def test_segment_above_4_gib_is_loaded() -> None:
    memory = FakeMemory(5 * GIB)
    high = guest(segments=[Segment(5 * GIB, CODE)], entry=5 * GIB)
    assert boot(high, memory).rip == 5 * GIB
    assert memory.read(5 * GIB, len(CODE)) == CODE


@pytest.mark.parametrize(
    ("elf", "expected"),
    [
        (guest(bits=32), "is a 32-bit ELF file for EM_386 with neither"),
        (guest(machine=EM_386), "is a 64-bit ELF file for EM_386"),
        (guest(machine=EM_AARCH64), "for machine EM_AARCH64; EM_386 or EM_X86_64 was expected"),
        (guest(machine=0x9999), "for machine 39321"),
        (guest(type=ET_REL), "of type ET_REL; ET_EXEC or ET_DYN was expected"),
        (guest(byte_order=2), "class 2 and byte order 2"),
        (guest(segments=[]), "without a PT_LOAD segment"),
        (guest(phnum=0), "without a PT_LOAD segment"),
        (guest(phnum=513), "has 513 program headers"),
        (guest(phnum=0xFFFF), "has 65535 program headers"),
        (guest(phnum=40), "program header 10 should lie at file offset"),
        (guest(phoff=1 << 63), "program header 0 should lie at file offset 0x8000000000000000"),
        (guest(phentsize=55), "e_phentsize is 55"),
        (guest(entry=0), "its entry point 0x0 lies in no loaded segment"),
        (guest(segments=[Segment(0x200000, CODE, memsz=0x100)]), "0x200 bytes in the file and only 0x100"),
        (guest(segments=[Segment(0x200000, CODE, filesz=0x10000, memsz=0x10000)]), "segment 0 should lie at"),
        (guest(segments=[Segment(0x200000, CODE, offset=(1 << 64) - 1)]), "segment 0 should lie at"),
        (guest(segments=[Segment(0x200000, CODE), Segment(0, b"/lib/ld.so\0", type=PT_INTERP)]), "PT_INTERP"),
        (guest(extra=struct.pack("<4I", 0xE85250D6, 0, 16, 0x17ADAF1A)), "multiboot 2 image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_refused(elf: Elf, expected: str) -> None:
    message = refusal(elf)
    assert message.startswith("guest: ")
    assert expected in message


@pytest.mark.parametrize("size", [4, 5, 15, 16, 63, 64, 119, 120, 0x200])
def test_truncated_files_are_refused(size: int) -> None:
    with pytest.raises(BootError, match="truncated"):
        load(BootRequest(image(guest().build()[:size])), FakeMemory(), [], RSDP_GPA)


def test_no_room_for_the_page_tables_is_refused() -> None:
    memory = FakeMemory(5 * GIB)
    full = guest(segments=[Segment(MIB, CODE, memsz=3 * GIB - MIB)], entry=MIB)
    assert "the page tables needs 32 KiB of free RAM" in refusal(full, memory)
