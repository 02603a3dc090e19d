# SPDX-License-Identifier: Apache-2.0
"""Guest RAM: one memfd, laid out below and above the 32-bit hole.

The memfd is the memory; a mapping is only a way to reach it. The VMM reads and writes through a mapping of
its own, each KVM VM (one per VTL) gets another one through `map_for_kvm`, so that what is done to a VTL's mapping
never stands in the VMM's way. What the VMM does for a VTL, it does by `vmm.vsm.memory`, with that VTL's rights.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from dataclasses import dataclass

from vmm.backend.native import NativeCode
from vmm.outside import Buffer, GuestMemoryError

MAP_FIXED = 0x10  # asm-generic/mman-common.h; Python's mmap has no name for it
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE_SIZE = 4 * KIB

# A PC's memory map: 640 KiB, the hole of the VGA adapter, then RAM up to the 32-bit hole, the rest above 4 GiB.
VGA_HOLE_GPA, VGA_HOLE_END_GPA = 0xA0000, 0xC0000
LOW_RAM_LIMIT_GPA = 3 * GIB
HIGH_RAM_GPA = 4 * GIB
MINIMUM_BYTES = 2 * MIB  # 1 MiB that a BIOS would own and 1 MiB for the guest's own image


class RamError(ValueError):
    """The asked-for memory cannot be had: names the size, the limit and what to do."""


@dataclass(frozen=True)
class RamBlock:
    """`size` bytes of RAM at guest physical `gpa`, found at `offset` of the memfd."""

    gpa: int
    size: int
    offset: int


def lay_out(size_bytes: int) -> list[RamBlock]:
    """Blocks of a machine with `size_bytes` of memory, sorted by address.

    The VGA hole's 128 KiB exist in the memfd and are given to nobody, as on a PC.
    """
    low = min(size_bytes, LOW_RAM_LIMIT_GPA)
    blocks = [
        RamBlock(0, VGA_HOLE_GPA, 0),
        RamBlock(VGA_HOLE_END_GPA, low - VGA_HOLE_END_GPA, VGA_HOLE_END_GPA),
    ]
    if size_bytes > low:
        blocks.append(RamBlock(HIGH_RAM_GPA, size_bytes - low, low))
    return blocks


class GuestRam:
    """The machine's RAM (`vmm.outside.GuestMemory`), a context manager.

    size_bytes: multiple of 4 KiB (of 2 MiB with `huge_pages`), at least 2 MiB, at most the host's memory.
    huge_pages: back it by 2 MiB pages of the host's hugetlb pool, all of them reserved here.
    Errors: `RamError`.
    """

    def __init__(self, size_bytes: int, *, huge_pages: bool = False) -> None:
        check_size(size_bytes, huge_pages=huge_pages)
        self.size_bytes = size_bytes
        self.blocks = lay_out(size_bytes)
        flags = os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge_pages else 0)
        self._huge_pages = huge_pages
        self._mappings: list[RamMapping] = []
        self._native: NativeCode | None = None
        self._native_lock = threading.Lock()
        try:
            self._fd = os.memfd_create("guest-ram", flags)
        except OSError as error:
            raise self._refused(error) from error
        try:
            os.ftruncate(self._fd, size_bytes)
            self._own = self.map_for_kvm()
        except OSError as error:
            os.close(self._fd)
            raise self._refused(error) from error
        except RamError:
            os.close(self._fd)
            raise
        self._view = self._own.view

    def __enter__(self) -> GuestRam:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap everything and close the memfd. Idempotent. No VM may still use a mapping."""
        if self._fd < 0:
            return
        for mapping in self._mappings:
            mapping.close()
        if self._native is not None:
            self._native.close()
        os.close(self._fd)
        self._fd = -1

    def map_for_kvm(self) -> RamMapping:
        """A further mapping of all RAM, for the memory slots of one KVM VM. Closed with the RAM.

        Errors: `RamError`; each mapping counts against the limit of address space anew.
        """
        try:
            mapping = RamMapping(self._fd, self.size_bytes)
        except OSError as error:
            raise self._refused(error) from error
        self._mappings.append(mapping)
        return mapping

    def _refused(self, error: OSError) -> RamError:
        hint = "ask for less memory, or raise the limit of address space (ulimit -v)"
        if self._huge_pages:
            hint = "reserve 2 MiB pages with 'sysctl vm.nr_hugepages=N' or leave out the huge pages"
        return RamError(
            f"guest memory of {self.size_bytes // MIB} MiB cannot be mapped ({error.strerror}): {hint}"
        )

    def ranges(self) -> list[tuple[int, int]]:
        """RAM as sorted `(gpa, size)` pairs."""
        return [(block.gpa, block.size) for block in self.blocks]

    def offset_of(self, gpa: int, size: int) -> int:
        """Offset in the memfd of `[gpa, gpa + size)`. Errors: `GuestMemoryError` if not all of it is RAM."""
        for block in self.blocks:
            if block.gpa <= gpa and gpa + size <= block.gpa + block.size and size >= 0:
                return block.offset + gpa - block.gpa
        listing = ", ".join(f"[{b.gpa:#x}, {b.gpa + b.size:#x})" for b in self.blocks)
        raise GuestMemoryError(f"[{gpa:#x}, {gpa + size:#x}) is not all guest RAM, which is {listing}")

    def gpa_of(self, offset: int) -> int:
        """Guest physical address of byte `offset` of the memfd. Errors: `GuestMemoryError` where it is no RAM."""
        for block in self.blocks:
            if block.offset <= offset < block.offset + block.size:
                return block.gpa + offset - block.offset
        raise GuestMemoryError(f"byte {offset:#x} of the memory file is no guest RAM")

    def host_address(self, gpa: int, size: int) -> int:
        """Where `[gpa, gpa + size)` lies in this process, in the VMM's own mapping."""
        return self._own.address + self.offset_of(gpa, size)

    def view(self, gpa: int, size: int) -> memoryview:
        """The bytes of `[gpa, gpa + size)`, to be read and written. To be dropped before `close`."""
        offset = self.offset_of(gpa, size)
        return self._view[offset : offset + size]

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""
        offset = self.offset_of(gpa, size)
        return bytes(self._view[offset : offset + size])

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""
        offset = self.offset_of(gpa, len(data))
        self._view[offset : offset + len(data)] = data

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        """See `vmm.outside.ProcessorRam`. `OSError` where this process may not have executable memory."""
        address = self.host_address(gpa, len(expected))
        with self._native_lock:
            if self._native is None:
                self._native = NativeCode()  # few guests come here
        return self._native.compare_exchange_16(address, expected, new)

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        """Set `size` bytes at `gpa` to the byte `value`."""
        offset = self.offset_of(gpa, size)
        ctypes.memset(self._own.address + offset, value, size)


class RamMapping:
    """One mapping of the whole memfd. `address` is a host virtual address for KVM's memory slots."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._pin: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._pin)
        self.view = memoryview(self._map)

    def drop_page(self, offset: int) -> None:
        """Take the host page at `offset` out of this mapping (its contents stay in the memfd)."""
        self._map.madvise(mmap.MADV_DONTNEED, offset & -PAGE_SIZE, PAGE_SIZE)

    def put_over(
        self, offset: int, fd: int, fd_offset: int, *, writable: bool, readable: bool = True
    ) -> None:
        """Show a page of another file in the place of the page at `offset`, at once for whoever uses the mapping.

        Not where huge pages back the RAM. Errors: `OSError`.
        """
        protection = (mmap.PROT_READ if readable else 0) | (mmap.PROT_WRITE if writable else 0)
        _map_fixed(self.address + offset, protection, fd, fd_offset)

    def put_back(self, offset: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> None:
        """Undo `put_over`; the page is RAM again, with this protection. Errors: `OSError`."""
        _map_fixed(self.address + offset, protection, self._fd, offset)

    def protect(self, offset: int, size: int, protection: int) -> None:
        """mprotect(2): from the return on nobody, no KVM VM either, gets more through this mapping.

        Not where huge pages back the RAM. Errors: `OSError`: ENOMEM above the limit vm.max_map_count; a part of the
        range may have changed then.
        """
        if _libc.mprotect(self.address + offset, size, protection):
            number = ctypes.get_errno()
            raise OSError(number, f"mprotect of {size} bytes at {offset:#x}: {os.strerror(number)}")

    def shown(self, offset: int, size: int) -> bytes:
        """Bytes of this mapping, where it can be read: of RAM, or of what lies over it."""
        return bytes(self.view[offset : offset + size])

    def close(self) -> None:
        """Unmap. Idempotent."""
        if self._pin is None:
            return
        self.view.release()
        self._pin = None
        self._map.close()


class RamView:
    """A KVM VM's mapping, in which pages of guest RAM are found by address."""

    def __init__(self, ram: GuestRam, mapping: RamMapping) -> None:
        self.offset_of = ram.offset_of
        self.put_over = mapping.put_over
        self.put_back = mapping.put_back
        self.protect = mapping.protect
        self.shown = mapping.shown

    def put_from_above(self, offset: int, fd: int, fd_offset: int) -> None:
        """Show another VTL's page, read-only, at the page at `offset`. Nobody restricts this view."""
        self.put_over(offset, fd, fd_offset, writable=False)


def _map_fixed(address: int, protection: int, fd: int, offset: int) -> None:
    """mmap(2) of a page at `address`, in the place of what is mapped there. Python's mmap cannot choose one."""
    flags = mmap.MAP_SHARED | MAP_FIXED
    if _libc.mmap(address, PAGE_SIZE, protection, flags, fd, offset) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap of a page at {address:#x}: {os.strerror(number)}")


def check_size(size_bytes: int, *, huge_pages: bool = False) -> None:
    """Refuse a size that no machine on this host can have. Errors: `RamError`."""
    granule = 2 * MIB if huge_pages else PAGE_SIZE
    if size_bytes < MINIMUM_BYTES:
        raise RamError(
            f"guest memory of {size_bytes} bytes is too small: at least {MINIMUM_BYTES // MIB} MiB are needed"
        )
    if size_bytes % granule:
        raise RamError(f"guest memory of {size_bytes} bytes is not a multiple of {granule // KIB} KiB")
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_bytes > host:
        raise RamError(
            f"guest memory of {size_bytes // MIB} MiB is more than this host's {host // MIB} MiB: ask for less"
        )
