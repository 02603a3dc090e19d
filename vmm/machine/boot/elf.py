# SPDX-License-Identifier: Apache-2.0
"""What a boot loader wants to know of an ELF file: entry, PT_LOAD segments, Xen's PVH entry note.

The headers are decoded by pyelftools' structures (`elftools.elf.structs`), not by its `ELFFile`, for two
reasons: a loader has no use for sections, and must not stumble over broken ones; and the import takes 11 ms
instead of 25 ms of a virtual machine's start. The import happens here, when an ELF file is met.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, NamedTuple

from vmm.machine.boot.image import Image
from vmm.machine.boot.plan import LoadPlan

MAX_SEGMENTS = 512
"""Most program headers looked at. Kernels have about five; each takes some 50 us to decode."""
MAX_NOTE_BYTES = 64 << 10
"""How much of a PT_NOTE segment is searched. vmlinux' has about 500 bytes, 7 notes."""
MACHINES = {"EM_386": 32, "EM_X86_64": 64}
XEN_ELFNOTE_PHYS32_ENTRY = 18
PF_X = 1


class LoadSegment(NamedTuple):
    """A PT_LOAD program header; fields as in the ELF specification, sizes in bytes."""

    number: int
    """Its index in the program header table."""
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    executable: bool

    @property
    def what(self) -> str:
        """Its name in messages."""
        return f"segment {self.number}"


class ElfFile(NamedTuple):
    """The parts of an ELF file that matter for booting it."""

    bits: int
    """32 or 64, by the file's class."""
    machine: str
    entry: int
    segments: tuple[LoadSegment, ...]
    pvh_entry: int | None
    """Guest physical address from the note XEN_ELFNOTE_PHYS32_ENTRY."""
    has_interpreter: bool
    """Has a PT_INTERP segment: a program for an operating system."""


def is_elf(image: Image) -> bool:
    """Whether `image` begins like an ELF file."""
    return image.head(4) == b"\x7fELF"


def parse_elf(image: Image) -> ElfFile:
    """The headers of the ELF file `image`.

    Errors: `BootError` when it is no little-endian x86 executable, is truncated or contradicts itself.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.structs import ELFStructs

    bits = _class_bits(image)
    structs = ELFStructs(little_endian=True, elfclass=bits)
    try:
        structs.create_basic_structs()
        header = _parse(structs.Elf_Ehdr, image, 0, "the ELF header")
        _check_kind(image, header)
        structs.create_advanced_structs(header["e_type"], header["e_machine"], None)
        segments: list[LoadSegment] = []
        pvh_entry = None
        headers = _program_headers(image, header, structs)
        for index, item in enumerate(headers):
            if item["p_type"] == "PT_LOAD" and item["p_filesz"] | item["p_memsz"]:
                segments.append(_load_segment(image, index, item))
            elif item["p_type"] == "PT_NOTE" and pvh_entry is None:
                pvh_entry = _find_pvh_entry(image, structs, item)
    except ELFError as error:
        raise image.error(f"is a corrupt ELF file: {error}") from error
    if not segments:
        raise image.error("is an ELF file without a PT_LOAD segment: nothing to load")
    has_interpreter = any(item["p_type"] == "PT_INTERP" for item in headers)
    return ElfFile(bits, header["e_machine"], header["e_entry"], tuple(segments), pvh_entry, has_interpreter)


def place_segments(image: Image, elf: ElfFile, plan: LoadPlan) -> int:
    """Put every segment at its physical address; the first address above all of them.

    Errors: `BootError` when one is not in RAM, or overlaps another or a board area.
    """
    # The highest first: its refusal names the memory that is enough for all.
    for segment in sorted(elf.segments, key=lambda segment: segment.paddr + segment.memsz, reverse=True):
        data = image.part(segment.offset, segment.filesz, segment.what)
        plan.place(segment.what, segment.paddr, data, segment.memsz)
    return max(segment.paddr + segment.memsz for segment in elf.segments)


def entry_gpa(image: Image, elf: ElfFile) -> int:
    """The entry's guest physical address.

    `e_entry` is a virtual address where virtual and physical addresses of the executable segments differ
    (higher-half kernels), but some linker scripts, Linux' among them, write the physical one: an address in
    no segment's virtual range is taken for physical.

    Errors: `BootError` when it lies in no segment either way.
    """
    for segment in elf.segments:
        if segment.executable and 0 <= elf.entry - segment.vaddr < segment.memsz:
            return elf.entry - segment.vaddr + segment.paddr
    check_in_segment(image, elf, elf.entry, "its entry point")
    return elf.entry


def check_in_segment(image: Image, elf: ElfFile, gpa: int, what: str) -> None:
    """Errors: `BootError` when no segment holds `gpa`."""
    if not any(0 <= gpa - segment.paddr < segment.memsz for segment in elf.segments):
        places = ", ".join(f"[{s.paddr:#x}, {s.paddr + s.memsz:#x})" for s in elf.segments[:8])
        raise image.error(f"{what} {gpa:#x} lies in no loaded segment ({places}): it is corrupt")


def _class_bits(image: Image) -> int:
    ident = image.part(0, 16, "the ELF identification")
    bits = {1: 32, 2: 64}.get(ident[4])
    if bits is None or ident[5] != 1:
        raise image.error(
            f"is an ELF file of class {ident[4]} and byte order {ident[5]}; a little-endian 32-bit or 64-bit "
            "one (class 1 or 2, byte order 1) was expected"
        )
    return bits


def _check_kind(image: Image, header: Any) -> None:
    if header["e_machine"] not in MACHINES:
        raise image.error(
            f"is an ELF file for machine {header['e_machine']}; EM_386 or EM_X86_64 was expected"
        )
    if header["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise image.error(
            f"is an ELF file of type {header['e_type']}; ET_EXEC or ET_DYN was expected: link it first"
        )


def _program_headers(image: Image, header: Any, structs: Any) -> list[Any]:
    count, size = header["e_phnum"], header["e_phentsize"]
    if count > MAX_SEGMENTS:
        raise image.error(f"has {count} program headers, at most {MAX_SEGMENTS} are taken")
    if count and size < structs.Elf_Phdr.sizeof():
        raise image.error(f"is a corrupt ELF file: e_phentsize is {size}, less than a program header has")
    offset = header["e_phoff"]
    return [
        _parse(structs.Elf_Phdr, image, offset + index * size, f"program header {index}")
        for index in range(count)
    ]


def _load_segment(image: Image, index: int, item: Any) -> LoadSegment:
    segment = LoadSegment(
        index,
        item["p_offset"],
        item["p_vaddr"],
        item["p_paddr"],
        item["p_filesz"],
        item["p_memsz"],
        bool(item["p_flags"] & PF_X),
    )
    if segment.filesz > segment.memsz:
        raise image.error(
            f"{segment.what} has {segment.filesz:#x} bytes in the file and only {segment.memsz:#x} in memory"
            ": it is corrupt"
        )
    image.part(segment.offset, segment.filesz, segment.what)
    return segment


def _find_pvh_entry(image: Image, structs: Any, item: Any) -> int | None:
    """The 32-bit or 64-bit value of the note XEN_ELFNOTE_PHYS32_ENTRY, if this PT_NOTE segment has it."""
    notes = image.part(item["p_offset"], item["p_filesz"], "a note segment")[:MAX_NOTE_BYTES]
    align = 8 if item["p_align"] == 8 else 4
    header_size = structs.Elf_Nhdr.sizeof()
    at = 0
    while at + header_size <= len(notes):
        note = _parse(structs.Elf_Nhdr, image, item["p_offset"] + at, "a note")
        name_at = at + header_size
        value_at = _align(name_at + note["n_namesz"], align)
        at = _align(value_at + note["n_descsz"], align)
        if note["n_type"] == XEN_ELFNOTE_PHYS32_ENTRY and bytes(notes[name_at : name_at + 4]) == b"Xen\0":
            value = bytes(notes[value_at : value_at + note["n_descsz"]])
            if len(value) not in (4, 8):
                raise image.error(f"its PVH entry note has {len(value)} bytes, 4 or 8 were expected")
            return int.from_bytes(value, "little")
    return None


def _align(value: int, align: int) -> int:
    return -(-value // align) * align


def _parse(layout: Any, image: Image, offset: int, what: str) -> Any:
    from elftools.common.utils import struct_parse

    return struct_parse(layout, BytesIO(image.part(offset, layout.sizeof(), what)))
