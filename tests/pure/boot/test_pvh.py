# SPDX-License-Identifier: Apache-2.0
"""PVH: the entry note, hvm_start_info field by field, and what is refused."""

from __future__ import annotations

import struct

import pytest

from tests.pure.boot.fake_memory import DIRTY, GIB, MIB, RSDP_GPA, FakeMemory
from tests.pure.boot.images import EM_386, EM_X86_64, PT_NOTE, Elf, Segment, image, note, pvh_note
from vmm.machine.boot import BootError, BootFormat, BootRequest, EntryState, load, recognise

ENTRY = 0x1000850
TEXT = Segment(0x1000000, b"\x90" * 0x1000, vaddr=0xFFFFFFFF81000000)
PERCPU = Segment(0x1002000, b"cpu", vaddr=0, memsz=0x800)


def vmlinux(notes: bytes = pvh_note(ENTRY), bits: int = 64, align: int = 4) -> bytes:
    """Like Linux' `vmlinux`: virtual addresses in the top 2 GiB, a per-CPU segment at virtual address 0."""
    segments = [
        TEXT if bits == 64 else Segment(TEXT.paddr, TEXT.data),
        PERCPU,
        Segment(0, notes, type=PT_NOTE, align=align),
    ]
    return Elf(segments, 0x1000000, bits).build()


def boot(
    data: bytes, memory: FakeMemory, cmdline: str = "console=ttyS0", initrd: bytes | None = None
) -> EntryState:
    module = image(initrd, "initrd.gz") if initrd is not None else None
    return load(BootRequest(image(data), module, cmdline), memory, memory.e820(), RSDP_GPA)


def refusal(data: bytes, memory: FakeMemory | None = None, initrd: bytes | None = None) -> str:
    memory = memory or FakeMemory(32 * MIB)
    with pytest.raises(BootError) as caught:
        boot(data, memory, initrd=initrd)
    assert memory.writes == []
    return str(caught.value)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("bits", [32, 64])
def test_note_makes_an_elf_file_pvh(bits: int, size: int) -> None:
    assert recognise(image(vmlinux(pvh_note(ENTRY, size), bits))) is BootFormat.PVH


def test_note_is_found_among_others() -> None:
    notes = note(b"GNU\0", 3, bytes(20)) + note(b"Xen\0", 6, b"linux\0") + note(b"Linux\0", 18, bytes(4))
    assert boot(vmlinux(notes + pvh_note(ENTRY, 8)), FakeMemory(32 * MIB)).rip == ENTRY


def test_notes_aligned_to_8_bytes_are_understood() -> None:
    notes = note(b"GNU\0", 5, bytes(12), align=8) + pvh_note(ENTRY).ljust(24, b"\0")
    assert boot(vmlinux(notes, align=8), FakeMemory(32 * MIB)).rip == ENTRY


def test_other_owners_note_of_the_same_type_is_not_xens() -> None:
    assert recognise(image(vmlinux(note(b"Linux\0", 18, bytes(4))))) is BootFormat.ELF64


def test_entry_is_32_bit_protected_mode_as_xen_documents_it() -> None:
    entry = boot(vmlinux(), FakeMemory(32 * MIB))
    assert entry.rip == ENTRY
    assert entry.gprs == {"rbx": 0x91000}
    assert entry.cr0 & ~(1 << 4) == 1  # PE only; ET is fixed to 1
    assert (entry.cr4, entry.efer) == (0, 0)
    assert entry.rflags & (1 << 17 | 1 << 9 | 1 << 8) == 0  # VM, IF, TF
    assert (entry.cs.base, entry.cs.limit, entry.cs.type, entry.cs.db) == (0, 0xFFFFFFFF, 0xB, 1)
    for segment in (entry.ds, entry.es, entry.ss):
        assert (segment.base, segment.limit, segment.type) == (0, 0xFFFFFFFF, 3)
    assert (entry.tr.base, entry.tr.limit, entry.tr.type, entry.tr.present) == (0, 0x67, 0xB, 1)
    assert entry.description == "PVH, 32-bit protected mode"


def test_segments_go_to_their_physical_addresses() -> None:
    memory = FakeMemory(32 * MIB)
    boot(vmlinux(), memory)
    assert memory.read(TEXT.paddr, 0x1000) == TEXT.data
    assert memory.read(PERCPU.paddr, 0x800) == b"cpu" + bytes(0x7FD)


def test_start_info_without_initrd() -> None:
    memory = FakeMemory(32 * MIB)
    info = boot(vmlinux(), memory).gprs["rbx"]
    magic, version, flags, modules = struct.unpack("<4I", memory.read(info, 16))
    modlist, cmdline, rsdp, memmap = struct.unpack("<4Q", memory.read(info + 16, 32))
    count, reserved = struct.unpack("<2I", memory.read(info + 48, 8))
    assert (magic, version, flags, modules, modlist) == (0x336EC578, 1, 0, 0, 0)
    assert memory.string(cmdline) == "console=ttyS0"
    assert rsdp == RSDP_GPA
    assert (count, reserved) == (4, 0)
    assert list(struct.iter_unpack("<QQII", memory.read(memmap, 24 * count))) == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x400, 2, 0),
        (0xE0000, 0x20000, 2, 0),
        (MIB, 31 * MIB, 1, 0),
    ]


def test_initrd_is_the_one_module_at_the_end_of_ram() -> None:
    memory = FakeMemory(32 * MIB)
    info = boot(vmlinux(), memory, initrd=b"cpio" * 2000).gprs["rbx"]
    assert memory.number(info + 12, 4) == 1
    start, size, name, reserved = struct.unpack("<4Q", memory.read(memory.number(info + 16, 8), 32))
    assert (start, size) == (32 * MIB - 0x2000, 8000)  # two pages
    assert memory.read(start, size) == b"cpio" * 2000
    assert (name, reserved) == (0, 0)


def test_initrd_stays_below_4_gib() -> None:
    memory = FakeMemory(5 * GIB)
    info = boot(vmlinux(), memory, initrd=b"x").gprs["rbx"]
    assert memory.number(memory.number(info + 16, 8), 8) == 3 * GIB - 0x1000


def test_initrd_at_the_end_makes_room_for_an_image_there() -> None:
    memory = FakeMemory(16 * MIB + 0x3000)
    info = boot(vmlinux(), memory, initrd=b"x").gprs["rbx"]
    # The image ends at 0x1002800 of 0x1003000 bytes: no whole page above it, so below it.
    assert memory.number(memory.number(info + 16, 8), 8) == 0x1001000


def test_first_page_is_left_alone() -> None:
    memory = FakeMemory(32 * MIB)
    boot(vmlinux(), memory, initrd=b"x")
    assert memory.read(0, 4096) == bytes([DIRTY]) * 4096


@pytest.mark.parametrize("size", [0, 2, 16])
def test_entry_note_of_another_size_is_refused(size: int) -> None:
    assert f"has {size} bytes, 4 or 8" in refusal(vmlinux(note(b"Xen\0", 18, bytes(size))))


def test_entry_note_cut_off_by_its_segment_is_refused() -> None:
    assert "4 or 8" in refusal(vmlinux(pvh_note(ENTRY)[:-1]))


def test_entry_outside_the_image_is_refused() -> None:
    assert "its PVH entry point 0x2000 lies in no loaded segment" in refusal(vmlinux(pvh_note(0x2000)))


def test_entry_above_4_gib_is_refused() -> None:
    high = [Segment(4 * GIB, b"\x90" * 64), Segment(0, pvh_note(4 * GIB, 8), type=PT_NOTE)]
    assert "below 4 GiB" in refusal(Elf(high, 4 * GIB, 64).build(), FakeMemory(5 * GIB))


def test_initrd_that_does_not_fit_is_refused() -> None:
    message = refusal(vmlinux(), initrd=bytes(20 * MIB))
    assert "the initrd initrd.gz needs 20 MiB" in message
    assert "give the guest more memory" in message


def test_image_that_does_not_fit_is_refused() -> None:
    assert "give the guest at least 17 MiB of memory" in refusal(vmlinux(), FakeMemory(16 * MIB))


@pytest.mark.parametrize("machine", [EM_386, EM_X86_64])
def test_both_x86_machines_are_accepted(machine: int) -> None:
    data = Elf([TEXT, Segment(0, pvh_note(ENTRY), type=PT_NOTE)], 0x1000000, 64, machine).build()
    assert boot(data, FakeMemory(32 * MIB)).rip == ENTRY
