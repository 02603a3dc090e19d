# SPDX-License-Identifier: Apache-2.0
"""The page walker against a model that knows the mapping's intent instead of reading tables, and its corners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.emulation.guest import Memory
from vmm.backend.emulation import page_walk as pw
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.page_walk import Access, Denial, Paging, Refusal, Translation, walk

ROOT = 0x1000
PAE_ON = r.CR4_PAE
LONG = r.EFER_LMA | 1 << 8
GVA = 0x12_3456_7ABC  # of 47 bits, every index of its own: 0, 0x48, 0x1A2, 0x167

# Mode -> (control registers, shifts of its tables, index mask, entry size)
MODES = {
    "32-bit": (Paging(r.CR0_PG, ROOT, r.CR4_PSE, 0), (22, 12), 0x3FF, 4),
    "PAE": (Paging(r.CR0_PG, ROOT, PAE_ON, 0), (30, 21, 12), 0x1FF, 8),
    "4-level": (Paging(r.CR0_PG, ROOT, PAE_ON, LONG), (39, 30, 21, 12), 0x1FF, 8),
    "5-level": (Paging(r.CR0_PG, ROOT, PAE_ON | r.CR4_LA57, LONG), (48, 39, 30, 21, 12), 0x1FF, 8),
}
# Sizes of pages a mode has, as the shift of the table that maps them
PAGE_SHIFTS = {"32-bit": (12, 22), "PAE": (12, 21), "4-level": (12, 21, 30), "5-level": (12, 21, 30)}


@dataclass(frozen=True)
class Mapping:
    """A page at GVA: rights at each level (writable, user, no-execute), root first."""

    mode: str
    page_shift: int
    rights: tuple[tuple[bool, bool, bool], ...]
    key: int
    paging: Paging

    @property
    def has_no_execute(self) -> bool:
        return bool(self.paging.efer & r.EFER_NXE) and self.mode != "32-bit"


def build(memory: Memory, mapping: Mapping, gva: int = GVA) -> int:
    """Write the tables; the gpa that `gva` must translate to."""
    _, shifts, mask, size = MODES[mapping.mode]
    frame = 0x4000_0000 if mapping.page_shift > 12 else 0x7000
    table = ROOT
    for level, (shift, (writable, user, no_execute)) in enumerate(zip(shifts, mapping.rights, strict=False)):
        leaf = shift == mapping.page_shift
        entry = (frame if leaf else table + 0x1000) | pw.PRESENT
        if not (mapping.mode == "PAE" and level == 0):
            entry |= writable * pw.WRITABLE | user * pw.USER
            if mapping.has_no_execute:
                entry |= no_execute * pw.NO_EXECUTE
        if leaf:
            entry |= pw.LARGE if shift > 12 else 0
            if mapping.paging.long_mode:
                entry |= mapping.key << 59
        index_mask = 3 if mapping.mode == "PAE" and level == 0 else mask
        memory.put(table + (gva >> shift & index_mask) * size, entry, size)
        if leaf:
            break
        table += 0x1000
    return frame + (gva & (1 << mapping.page_shift) - 1)


def allowed(mapping: Mapping, access: Access) -> bool:
    """The reference: SDM volume 3, section 4.6, told from the mapping's intent."""
    _, shifts, _, _ = MODES[mapping.mode]
    used = [
        rights for shift, rights in zip(shifts, mapping.rights, strict=False) if shift >= mapping.page_shift
    ]
    if mapping.mode == "PAE":
        used = used[1:]
    writable, user_page = all(item[0] for item in used), all(item[1] for item in used)
    executable = not (mapping.has_no_execute and any(item[2] for item in used))
    p = mapping.paging
    at_user_level = access.user and not access.implicit
    if at_user_level and not user_page:
        return False
    if access.fetch:
        return executable and (at_user_level or not (user_page and p.cr4 & r.CR4_SMEP))
    if not at_user_level and user_page and p.cr4 & r.CR4_SMAP and (access.implicit or not p.ac):
        return False
    protects = at_user_level or bool(p.cr0 & r.CR0_WP)
    if access.write and protects and not writable:
        return False
    if p.long_mode and p.cr4 & (r.CR4_PKE if user_page else r.CR4_PKS):
        access_disabled, write_disabled = (
            bool((p.pkru if user_page else p.pkrs) >> (2 * mapping.key + bit) & 1) for bit in (0, 1)
        )
        return not access_disabled and not (access.write and protects and write_disabled)
    return True


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    mode = draw(st.sampled_from(sorted(MODES)))
    registers = MODES[mode][0]
    extra_cr4 = draw(st.lists(st.sampled_from([r.CR4_SMEP, r.CR4_SMAP, r.CR4_PKE, r.CR4_PKS]), unique=True))
    paging = replace(
        registers,
        cr0=registers.cr0 | draw(st.sampled_from([0, r.CR0_WP])),
        cr4=registers.cr4 | sum(extra_cr4),
        efer=registers.efer | draw(st.sampled_from([0, r.EFER_NXE])),
        ac=draw(st.booleans()),
        pkru=draw(st.integers(0, 0xFFFF_FFFF)),
        pkrs=draw(st.integers(0, 0xFFFF_FFFF)),
    )
    # Rights that forbid are rare, so that what is looked at is not always a page nobody may touch.
    mostly = st.sampled_from([True, True, True, False])
    rights = st.tuples(mostly, mostly, st.sampled_from([False, False, False, True]))
    levels = len(MODES[mode][1])
    return Mapping(
        mode,
        draw(st.sampled_from(PAGE_SHIFTS[mode])),
        tuple(draw(st.lists(rights, min_size=levels, max_size=levels))),
        draw(st.integers(0, 15)),
        paging,
    )


accesses = st.builds(
    lambda kind, user, implicit: Access(kind == "write", kind == "fetch", user, implicit and kind != "fetch"),
    st.sampled_from(["read", "write", "fetch"]),
    st.booleans(),
    st.booleans(),
)


@given(mappings(), accesses)
@settings(max_examples=800, deadline=None)
def test_permissions_and_address_agree_with_the_model(mapping: Mapping, access: Access) -> None:
    memory = Memory(0x8000)
    gpa = build(memory, mapping)
    before = bytes(memory.data)

    found = walk(memory, mapping.paging, GVA, access)

    if allowed(mapping, access):
        assert found == Translation(gpa, 1 << mapping.page_shift)
    else:
        assert isinstance(found, Refusal)
        assert found.denial is Denial.PRIVILEGE
        assert found.error_code & pw.ERROR_PRESENT
        assert bool(found.error_code & pw.ERROR_WRITE) == access.write
        assert bool(found.error_code & pw.ERROR_USER) == (access.user and not access.implicit)
        assert bytes(memory.data) == before  # no accessed bit for an access that did not happen


@given(mappings(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_accessed_bits_on_the_way_and_dirty_only_where_written(mapping: Mapping, write: bool) -> None:
    everything = tuple((True, True, False) for _ in mapping.rights)
    open_paging = replace(mapping.paging, pkru=0, pkrs=0, ac=True)
    memory = Memory(0x8000)
    opened = replace(mapping, rights=everything, paging=open_paging)
    build(memory, opened)
    before = bytes(memory.data)

    walk(memory, open_paging, GVA, Access(write=write))

    size = MODES[mapping.mode][3]
    changed = [
        (memory.number(at, size) ^ int.from_bytes(before[at : at + size], "little"), at)
        for at in range(0, len(before), size)
        if memory.number(at, size) != int.from_bytes(before[at : at + size], "little")
    ]
    tables = sum(1 for shift in MODES[mapping.mode][1] if shift >= mapping.page_shift)
    tables -= mapping.mode == "PAE"  # a PDPTE of PAE paging has no accessed bit
    expected = [pw.ACCESSED] * tables
    if write:
        expected[-1] |= pw.DIRTY
    assert [bits for bits, _ in sorted(changed, key=lambda item: item[1])] == expected


def long_mapping(**changes: Any) -> Mapping:
    """changes: fields of `Mapping`."""
    rights = ((True, True, False),) * 4
    made = Mapping("4-level", 12, rights, 0, replace(MODES["4-level"][0], cr0=r.CR0_PG | r.CR0_WP))
    return replace(made, **changes)


def leaf_entry(level: int) -> int:
    """Where the 4-level tables of `build` keep the entry of table number `level` (0 the root) for GVA."""
    shift = (39, 30, 21, 12)[level]
    return ROOT + 0x1000 * level + (GVA >> shift & 0x1FF) * 8


@pytest.mark.parametrize("level", range(4))
def test_an_absent_entry_at_any_level_gives_error_code_zero(level: int) -> None:
    memory = Memory(0x8000)
    mapping = long_mapping()
    build(memory, mapping)
    memory.put(leaf_entry(level), memory.number(leaf_entry(level)) & ~pw.PRESENT)

    found = walk(memory, mapping.paging, GVA, Access())

    assert found == Refusal(Denial.NOT_PRESENT, 0)


@pytest.mark.parametrize(
    ("level", "bit"),
    [
        (0, 7),  # a PML4 entry maps no page
        (0, 51),  # beyond MAXPHYADDR 40
        (3, 40),
        (3, 63),  # XD without EFER.NXE
    ],
)
def test_a_reserved_bit_is_told_in_the_error_code(level: int, bit: int) -> None:
    memory = Memory(0x8000)
    mapping = long_mapping()
    build(memory, mapping)
    memory.put(leaf_entry(level), memory.number(leaf_entry(level)) | 1 << bit)

    found = walk(memory, replace(mapping.paging, physical_bits=40), GVA, Access(user=True, write=True))

    code = pw.ERROR_PRESENT | pw.ERROR_RESERVED | pw.ERROR_USER | pw.ERROR_WRITE
    assert found == Refusal(Denial.RESERVED_BITS, code)


@pytest.mark.parametrize(("shift", "level", "bit"), [(21, 2, 13), (21, 2, 20), (30, 1, 13), (30, 1, 29)])
def test_low_address_bits_of_a_large_page_are_reserved(shift: int, level: int, bit: int) -> None:
    memory = Memory(0x8000)
    mapping = long_mapping(page_shift=shift)
    build(memory, mapping)
    memory.put(leaf_entry(level), memory.number(leaf_entry(level)) | 1 << bit)

    found = walk(memory, mapping.paging, GVA, Access())

    assert isinstance(found, Refusal)
    assert found.denial is Denial.RESERVED_BITS


def test_a_gigabyte_page_is_reserved_where_the_processor_has_none() -> None:
    memory = Memory(0x8000)
    mapping = long_mapping(page_shift=30)
    build(memory, mapping)

    found = walk(memory, replace(mapping.paging, gigabyte_pages=False), GVA, Access())

    assert isinstance(found, Refusal)
    assert found.denial is Denial.RESERVED_BITS


@pytest.mark.parametrize(
    ("cr4", "efer", "told"), [(0, 0, False), (r.CR4_SMEP, 0, True), (0, r.EFER_NXE, True)]
)
def test_fetches_are_told_apart_only_with_smep_or_nxe(cr4: int, efer: int, told: bool) -> None:
    paging = MODES["4-level"][0]

    found = walk(
        Memory(0x8000),
        replace(paging, cr4=paging.cr4 | cr4, efer=paging.efer | efer),
        GVA,
        Access(fetch=True),
    )

    assert found == Refusal(Denial.NOT_PRESENT, pw.ERROR_FETCH if told else 0)


def test_protection_keys_have_their_own_bit() -> None:
    memory = Memory(0x8000)
    paging = MODES["4-level"][0]
    mapping = long_mapping(key=5, paging=replace(paging, cr4=paging.cr4 | r.CR4_PKE, pkru=1 << 10))
    build(memory, mapping)

    found = walk(memory, mapping.paging, GVA, Access(user=True))

    assert found == Refusal(Denial.PRIVILEGE, pw.ERROR_PRESENT | pw.ERROR_USER | pw.ERROR_KEY)


@pytest.mark.parametrize("cr4", [r.CR4_PKE, r.CR4_PKE | r.CR4_SMAP])
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("pkru", [0, 1 << 10, 1 << 11])
def test_a_key_that_forbids_is_told_whatever_else_does(cr4: int, user: bool, pkru: int) -> None:
    """SDM volume 3, 4.7: the PK flag tells of the key alone. The page is read-only."""
    memory = Memory(0x8000)
    paging = MODES["4-level"][0]
    paging = replace(paging, cr0=paging.cr0 | r.CR0_WP, cr4=paging.cr4 | cr4, pkru=pkru)
    mapping = long_mapping(key=5, paging=paging)
    build(memory, mapping)
    memory.put(leaf_entry(3), memory.number(leaf_entry(3)) & ~pw.WRITABLE)

    found = walk(memory, mapping.paging, GVA, Access(write=True, user=user))

    told = pw.ERROR_PRESENT | pw.ERROR_WRITE | (pw.ERROR_USER if user else 0) | (pw.ERROR_KEY if pkru else 0)
    assert found == Refusal(Denial.PRIVILEGE, told)


def test_pse_36_pages_reach_beyond_4_gib() -> None:
    memory = Memory(0x8000)
    paging = replace(MODES["32-bit"][0], physical_bits=40)
    memory.put(ROOT + 4 * 3, 0x0040_0000 | 0xAB << 13 | pw.LARGE | pw.PRESENT, 4)

    found = walk(memory, paging, 3 << 22 | 0x12345, Access())

    assert found == Translation(0xAB_0041_2345, 4 << 20)


def test_without_paging_addresses_are_physical() -> None:
    assert walk(Memory(0), Paging(0, 0, 0, 0), 0xFEC0_0010, Access(write=True)) == Translation(
        0xFEC0_0010, 4096
    )


def test_a_table_outside_ram_is_said_to_be_one() -> None:
    found = walk(Memory(0x1000), MODES["4-level"][0], GVA, Access())

    assert isinstance(found, Refusal)
    assert found.denial is Denial.TABLE_NOT_RAM


def test_a_walk_can_leave_the_tables_alone() -> None:
    memory = Memory(0x8000)
    mapping = long_mapping()
    build(memory, mapping)

    walk(memory, mapping.paging, GVA, Access(write=True), set_bits=False)

    assert memory.written == []


@pytest.mark.parametrize(
    ("la57", "address", "expected"),
    [
        (False, 0x7FFF_FFFF_FFFF, True),
        (False, 0x8000_0000_0000, False),
        (False, 0xFFFF_8000_0000_0000, True),
        (False, 0xFFFF_7FFF_FFFF_FFFF, False),
        (True, 0x8000_0000_0000, True),
        (True, 0x0100_0000_0000_0000, False),
        (True, 0xFF00_0000_0000_0000, True),
    ],
)
def test_canonical_addresses(la57: bool, address: int, expected: bool) -> None:
    assert Paging(r.CR0_PG, 0, PAE_ON | la57 * r.CR4_LA57, LONG).canonical(address) is expected
