# SPDX-License-Identifier: Apache-2.0
"""Translations by hypercall, over page tables in RAM."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmapi import Vcpu
from kvmapi.uapi import x86
from tests.pure.backend.hyperv.test_caller import (
    DIRTY_U64,
    INPUT,
    OUTPUT,
    PAGE_GPA,
    SELF_PARTITION,
    SELF_VP,
    Rig,
    a_rig,
)
from tests.pure.vsm.protected import Told
from vmm.backend.hyperv.address_spaces import VpAddressSpaces
from vmm.backend.hyperv.register_access import copy
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.memory_bits import HvTranslateGvaResultCode as Result
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus
from vmm.hvcalls.translate import GvaAccess
from vmm.overlay.pages import OverlayMap
from vmm.vsm.memory import VtlMemory
from vmm.vsm.protections import MemoryProtections

READ, WRITE, EXECUTE, EXEMPT, SET_BITS = 1, 2, 4, 8, 0x10
SUPERVISOR, USER, ENFORCE_SMAP, OVERRIDE_SMAP = 0x40, 0x80, 0x100, 0x200
PRESENT, WRITABLE, USER_PAGE, PWT, PCD, ACCESSED, DIRTY, PAT = 1, 2, 4, 8, 16, 32, 64, 128
NX = 1 << 63
PG, WP, PE = 1 << 31, 1 << 16, 1
PAE, SMEP, SMAP = 1 << 5, 1 << 20, 1 << 21
LME, LMA, NXE, SCE = 1 << 8, 1 << 10, 1 << 11, 1
TABLES = 0x8000  # PML4, PDPT, PD, PT in a row
PT = TABLES + 0x3000
DATA = 0xF000
MSR_PAT = 0x277
AC = 1 << 18
WRITE_BACK, UNCACHED, WRITE_COMBINING, WRITE_THROUGH = 6, 0, 1, 4
GVA_PAGE = 3  # the fourth entry of the table


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Both VPs in long mode with one table of pages, all rights in the upper levels."""
    with a_rig() as made:
        for level in range(3):
            entry = TABLES + 0x1000 * (level + 1) | PRESENT | WRITABLE | USER_PAGE
            made.ram.write(TABLES + 0x1000 * level, struct.pack("<Q", entry))
        for vp in made.vps:
            sregs = vp.vcpu.get_sregs()
            sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = PG | WP | PE, TABLES, PAE, LME | LMA | NXE
            sregs.cs.l = 1
            vp.vcpu.set_sregs(sregs)
            # PA0 WB, PA1 WT, PA2 UC-, PA3 UC, PA4 WC: as Linux sets it, but for one.
            vp.vcpu.set_msrs([(MSR_PAT, 0x0000_0001_0007_0406)])
        monkeypatch.setattr(made.vps[1], "kick", made.vps[1].after_kick)  # no thread runs it here
        map_page(made, DATA | PRESENT | WRITABLE)
        yield made


def map_page(rig: Rig, entry: int) -> None:
    rig.ram.write(PT + 8 * GVA_PAGE, struct.pack("<Q", entry))


def entries(rig: Rig) -> list[int]:
    """The entries on the way, root first."""
    places = [TABLES, TABLES + 0x1000, TABLES + 0x2000, PT + 8 * GVA_PAGE]
    return [int.from_bytes(rig.ram.read(at, 8), "little") for at in places]


def translate(rig: Rig, flags: int, page: int = GVA_PAGE, vp: int = SELF_VP) -> tuple[int, int, int, int]:
    """(code, GPA page, cache type, overlay)"""
    rig.ram.write(INPUT, struct.pack("<QIIQQ", SELF_PARTITION, vp, 0, flags, page))
    assert rig.call(Code.HvCallTranslateVirtualAddress, INPUT, OUTPUT) == 0
    code, cache_type, overlay, gpa_page = struct.unpack("<IBBxxQ", rig.ram.read(OUTPUT, 16))
    return code, gpa_page, cache_type, overlay


def code(rig: Rig, flags: int) -> Result:
    return Result(translate(rig, flags)[0])


SUCCESS, NOT_PRESENT = Result.HvTranslateGvaSuccess, Result.HvTranslateGvaPageNotPresent
PRIVILEGE, BAD_FLAGS = Result.HvTranslateGvaPrivilegeViolation, Result.HvTranslateGvaInvalidPageTableFlags
UNMAPPED, ILLEGAL_OVERLAY = Result.HvTranslateGvaGpaUnmapped, Result.HvTranslateGvaGpaIllegalOverlayAccess


@pytest.mark.tlfs("VP-020", "VP-023")
@pytest.mark.parametrize("vp", [SELF_VP, 0, 1])
def test_a_mapped_page(rig: Rig, vp: int) -> None:
    assert translate(rig, READ, vp=vp) == (SUCCESS, DATA >> 12, WRITE_BACK, 0)


@pytest.mark.tlfs("VP-022")
@pytest.mark.parametrize(
    ("entry", "flags", "expected"),
    [
        (0, READ, NOT_PRESENT),
        (DATA | PRESENT | 1 << 51, READ, BAD_FLAGS),  # beyond 36 physical bits
        (DATA | PRESENT, READ | WRITE, PRIVILEGE),
        (DATA | PRESENT, WRITE, PRIVILEGE),
        (DATA | PRESENT | NX, EXECUTE, PRIVILEGE),
        (DATA | PRESENT | NX, READ, SUCCESS),
        (DATA | PRESENT | NX | WRITABLE, READ | WRITE | EXECUTE, PRIVILEGE),
        (DATA | PRESENT | WRITABLE, READ | WRITE | EXECUTE, SUCCESS),
        (0x2_0000 | PRESENT, READ, UNMAPPED),  # behind RAM
    ],
)
def test_codes(rig: Rig, entry: int, flags: int, expected: Result) -> None:
    map_page(rig, entry)

    assert code(rig, flags) == expected


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize(
    ("flags", "dpl", "expected"),
    [
        (READ, 0, SUCCESS),
        (READ, 3, PRIVILEGE),  # the VP is in user mode
        (READ | SUPERVISOR, 3, SUCCESS),
        (READ | USER, 0, PRIVILEGE),
        (READ | USER | EXEMPT, 0, SUCCESS),
        (READ | EXEMPT, 3, SUCCESS),
    ],
)
def test_who_accesses_a_supervisor_page(rig: Rig, flags: int, dpl: int, expected: Result) -> None:
    other = rig.vps[1].vcpu
    sregs = other.get_sregs()
    sregs.ss.dpl = dpl
    other.set_sregs(sregs)

    assert translate(rig, flags, vp=1)[0] == expected


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize(
    ("flags", "ac", "expected"),
    [
        (READ, False, PRIVILEGE),
        (READ, True, SUCCESS),
        (READ | ENFORCE_SMAP, True, PRIVILEGE),
        (READ | OVERRIDE_SMAP, False, SUCCESS),
        (READ | EXEMPT, False, SUCCESS),
        (EXECUTE, True, PRIVILEGE),  # SMEP knows no AC
        (EXECUTE | EXEMPT, False, SUCCESS),
        (READ | USER, False, SUCCESS),
    ],
)
def test_who_accesses_a_user_page_with_smap_and_smep(
    rig: Rig, flags: int, ac: bool, expected: Result
) -> None:
    map_page(rig, DATA | PRESENT | USER_PAGE)
    other = rig.vps[1].vcpu
    sregs, regs = other.get_sregs(), other.get_regs()
    sregs.cr4 |= SMAP | SMEP
    regs.rflags = 2 | (AC if ac else 0)
    other.set_sregs(sregs)
    other.set_regs(regs)

    assert translate(rig, flags, vp=1)[0] == expected


@pytest.mark.tlfs("VP-021", "REG-008")
def test_registers_that_wait_in_kvm_run_count(rig: Rig) -> None:
    """RFLAGS written by hypercall waits there for the VTL to run."""
    map_page(rig, DATA | PRESENT | USER_PAGE)
    other = rig.vps[1].vcpu
    sregs = other.get_sregs()
    sregs.cr4 |= SMAP
    other.set_sregs(sregs)
    assert translate(rig, READ | SUPERVISOR, vp=1)[0] == PRIVILEGE

    assert rig.set_register(Register.HvX64RegisterRflags, 2 | AC, vp=1) == 1 << 32

    assert translate(rig, READ | SUPERVISOR, vp=1)[0] == SUCCESS
    assert other.get_regs().rflags & AC == 0  # the VTL has not run


def test_so_do_control_registers(rig: Rig) -> None:
    other = rig.vps[1].vcpu
    copy(other.run.sregs, other.get_sregs())
    other.run.sregs.cr3 = 0xA000  # a table of zeros
    other.run.u64[DIRTY_U64] = x86.KVM_SYNC_X86_SREGS

    assert translate(rig, READ, vp=1)[0] == NOT_PRESENT


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        (READ, [0, 0, 0, 0]),
        (READ | WRITE, [0, 0, 0, 0]),
        (READ | SET_BITS, [ACCESSED] * 4),
        (WRITE | READ | SET_BITS, [ACCESSED] * 3 + [ACCESSED | DIRTY]),
    ],
)
def test_accessed_and_dirty_bits(rig: Rig, flags: int, bits: list[int]) -> None:
    assert code(rig, flags) == SUCCESS
    assert [entry & (ACCESSED | DIRTY) for entry in entries(rig)] == bits


def test_a_refused_access_sets_no_bits(rig: Rig) -> None:
    map_page(rig, DATA | PRESENT)

    assert code(rig, READ | WRITE | SET_BITS) == PRIVILEGE
    assert [entry & (ACCESSED | DIRTY) for entry in entries(rig)] == [0] * 4


@pytest.mark.tlfs("VP-023")
@pytest.mark.parametrize(
    ("bits", "cache_type"),
    [(0, WRITE_BACK), (PWT, WRITE_THROUGH), (PCD, UNCACHED), (PWT | PCD, UNCACHED), (PAT, WRITE_COMBINING)],
)
def test_the_cache_type_is_what_pat_says(rig: Rig, bits: int, cache_type: int) -> None:
    map_page(rig, DATA | PRESENT | bits)

    assert translate(rig, READ) == (SUCCESS, DATA >> 12, cache_type, 0)


@pytest.mark.tlfs("VP-023")
def test_the_hypercall_page_is_an_overlay_that_nobody_writes(rig: Rig) -> None:
    map_page(rig, PAGE_GPA | PRESENT | WRITABLE)

    assert translate(rig, READ | EXECUTE) == (SUCCESS, PAGE_GPA >> 12, WRITE_BACK, 1)
    assert translate(rig, WRITE)[:2] == (ILLEGAL_OVERLAY, PAGE_GPA >> 12)


@pytest.mark.tlfs("VP-023")
def test_the_page_that_failed_is_told(rig: Rig) -> None:
    map_page(rig, 0x2_0000 | PRESENT)
    assert translate(rig, READ)[:2] == (UNMAPPED, 0x20)

    rig.ram.write(TABLES + 0x2000, struct.pack("<Q", 0x3_0000 | PRESENT))  # a table that is no RAM
    assert translate(rig, READ)[:2] == (UNMAPPED, 0x30)


@pytest.mark.tlfs("VP-023")
def test_without_paging_every_address_is_its_own(rig: Rig) -> None:
    other = rig.vps[1].vcpu
    sregs = other.get_sregs()
    sregs.cr0, sregs.efer = PE, 0
    other.set_sregs(sregs)

    assert translate(rig, WRITE, page=0xF_EE00, vp=1) == (SUCCESS, 0xF_EE00, WRITE_BACK, 0)


def test_an_address_that_is_not_canonical_is_not_there(rig: Rig) -> None:
    assert translate(rig, READ, page=1 << 40)[0] == NOT_PRESENT


@pytest.mark.tlfs("VP-025")
def test_the_ex_form_finds_the_same(rig: Rig) -> None:
    rig.ram.write(INPUT, struct.pack("<QIIQQ", SELF_PARTITION, SELF_VP, 0, READ, GVA_PAGE))
    rig.ram.fill(OUTPUT, 80, 0xEE)

    assert rig.call(Code.HvCallTranslateVirtualAddressEx, INPUT, OUTPUT) == 0

    expected = struct.pack("<QQ32xQQ", WRITE_BACK << 32, 0, DATA >> 12, 0)
    assert rig.ram.read(OUTPUT, 80) == expected + b"\xee" * 16


class TwoVtls:
    """VP 0's VTL0 has the first vCPU of the rig, its VTL1 the second."""

    def __init__(self, rig: Rig) -> None:
        self._vps = rig.vps

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        return self._vps[vtl].vcpu

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        return vp == caller


@pytest.mark.tlfs("VP-023")
def test_each_vtl_has_its_own_tables(rig: Rig) -> None:
    """VTL1 maps the address to another page, as a supervisor page without SMAP."""
    other = rig.vps[1].vcpu
    sregs = other.get_sregs()
    sregs.cr3 = 0xA000
    other.set_sregs(sregs)
    rig.ram.write(0xA000, struct.pack("<Q", 0xB000 | PRESENT))
    rig.ram.write(0xB000, struct.pack("<Q", 0xC000 | PRESENT))
    rig.ram.write(0xC000, struct.pack("<Q", PRESENT | 1 << 7))  # a page of 2 MiB at 0
    spaces = VpAddressSpaces(TwoVtls(rig), rig.hyperv._errands, rig.hyperv.memories.of, rig.hyperv.state)
    read = GvaAccess(read=True, write=False, execute=False)

    vtl0 = spaces.translate(0, 0, 0, 0, GVA_PAGE << 12, read)
    vtl1 = spaces.translate(0, 1, 0, 1, GVA_PAGE << 12, read)

    assert vtl0 is not None and vtl1 is not None
    assert (vtl0.gpa_page, vtl1.gpa_page) == (DATA >> 12, GVA_PAGE)
    assert spaces.inhibit_flushes(0, 1, 0, 0)


INTERCEPT = Result.HvTranslateGvaIntercept
NONE, ONLY_READ, READ_WRITE, READ_EXECUTE, RWX = 0, 1, 3, 5, 0xF


def translate_protected(
    rig: Rig, protected: dict[int, int], access: GvaAccess, vtl: int = 0, caller_vtl: int | None = None
) -> tuple[int, int]:
    """(code, GPA page) where VTL1 has given VTL0 these rights to pages."""
    rights = MemoryProtections(rig.ram.ranges(), Told())
    rights.from_above = rig.hyperv.state.overlays.from_above
    for gpa, flags in protected.items():
        assert rights.modify(1, 0, flags, [gpa >> 12]) == (HvStatus.SUCCESS, 1)
    spaces = VpAddressSpaces(
        TwoVtls(rig), rig.hyperv._errands, lambda of: VtlMemory(rig.ram, rights, of), rig.hyperv.state
    )
    found = spaces.translate(0, vtl if caller_vtl is None else caller_vtl, 0, vtl, GVA_PAGE << 12, access)
    assert found is not None
    return found.code, found.gpa_page


@pytest.mark.tlfs("VP-022", "VSM-083")
@pytest.mark.parametrize(
    ("rights", "kinds"),
    [(NONE, "rwx"), (ONLY_READ, "wx"), (READ_EXECUTE, "w"), (READ_WRITE, "x")],
)
def test_a_page_that_a_higher_vtl_protects_is_an_intercept(rig: Rig, rights: int, kinds: str) -> None:
    refused = ""
    for kind in "rwx":
        access = GvaAccess(read=kind == "r", write=kind == "w", execute=kind == "x")
        code, page = translate_protected(rig, {DATA: rights}, access)
        assert page == DATA >> 12
        refused += kind if code == INTERCEPT else ""

    assert refused == kinds


@pytest.mark.tlfs("VP-022", "VSM-082")
def test_a_table_that_a_higher_vtl_protects_is_an_intercept(rig: Rig) -> None:
    read = GvaAccess(read=True, write=False, execute=False)
    marking = GvaAccess(read=True, write=False, execute=False, set_bits=True)

    assert translate_protected(rig, {PT: NONE}, read) == (INTERCEPT, PT >> 12)
    assert translate_protected(rig, {PT: ONLY_READ}, read) == (SUCCESS, DATA >> 12)
    assert translate_protected(rig, {PT: ONLY_READ}, marking) == (INTERCEPT, PT >> 12)


MARKING_WRITE = GvaAccess(read=False, write=True, execute=False, set_bits=True)


@pytest.mark.tlfs("VP-021", "VP-022")
@pytest.mark.parametrize("code", [INTERCEPT, ILLEGAL_OVERLAY, UNMAPPED])
def test_a_page_that_may_not_be_accessed_leaves_the_tables_alone(rig: Rig, code: Result) -> None:
    rights = {DATA: NONE} if code == INTERCEPT else {}
    if code == ILLEGAL_OVERLAY:
        rig.hyperv.state.overlays.page(0, "hypercall page", writable=False).enable(DATA >> 12)
    elif code == UNMAPPED:
        map_page(rig, 0x2_0000 | PRESENT | WRITABLE)

    assert translate_protected(rig, rights, MARKING_WRITE)[0] == code
    assert [entry & (ACCESSED | DIRTY) for entry in entries(rig)] == [0] * 4


@pytest.mark.tlfs("VP-022", "VSM-079")
def test_the_rights_are_those_of_the_vtl_whose_tables_are_walked(rig: Rig) -> None:
    access = GvaAccess(read=True, write=True, execute=True)

    assert translate_protected(rig, {DATA: NONE, PT: NONE}, access, vtl=1) == (SUCCESS, DATA >> 12)


@pytest.mark.tlfs("VP-022")
def test_an_overlay_has_rights_of_its_own(rig: Rig) -> None:
    """The page below belongs to VTL1; VTL0's message page in its place is VTL0's."""
    page = rig.hyperv.state.overlays.page(0, "VTL0's")
    page.enable(DATA >> 12)
    access = GvaAccess(read=True, write=True, execute=False)
    expected = SUCCESS if rig.hyperv.state.overlays.separate_views else INTERCEPT

    assert translate_protected(rig, {DATA: NONE}, access) == (expected, DATA >> 12)


@pytest.mark.tlfs("VP-022", "VSM-068")
@pytest.mark.parametrize(("writable", "expected"), [(True, SUCCESS), (False, ILLEGAL_OVERLAY)])
@pytest.mark.parametrize("owner", [0, 1])
@pytest.mark.parametrize(("caller", "vtl"), [(0, 0), (1, 0), (1, 1)])
def test_where_all_see_every_overlay_it_is_its_own_right_that_counts(
    rig: Rig, writable: bool, expected: Result, owner: int, caller: int, vtl: int
) -> None:
    """As with hugepages=on."""
    assert not rig.hyperv.state.overlays.separate_views
    rig.hyperv.state.overlays.page(owner, "somebody's", writable=writable).enable(DATA >> 12)

    assert translate_protected(rig, {}, ASK_TO_WRITE, vtl, caller) == (expected, DATA >> 12)


@pytest.mark.tlfs("VP-022")
@pytest.mark.parametrize("owner", [0, 1])
def test_an_overlay_copied_into_ram_is_nowhere_without_ram(rig: Rig, owner: int) -> None:
    behind_ram = 0x2_0000
    rig.hyperv.state.overlays.page(owner, "somebody's").enable(behind_ram >> 12)
    map_page(rig, behind_ram | PRESENT | WRITABLE)

    assert translate_protected(rig, {}, ASK_TO_READ) == (UNMAPPED, behind_ram >> 12)


ANY = GvaAccess(read=True, write=True, execute=True)
ASK_TO_READ = GvaAccess(read=True, write=False, execute=False)
ASK_TO_WRITE = GvaAccess(read=False, write=True, execute=False)


class SeparateViews:
    """VTLs 0 to 2 see overlays of their own; what they hold does not matter here."""

    separate_views = True

    def show(self, vtl: int, gpn: int, contents: bytes, writable: bool) -> SeparateViews:
        return self

    def read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def write(self, offset: int, data: bytes) -> None:
        raise AssertionError("nobody writes")

    def fetch_or(self, offset: int, mask: int) -> int:
        raise AssertionError("nobody writes")

    def hide(self) -> bytes:
        return bytes(4096)

    def share(self, vtl: int) -> bool:
        return True

    def withdraw(self, vtl: int) -> None:
        pass


@pytest.fixture
def overlays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> OverlayMap:
    found = OverlayMap(SeparateViews())
    monkeypatch.setattr(rig.hyperv.state, "overlays", found)
    return found


@pytest.mark.tlfs("VP-022", "VP-023", "HCP-008")
@pytest.mark.parametrize(
    ("rights", "access", "by_itself", "by_vtl1"),
    [
        (RWX, ANY, ILLEGAL_OVERLAY, SUCCESS),
        (RWX, ASK_TO_READ, SUCCESS, SUCCESS),
        (READ_EXECUTE, ANY, ILLEGAL_OVERLAY, INTERCEPT),
        (NONE, ASK_TO_READ, SUCCESS, INTERCEPT),
    ],
)
def test_who_asks_about_a_hypercall_page(
    rig: Rig, overlays: OverlayMap, rights: int, access: GvaAccess, by_itself: Result, by_vtl1: Result
) -> None:
    """VTL0 may not write its own. VTL1 has RAM there, which it must not write for VTL0 where VTL0 may not."""
    overlays.page(0, "hypercall page", writable=False).enable(DATA >> 12)

    found = [translate_protected(rig, {DATA: rights}, access, caller_vtl=caller)[0] for caller in (0, 1)]

    assert found == [by_itself, by_vtl1]


@pytest.mark.tlfs("VP-022", "VSM-068", "TMR-002")
@pytest.mark.parametrize(
    ("rights", "access", "found"),
    [
        (RWX, ASK_TO_READ, [SUCCESS, SUCCESS, SUCCESS]),
        (RWX, ANY, [ILLEGAL_OVERLAY, ILLEGAL_OVERLAY, SUCCESS]),
        (READ_EXECUTE, ASK_TO_READ, [SUCCESS, SUCCESS, SUCCESS]),
        (READ_EXECUTE, ASK_TO_WRITE, [INTERCEPT, INTERCEPT, INTERCEPT]),
        (READ_WRITE, ANY, [INTERCEPT, INTERCEPT, INTERCEPT]),
        (NONE, ASK_TO_READ, [INTERCEPT, INTERCEPT, INTERCEPT]),
    ],
)
def test_who_asks_about_a_higher_vtl_s_time_page(
    rig: Rig, overlays: OverlayMap, rights: int, access: GvaAccess, found: list[Result]
) -> None:
    """VTL0 sees VTL1's, with its rights to the page. VTL2 sees RAM there."""
    overlays.page(1, "time page", seen_below=True).enable(DATA >> 12)

    codes = [translate_protected(rig, {DATA: rights}, access, caller_vtl=caller)[0] for caller in range(3)]

    assert codes == found
    seen = overlays.at(0, DATA >> 12)
    assert seen is not None and seen.vtl == 1


def test_a_vtl_may_write_its_own_time_page(rig: Rig, overlays: OverlayMap) -> None:
    overlays.page(0, "time page", seen_below=True).enable(DATA >> 12)

    assert translate_protected(rig, {DATA: NONE}, ASK_TO_WRITE)[0] == SUCCESS
