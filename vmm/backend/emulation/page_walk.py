# SPDX-License-Identifier: Apache-2.0
"""Paging: linear address -> guest physical address, with every permission check (SDM volume 3, chapter 4).

All modes: no paging, 32-bit (with 4 MiB pages and PSE-36), PAE, 4-level and 5-level, pages of 2 MiB and 1 GiB,
reserved bits, WP, NXE, SMEP, SMAP, protection keys for user and supervisor pages, accessed and dirty bits.

`walk` reads the tables from memory each time and has no TLB. It knows no CPU and no KVM: whoever calls it says
in `Paging` what the registers hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from vmm.backend.emulation import registers as r
from vmm.outside import Buffer, GuestMemoryError

# Entries of all formats
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7
NO_EXECUTE = 1 << 63

# Page-fault error code
ERROR_PRESENT, ERROR_WRITE, ERROR_USER, ERROR_RESERVED, ERROR_FETCH, ERROR_KEY = (
    1 << bit for bit in range(6)
)

_FRAME = 0x000F_FFFF_FFFF_F000  # bits 51:12, what an entry can address at all
_PTE_KEY_SHIFT = 59
_CACHE_BITS_SHIFT = 3  # PWT, PCD
_SMALL_PAT_SHIFT, _LARGE_PAT_SHIFT = 7, 12


class TableMemory(Protocol):
    """Where page tables lie (`vmm.outside.GuestMemory`). What it raises beside `GuestMemoryError` ends a walk."""

    def read(self, gpa: int, size: int) -> bytes: ...

    def write(self, gpa: int, data: Buffer) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """What is to be done at the address.

    user: made at CPL 3. implicit: the processor's own access to a system table (GDT, LDT, IDT, TSS), which is
    a supervisor access at any CPL and never allowed to user pages under SMAP.
    """

    write: bool = False
    fetch: bool = False
    user: bool = False
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class Paging:
    """The registers that paging looks at.

    ac: RFLAGS.AC. physical_bits: MAXPHYADDR of CPUID. gigabyte_pages: CPUID.80000001H:EDX[26].
    pkru, pkrs: two bits per protection key, used with CR4.PKE and CR4.PKS.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    ac: bool = False
    physical_bits: int = 52
    gigabyte_pages: bool = True
    pkru: int = 0
    pkrs: int = 0

    @property
    def long_mode(self) -> bool:
        """IA-32e mode: 4-level or 5-level paging."""
        return bool(self.efer & r.EFER_LMA)

    def canonical(self, linear_address: int) -> bool:
        """Whether a 64-bit linear address has its upper bits equal to its highest implemented one."""
        shift = 56 if self.cr4 & r.CR4_LA57 else 47
        return linear_address >> shift in (0, (1 << 64 - shift) - 1)


class Denial(Enum):
    """Why a walk found nothing. `TABLE_NOT_RAM` is no page fault: real hardware would read what the bus gives."""

    NOT_PRESENT = "an entry is not present"
    RESERVED_BITS = "an entry has reserved bits set"
    PRIVILEGE = "the entries or the protection key forbid it"
    TABLE_NOT_RAM = "a paging structure lies outside guest RAM"


@dataclass(frozen=True, slots=True)
class Translation:
    """`gpa` of the very byte asked for, inside a page of `page_size` bytes.

    pat_index: what the last entry's PAT, PCD and PWT bits select in IA32_PAT (SDM volume 3, 12.12.3).
    """

    gpa: int
    page_size: int
    pat_index: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The walk failed; `error_code` is the page fault's, `entry_gpa` where the entry lies that ended it."""

    denial: Denial
    error_code: int
    entry_gpa: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class _Level:
    """One table of a walk. large: an entry with PS maps a page; mask: of the index; rights: entry has R/W, U/S, XD."""

    shift: int
    mask: int
    large: bool
    rights: bool = True


_PAGE_TABLE = _Level(12, 0x1FF, False)
_PD = _Level(21, 0x1FF, True)
_PDPT = _Level(30, 0x1FF, True)
_PDPT_SMALL = _Level(30, 0x1FF, False)
_PML4 = _Level(39, 0x1FF, False)
_PML5 = _Level(48, 0x1FF, False)
_PAE_PDPT = _Level(30, 0x3, False, rights=False)


def _levels(paging: Paging) -> tuple[_Level, ...]:
    if not paging.cr4 & r.CR4_PAE:
        return _Level(22, 0x3FF, bool(paging.cr4 & r.CR4_PSE)), _Level(12, 0x3FF, False)
    if not paging.long_mode:
        return _PAE_PDPT, _PD, _PAGE_TABLE
    pdpt = _PDPT if paging.gigabyte_pages else _PDPT_SMALL
    four = (_PML4, pdpt, _PD, _PAGE_TABLE)
    return (_PML5, *four) if paging.cr4 & r.CR4_LA57 else four


def _root(paging: Paging) -> int:
    if paging.long_mode:
        return paging.cr3 & _FRAME & ((1 << paging.physical_bits) - 1)
    return paging.cr3 & (0xFFFF_FFE0 if paging.cr4 & r.CR4_PAE else 0xFFFF_F000)


def walk(
    memory: TableMemory, paging: Paging, linear_address: int, access: Access, *, set_bits: bool = True
) -> Translation | Refusal:
    """Translate a linear address (canonical in IA-32e mode, else its low 32 bits count) for `access`.

    set_bits: on success set the accessed bits on the way, and the dirty bit for a write, as a processor would.
    """
    if not paging.cr0 & r.CR0_PG:
        return Translation(linear_address & 0xFFFF_FFFF, 4096)
    entry_size = 8 if paging.cr4 & r.CR4_PAE else 4
    table = _root(paging)
    path: list[tuple[int, int]] = []  # (gpa of the entry, its value), where accessed bits belong
    rights = WRITABLE | USER
    no_execute = 0
    levels = _levels(paging)
    for level in levels:
        at = table + (linear_address >> level.shift & level.mask) * entry_size
        try:
            entry = int.from_bytes(memory.read(at, entry_size), "little")
        except GuestMemoryError:
            return Refusal(Denial.TABLE_NOT_RAM, _error_code(paging, access, 0), at)
        if not entry & PRESENT:
            return Refusal(Denial.NOT_PRESENT, _error_code(paging, access, 0), at)
        leaf = level is levels[-1] or bool(level.large and entry & LARGE)
        if entry & _reserved(paging, level, leaf, entry_size):
            error_code = _error_code(paging, access, ERROR_PRESENT | ERROR_RESERVED)
            return Refusal(Denial.RESERVED_BITS, error_code, at)
        if level.rights:
            rights &= entry
            no_execute |= entry & NO_EXECUTE
            path.append((at, entry))
        if leaf:
            break
        table = entry & _FRAME
    denied = _denied(paging, access, rights, no_execute, entry)
    if denied is not None:
        return Refusal(Denial.PRIVILEGE, _error_code(paging, access, ERROR_PRESENT | denied), at)
    if set_bits:
        _mark(memory, path, access)
    page_size = 1 << level.shift
    frame = entry & _FRAME
    if entry_size == 4 and page_size > 4096:
        frame = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32  # PSE-36
    return Translation(
        frame & -page_size | linear_address & page_size - 1, page_size, _pat_index(entry, page_size)
    )


def _pat_index(leaf: int, page_size: int) -> int:
    high = leaf >> (_LARGE_PAT_SHIFT if page_size > 4096 else _SMALL_PAT_SHIFT) & 1
    return high << 2 | leaf >> _CACHE_BITS_SHIFT & 3


def _reserved(paging: Paging, level: _Level, leaf: bool, entry_size: int) -> int:
    """Bits that must be 0 in a present entry (SDM volume 3, tables 4-3 to 4-20)."""
    too_wide = (1 << 52) - (1 << paging.physical_bits)
    if entry_size == 4:
        if leaf and level.shift > 12:
            # Bit 21, and of bits 20:13, which are address bits 39:32, those that this processor lacks.
            return 1 << 21 | (too_wide >> 32 & 0xFF) << 13
        return 0
    if not level.rights:
        return too_wide | 0xFFF << 52 | 0x1E6
    reserved = too_wide
    if not paging.long_mode:
        reserved |= 0x7FF << 52
    if not paging.efer & r.EFER_NXE:
        reserved |= NO_EXECUTE
    if leaf and level.shift > 12:
        reserved |= (1 << level.shift) - (1 << 13)  # bit 12 is PAT
    elif not leaf and not level.large:
        reserved |= LARGE
    return reserved


def _denied(paging: Paging, access: Access, rights: int, no_execute: int, leaf: int) -> int | None:
    """None if `access` is allowed, else what this adds to the error code (SDM volume 3, section 4.6)."""
    user_page = bool(rights & USER)
    user_access = access.user and not access.implicit
    if access.fetch:
        smep = user_page and not user_access and paging.cr4 & r.CR4_SMEP
        return 0 if no_execute or smep or (user_access and not user_page) else None
    key = ERROR_KEY if _key_forbids(paging, access, user_page, leaf) else 0
    if user_access and not user_page:
        return key
    if user_page and not user_access and paging.cr4 & r.CR4_SMAP and (access.implicit or not paging.ac):
        return key
    if access.write and _write_protects(paging, access) and not rights & WRITABLE:
        return key
    return key or None


def _write_protects(paging: Paging, access: Access) -> bool:
    """Whether a write needs the right to."""
    return (access.user and not access.implicit) or bool(paging.cr0 & r.CR0_WP)


def _key_forbids(paging: Paging, access: Access, user_page: bool, leaf: int) -> bool:
    """Whether the page's protection key forbids a data access, which the error code tells by itself (4.7)."""
    if not (paging.long_mode and paging.cr4 & (r.CR4_PKE if user_page else r.CR4_PKS)):
        return False
    keys = paging.pkru if user_page else paging.pkrs
    key = keys >> 2 * (leaf >> _PTE_KEY_SHIFT & 0xF)
    return bool(key & 1 or (key & 2 and access.write and _write_protects(paging, access)))


def _error_code(paging: Paging, access: Access, found: int) -> int:
    code = found
    if access.write:
        code |= ERROR_WRITE
    if access.user and not access.implicit:
        code |= ERROR_USER
    reports_fetch = paging.cr4 & r.CR4_SMEP or (paging.cr4 & r.CR4_PAE and paging.efer & r.EFER_NXE)
    if access.fetch and reports_fetch:
        code |= ERROR_FETCH
    return code


def _mark(memory: TableMemory, path: list[tuple[int, int]], access: Access) -> None:
    """Set accessed bits, and the last entry's dirty bit for a write.

    Both lie in an entry's low byte. It is read again just before: another processor may have written meanwhile.
    """
    for at, entry in path:
        wanted = ACCESSED | (DIRTY if access.write and at == path[-1][0] else 0)
        if entry & wanted != wanted:
            low = memory.read(at, 1)[0]
            if low & PRESENT:
                memory.write(at, bytes([low | wanted]))
