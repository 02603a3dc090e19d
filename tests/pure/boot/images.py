# SPDX-License-Identifier: Apache-2.0
"""Small hand-made guest images: ELF files, multiboot headers, PVH notes, bzImages.

Layouts are written out here a second time, from the specifications, so that the loaders are checked against
something other than their own tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vmm.machine.boot import Image

PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
PF_X, PF_W, PF_R = 1, 2, 4


@dataclass
class Segment:
    """A program header and its bytes. `None` means the natural value."""

    paddr: int
    data: bytes = b""
    vaddr: int | None = None
    memsz: int | None = None
    filesz: int | None = None
    offset: int | None = None
    type: int = PT_LOAD
    flags: int = PF_R | PF_X
    align: int = 4


@dataclass
class Elf:
    """An ELF file to be built; every header field that a loader reads can be spoiled."""

    segments: list[Segment]
    entry: int
    bits: int = 32
    machine: int | None = None
    type: int = ET_EXEC
    phentsize: int | None = None
    phnum: int | None = None
    phoff: int | None = None
    byte_order: int = 1
    extra: bytes = field(default=b"", repr=False)

    def build(self) -> bytes:
        wide = self.bits == 64
        header_size, entry_size = (64, 56) if wide else (52, 32)
        machine = self.machine if self.machine is not None else (EM_X86_64 if wide else EM_386)
        ident = b"\x7fELF" + bytes([2 if wide else 1, self.byte_order, 1]) + bytes(9)
        header = ident + struct.pack(
            "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
            self.type,
            machine,
            1,
            self.entry,
            header_size if self.phoff is None else self.phoff,
            0,
            0,
            header_size,
            entry_size if self.phentsize is None else self.phentsize,
            len(self.segments) if self.phnum is None else self.phnum,
            0,
            0,
            0,
        )
        at = header_size + entry_size * len(self.segments)
        table, body = b"", b""
        for segment in self.segments:
            offset = at + len(body) if segment.offset is None else segment.offset
            vaddr = segment.paddr if segment.vaddr is None else segment.vaddr
            filesz = len(segment.data) if segment.filesz is None else segment.filesz
            memsz = filesz if segment.memsz is None else segment.memsz
            if wide:
                table += struct.pack(
                    "<IIQQQQQQ",
                    *(
                        segment.type,
                        segment.flags,
                        offset,
                        vaddr,
                        segment.paddr,
                        filesz,
                        memsz,
                        segment.align,
                    ),
                )
            else:
                table += struct.pack(
                    "<IIIIIIII",
                    *(
                        segment.type,
                        offset,
                        vaddr,
                        segment.paddr,
                        filesz,
                        memsz,
                        segment.flags,
                        segment.align,
                    ),
                )
            body += segment.data
        return header + table + body + self.extra


def multiboot_header(flags: int = 0, *addresses: int) -> bytes:
    """Magic, flags, checksum; with flag bit 16 header, load, load end, bss end and entry addresses."""
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF) + struct.pack(
        f"<{len(addresses)}I", *addresses
    )


def note(name: bytes, type_: int, value: bytes, align: int = 4) -> bytes:
    """An ELF note."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % align)

    return padded(struct.pack("<III", len(name), len(value), type_) + name) + padded(value)


def pvh_note(entry: int, size: int = 4) -> bytes:
    """XEN_ELFNOTE_PHYS32_ENTRY."""
    return note(b"Xen\0", 18, entry.to_bytes(size, "little"))


@dataclass
class BzImage:
    """A bzImage to be built. Fields as in x86/boot.rst; defaults are those of a stock kernel, sizes smaller."""

    kernel: bytes = bytes(range(256)) * 4
    setup_sects: int = 4
    syssize: int | None = None
    boot_flag: int = 0xAA55
    jump: int = 0x6A
    magic: bytes = b"HdrS"
    version: int = 0x020F
    loadflags: int = 1
    initrd_addr_max: int = 0x7FFFFFFF
    kernel_alignment: int = 0x200000
    relocatable_kernel: int = 1
    xloadflags: int = 0x7F
    cmdline_size: int = 2047
    pref_address: int = 0x200000
    init_size: int = 0x100000
    tail: bytes = b""

    def build(self) -> bytes:
        sectors = self.setup_sects or 4
        setup = bytearray((sectors + 1) * 512)
        syssize = -(-len(self.kernel) // 16) if self.syssize is None else self.syssize
        for offset, layout, value in (
            (0x1F1, "<B", self.setup_sects),
            (0x1F4, "<I", syssize),
            (0x1FE, "<H", self.boot_flag),
            (0x200, "<BB", (0xEB, self.jump)),
            (0x202, "<4s", self.magic),
            (0x206, "<H", self.version),
            (0x211, "<B", self.loadflags),
            (0x214, "<I", 0x100000),
            (0x22C, "<I", self.initrd_addr_max),
            (0x230, "<I", self.kernel_alignment),
            (0x234, "<B", self.relocatable_kernel),
            (0x236, "<H", self.xloadflags),
            (0x238, "<I", self.cmdline_size),
            (0x258, "<Q", self.pref_address),
            (0x260, "<I", self.init_size),
            (0x264, "<I", 0x190),  # handover_offset, the last field a loader copies unseen
        ):
            struct.pack_into(layout, setup, offset, *(value if isinstance(value, tuple) else (value,)))
        kernel = self.kernel + bytes(-len(self.kernel) % 16)
        return bytes(setup) + kernel + self.tail


def image(data: bytes, path: str = "guest") -> Image:
    """`data` as an opened file."""
    return Image(path, data)
