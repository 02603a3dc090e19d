# SPDX-License-Identifier: Apache-2.0
"""What is read from an ELF file, at the edges of its limits."""

from __future__ import annotations

import pytest

from tests.pure.boot.images import PT_NOTE, Elf, Segment, image, note, pvh_note
from vmm.machine.boot import BootError
from vmm.machine.boot.elf import MAX_NOTE_BYTES, MAX_SEGMENTS, check_in_segment, entry_gpa, parse_elf

TEXT = bytes(range(64))
HIGH = 0xC0400000


@pytest.mark.parametrize(("entry", "gpa"), [(HIGH, 0x400000), (HIGH + 63, 0x40003F)])
def test_the_first_and_the_last_byte_of_a_segment_may_be_the_entry(entry: int, gpa: int) -> None:
    file = image(Elf([Segment(0x400000, TEXT, vaddr=HIGH)], entry, 64).build())

    assert entry_gpa(file, parse_elf(file)) == gpa


@pytest.mark.parametrize("entry", [HIGH - 1, HIGH + 64, 0x400000 - 1, 0x400000 + 64])
def test_an_entry_beside_the_segment_is_refused(entry: int) -> None:
    file = image(Elf([Segment(0x400000, TEXT, vaddr=HIGH)], entry, 64).build())

    with pytest.raises(BootError, match="lies in no loaded segment"):
        entry_gpa(file, parse_elf(file))


def test_both_ends_of_a_segment_are_looked_at_by_physical_address() -> None:
    file = image(Elf([Segment(0x400000, TEXT)], 0x400000, 64).build())
    elf = parse_elf(file)

    for gpa in (0x400000, 0x40003F):
        check_in_segment(file, elf, gpa, "it")
    for gpa in (0x3FFFFF, 0x400040):
        with pytest.raises(BootError, match=f"it {gpa:#x} lies in no loaded segment"):
            check_in_segment(file, elf, gpa, "it")


def test_empty_segments_do_not_count() -> None:
    file = image(Elf([Segment(0x400000, TEXT), Segment(0xFFFF_0000, b"")], 0x400000, 64).build())

    assert [segment.paddr for segment in parse_elf(file).segments] == [0x400000]


@pytest.mark.parametrize(("count", "taken"), [(MAX_SEGMENTS, True), (MAX_SEGMENTS + 1, False)])
def test_the_most_program_headers(count: int, taken: bool) -> None:
    segments = [Segment(0x400000, TEXT)] + [Segment(0, b"")] * (count - 1)
    file = image(Elf(segments, 0x400000, 64).build())

    if taken:
        assert len(parse_elf(file).segments) == 1
    else:
        with pytest.raises(BootError, match="has 513 program headers, at most 512"):
            parse_elf(file)


@pytest.mark.parametrize(("before", "found"), [(MAX_NOTE_BYTES - 20, 0x400000), (MAX_NOTE_BYTES, None)])
def test_notes_are_searched_so_far(before: int, found: int | None) -> None:
    """The entry's note has 20 bytes: header, name, value."""
    filler = note(b"GNU\0", 3, bytes(before - 16))
    notes = Segment(0, filler + pvh_note(0x400000), type=PT_NOTE)
    file = image(Elf([Segment(0x400000, TEXT), notes], 0x400000, 64).build())

    assert parse_elf(file).pvh_entry == found
