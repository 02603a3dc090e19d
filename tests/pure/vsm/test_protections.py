# SPDX-License-Identifier: Apache-2.0
"""Default protection masks and HvCallModifyVtlProtectionMask, as guests call them."""

from __future__ import annotations

import pytest

from tests.pure.vsm.protected import CONFIG, ENABLE, HOLE, PAGE, Protected
from tests.pure.vsm.world import World, input_vtl
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.inputs import HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS, HV_INPUT_MODIFY_VTL_PROTECTION_MASK
from vmm.hv.memory_bits import HV_ACCESS_CHECK_RESULT, HV_MAP_GPA_FLAGS
from vmm.hv.status import HvStatus
from vmm.vsm.outside import Refused, RightsChange
from vmm.vsm.rights import ALL, EXECUTE, NONE, READ, WRITE

R, W, KX, UX = 1, 2, 4, 8
"""HV_MAP_GPA_FLAGS."""
DENIED, BAD, REFUSED = HvStatus.ACCESS_DENIED, HvStatus.INVALID_PARAMETER, HvStatus.INVALID_REGISTER_VALUE
SELF = (1 << 64) - 1


# ---- the default mask ------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-009", "VSM-077", "VSM-085")
@pytest.mark.parametrize(
    ("mask", "rights"),
    [(0x3, READ | WRITE), (0x7, ALL), (0xB, ALL), (0xF, ALL)],
    ids=["rw", "kx", "ux", "all"],
)
def test_default_mask_applies_to_all_memory(mask: int, rights: int) -> None:
    """Without MBEC either execute bit lets execute (DIS-03)."""
    world = Protected().enable(mask)

    assert world.of(0, 0, HOLE - 1, 2 * HOLE, 3 * HOLE - 1) == [rights] * 4
    assert world.of(1, 0) == [ALL]
    assert world.of(0, HOLE) == [ALL], "what is not RAM is not protected"


@pytest.mark.tlfs("VSM-009")
def test_default_mask_can_be_changed_until_it_is_applied() -> None:
    world = Protected()
    caller = world.caller()

    assert [caller.set((CONFIG, mask << 1)) for mask in (0x3, 0xF, 0x3)] == [0, 0, 0]
    assert world.of(0, 0) == [ALL]
    caller.set((CONFIG, ENABLE | 0x3 << 1))

    assert world.of(0, 0) == [READ | WRITE]


@pytest.mark.tlfs("VSM-009")
def test_default_mask_stays_once_it_is_applied() -> None:
    """DIS-10: success, and the mask that was."""
    world = Protected().enable(0x3)

    assert world.caller().set((CONFIG, ENABLE | 0xF << 1)) == HvStatus.SUCCESS
    assert world.caller().read(CONFIG) == ENABLE | 0x3 << 1
    assert world.of(0, 0) == [READ | WRITE]


@pytest.mark.tlfs("VSM-008")
def test_protection_cannot_be_disabled() -> None:
    world = Protected().enable(0x3)

    assert world.caller().set((CONFIG, 0xF << 1)) == REFUSED
    assert world.of(0, 0) == [READ | WRITE]


@pytest.mark.tlfs("VSM-009", "VSM-076")
@pytest.mark.parametrize("mask", [0x0, 0x1, 0x2, 0x4, 0x5, 0x8, 0xC, 0xD, 0xE], ids=hex)
def test_default_mask_without_read_and_write_is_refused(mask: int) -> None:
    world = Protected()

    assert world.caller().set((CONFIG, ENABLE | mask << 1)) == REFUSED
    assert world.of(0, 0) == [ALL]


@pytest.mark.tlfs("VSM-009")
def test_a_vm_that_comes_later_gets_what_was_decided_before() -> None:
    world = Protected(vtl=2).enable(0x3)
    world.modify(R, 1, vtl=1)

    assert world.rights.restricted(1) == [
        RightsChange(0, 1, READ | WRITE),
        RightsChange(1, 1, READ),
        RightsChange(2, HOLE - 2, READ | WRITE),
        RightsChange(2 * HOLE, HOLE, READ | WRITE),
    ]
    assert world.rights.restricted(2) == []


@pytest.mark.tlfs("VSM-009")
def test_a_mask_that_the_host_cannot_apply_is_not_stored() -> None:
    world = Protected()
    world.host.answer = HvStatus.INSUFFICIENT_MEMORY

    assert world.caller().set((CONFIG, ENABLE | 0x3 << 1)) == HvStatus.INSUFFICIENT_MEMORY
    assert not world.caller().read(CONFIG) & ENABLE
    assert world.of(0, 0) == [ALL]


def test_a_default_mask_over_64_gib_is_a_range_per_block_of_ram() -> None:
    world = Protected(ram=[(0, 0xA0000), (0xC0000, (3 << 30) - 0xC0000), (4 << 30, 61 << 30)]).enable(0x3)

    assert [(change.gpn, change.pages) for _, change in world.host.changes] == [
        (0, 0xA0),
        (0xC0, 0xC0000 - 0xC0),
        (1 << 20, 61 << 18),
    ]
    assert world.rights.refusing(0, (64 << 30), 8, EXECUTE) == Refused(1, 64 << 30)


# ---- HvCallModifyVtlProtectionMask ------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-070", "VSM-077", "VSM-071")
@pytest.mark.parametrize(
    ("flags", "rights"),
    [
        (0, NONE),
        (R, READ),
        (R | W, READ | WRITE),
        (R | KX, READ | EXECUTE),
        (R | UX, READ | EXECUTE),
        (R | KX | UX, READ | EXECUTE),
        (R | W | KX, ALL),
        (R | W | UX, ALL),
        (R | W | KX | UX, ALL),
    ],
)
def test_each_legal_combination(flags: int, rights: int) -> None:
    world = Protected().enable(0x3)

    assert world.modify(flags, 5) == (HvStatus.SUCCESS, 1)
    assert world.of(0, 4, 5, 6) == [READ | WRITE, rights, READ | WRITE]
    assert world.of(1, 5) == [ALL]


@pytest.mark.tlfs("VSM-076")
@pytest.mark.parametrize(
    "flags",
    [W, KX, UX, W | KX, W | UX, W | KX | UX, KX | UX, R | 1 << 4, R | 1 << 5, R | 1 << 15, 1 << 31],
    ids=hex,
)
def test_rights_that_no_page_can_have_are_refused(flags: int) -> None:
    world = Protected().enable()

    assert world.modify(flags, 5, 6) == (REFUSED, 0)
    assert world.host.changes == []


@pytest.mark.tlfs("VSM-070")
@pytest.mark.parametrize("pages", [1, 64, 65, 510])
def test_a_list_of_pages_in_any_order_and_twice(pages: int) -> None:
    world = Protected().enable()
    gpns = [gpn * 7 % HOLE for gpn in range(pages)]

    assert world.modify(R, *gpns) == (HvStatus.SUCCESS, pages)
    assert [gpn for gpn in range(HOLE) if world.of(0, gpn) == [READ]] == sorted(set(gpns))


def test_neighbours_become_one_change() -> None:
    world = Protected().enable()

    world.modify(R, 9, 3, 8, 7, 3, 2 * HOLE)

    assert world.host.changes == [
        (0, RightsChange(3, 1, READ)),
        (0, RightsChange(7, 3, READ)),
        (0, RightsChange(2 * HOLE, 1, READ)),
    ]


def test_what_a_vtl_has_already_is_no_change() -> None:
    world = Protected().enable()
    world.modify(R, 3, 4)
    world.host.changes.clear()

    assert world.modify(R, 3, 4, 5) == (HvStatus.SUCCESS, 3)
    assert world.host.changes == [(0, RightsChange(5, 1, READ))]


@pytest.mark.tlfs("VSM-075")
@pytest.mark.parametrize("bad", [HOLE, 2 * HOLE - 1, 3 * HOLE, 1 << 51, (1 << 64) - 1], ids=hex)
def test_a_page_that_is_not_ram_ends_the_list(bad: int) -> None:
    world = Protected().enable()

    assert world.modify(0, 1, 2, bad, 3) == (BAD, 2)
    assert world.of(0, 1, 2, 3) == [NONE, NONE, ALL]


@pytest.mark.tlfs("VSM-075")
def test_a_hole_behind_many_pages() -> None:
    world = Protected().enable()

    assert world.modify(0, *[gpn % HOLE for gpn in range(100)], HOLE, 2 * HOLE) == (BAD, 100)
    assert world.of(0, 2 * HOLE) == [ALL]


@pytest.mark.tlfs("VSM-074")
def test_it_needs_enable_vtl_protection() -> None:
    world = Protected()

    assert world.modify(0, 1) == (DENIED, 0)
    assert world.of(0, 1) == [ALL]


@pytest.mark.tlfs("VSM-074")
def test_it_needs_the_caller_s_own_enable_vtl_protection() -> None:
    world = Protected(vtl=2).enable(vtl=1)

    assert world.modify(0, 1, vtl=0) == (DENIED, 0)


@pytest.mark.tlfs("VSM-070")
def test_another_partition_is_refused() -> None:
    assert Protected().enable().modify(0, 1, partition=3) == (HvStatus.INVALID_PARTITION_ID, 0)


@pytest.mark.tlfs("VSM-073", "VSM-079")
def test_vtl0_protects_nothing() -> None:
    world = Protected().enable()
    world.world.leave(0)

    assert [world.modify(0, 1, vtl=vtl) for vtl in (None, 0, 1)] == [(DENIED, 0)] * 3


@pytest.mark.tlfs("VSM-073")
def test_a_vtl_above_the_caller_is_denied() -> None:
    world = Protected(vtl=2)
    world.world.leave(0)
    world.world.enter(0, 1)
    world.enable()

    assert world.modify(0, 1, vtl=2) == (DENIED, 0)


@pytest.mark.tlfs("VSM-072", "OHCL-006")
@pytest.mark.parametrize(("target", "restricted"), [(None, [0, 1]), (2, [0, 1]), (1, [1]), (0, [0])])
def test_who_is_restricted(target: int | None, restricted: list[int]) -> None:
    """DIS-02: a lower VTL by name, or all below the VTL that owns the protection."""
    world = Protected(vtl=2).enable()

    assert world.modify(R, 5, vtl=target) == (HvStatus.SUCCESS, 1)
    assert [vtl for vtl in range(3) if world.of(vtl, 5) == [READ]] == restricted


@pytest.mark.tlfs("VSM-070")
def test_reserved_bytes_of_the_header_are_not_looked_at() -> None:
    """kvm-unit-tests leaves them uninitialised."""
    world = Protected().enable()
    header = HV_INPUT_MODIFY_VTL_PROTECTION_MASK(SELF, HV_MAP_GPA_FLAGS(R), input_vtl(None)).pack()

    status = world.caller().status(
        Code.HvCallModifyVtlProtectionMask, header[:13] + b"\xcc\xcc\xcc" + bytes(8), 1
    )

    assert status == HvStatus.SUCCESS


@pytest.mark.tlfs("VSM-078")
def test_a_vtl_has_the_rights_that_every_higher_one_gives() -> None:
    world = Protected(vtl=2).enable().enable(vtl=1)
    world.modify(R | W, 5, 6)
    world.world.leave(0)
    world.world.enter(0, 1)
    world.modify(R | KX | UX, 5, 7)

    assert world.of(0, 5, 6, 7) == [READ, READ | WRITE, READ | EXECUTE]
    assert world.of(1, 5, 6, 7) == [READ | WRITE, READ | WRITE, ALL]


@pytest.mark.tlfs("VSM-106")
def test_the_lowest_vtl_that_refuses_is_told() -> None:
    world = Protected(vtl=2).enable().enable(vtl=1)
    world.modify(R, 5, 6)
    world.world.leave(0)
    world.world.enter(0, 1)
    world.modify(R | KX | UX, 5)

    assert world.rights.refusing(0, 5 * PAGE, 8, WRITE) == Refused(1, 5 * PAGE)
    assert world.rights.refusing(0, 5 * PAGE, 8, EXECUTE) == Refused(2, 5 * PAGE)
    assert world.rights.refusing(0, 6 * PAGE - 4, 8, WRITE) == Refused(1, 6 * PAGE - 4)
    assert world.rights.refusing(0, 6 * PAGE, 8, WRITE) == Refused(2, 6 * PAGE)
    assert world.rights.refusing(0, 5 * PAGE, 2 * PAGE, READ) is None


@pytest.mark.tlfs("VSM-122")
def test_what_is_not_ram_is_refused_by_nobody() -> None:
    """A device, or nothing: an access there is for who is there, whatever the default mask says."""
    world = Protected().enable(0x3)

    assert world.rights.refusing(0, HOLE * PAGE, 8, EXECUTE) is None
    assert world.rights.refusing(0, HOLE * PAGE - 4, 8, EXECUTE) == Refused(1, HOLE * PAGE - 4)


def test_the_first_byte_of_the_first_refused_page_is_told() -> None:
    world = Protected().enable()
    world.modify(0, 6)

    assert world.rights.refusing(0, 5 * PAGE + 8, PAGE, READ) == Refused(1, 6 * PAGE)
    assert world.rights.refusing(0, 6 * PAGE + 8, PAGE, READ) == Refused(1, 6 * PAGE + 8)
    assert world.rights.refusing(0, 5 * PAGE, PAGE, READ) is None
    assert world.rights.refusing(0, 6 * PAGE, 0, READ) is None


@pytest.mark.tlfs("VSM-070")
def test_a_host_that_refuses_leaves_everything_as_it_was() -> None:
    world = Protected().enable()
    world.host.answer = HvStatus.INSUFFICIENT_MEMORY

    assert world.modify(R, 1, 2) == (HvStatus.INSUFFICIENT_MEMORY, 0)
    assert world.of(0, 1, 2) == [ALL, ALL]


def test_the_table_is_bounded() -> None:
    """A page by itself makes two ranges more."""
    world = Protected(ranges=5).enable()

    assert world.modify(R, 2, 4) == (HvStatus.SUCCESS, 2)
    assert world.modify(R, 6) == (HvStatus.INSUFFICIENT_MEMORY, 0)
    assert world.of(0, 6) == [ALL]
    assert world.modify(R, 3) == (HvStatus.SUCCESS, 1), "fewer ranges again"


@pytest.mark.tlfs("VSM-039", "VSM-021")
def test_a_reset_gives_everything_back() -> None:
    world = Protected().enable(0x3)
    world.modify(0, 5)

    world.world.partition.reset()

    assert world.host.resets == 1
    assert (world.of(0, 4, 5), world.rights.restricted(0), world.rights.restricts(0)) == (
        [ALL, ALL],
        [],
        False,
    )
    world.world.enable(1)
    world.world.enter(0, 1)
    assert world.modify(0, 5) == (DENIED, 0), "EnableVtlProtection is clear"


@pytest.mark.tlfs("VSM-010", "VSM-039")
@pytest.mark.parametrize("zero", [0, 1])
def test_whether_a_reset_zeroes_memory(zero: int) -> None:
    world = Protected()
    world.caller().set((CONFIG, ENABLE | 0x3 << 1 | zero << 5))

    assert world.world.partition.reset().zero_memory == bool(zero)


# ---- machines that enforce nothing, or less ----------------------------------------------------------------


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize(
    ("flags", "status"),
    [(R | W | KX | UX, 0), (R | W | UX, 0), (R, HvStatus.OPERATION_DENIED), (W, HvStatus.OPERATION_DENIED)],
)
def test_without_enforcement_nothing_can_be_restricted(flags: int, status: int) -> None:
    world = World().enable(1)
    world.enter(0, 1)
    assert world.caller().set((CONFIG, ENABLE | 0xF << 1)) == HvStatus.SUCCESS
    header = HV_INPUT_MODIFY_VTL_PROTECTION_MASK(SELF, HV_MAP_GPA_FLAGS(flags), input_vtl(None)).pack()

    assert world.caller().status(Code.HvCallModifyVtlProtectionMask, header + bytes(8), 1) == status


def test_execute_rights_per_mode_are_refused_with_mbec() -> None:
    """Nobody here tells user from kernel execution, so that a difference is not taken silently."""
    world = Protected()
    world.world.partition.mbec = 1

    assert world.caller().set((CONFIG, ENABLE | 0xB << 1)) == REFUSED
    world.enable(0xF)
    assert world.modify(R | UX, 5) == (HvStatus.OPERATION_DENIED, 0)
    assert world.modify(R | KX | UX, 5) == (HvStatus.SUCCESS, 1)


# ---- HvCallCheckSparseGpaPageVtlAccess ---------------------------------------------------------------------


@pytest.mark.tlfs("VSM-090")
def test_access_check_tells_who_would_intercept() -> None:
    world = Protected(vtl=2).enable().enable(vtl=1)
    world.modify(R | W, 5)
    caller = world.caller()
    header = HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS(SELF, input_vtl(0), R | W | KX)
    pages = b"".join(gpn.to_bytes(8, "little") for gpn in (4, 5))

    assert caller.status(Code.HvCallCheckSparseGpaPageVtlAccess, header.pack() + pages, 2) == HvStatus.SUCCESS

    output = caller.memory.read(0x3000, 16)
    results = [HV_ACCESS_CHECK_RESULT(int.from_bytes(output[at : at + 8], "little")) for at in (0, 8)]
    assert results == [
        0,
        HV_ACCESS_CHECK_RESULT.make(ResultCode=1, DeniedAccess=KX | UX, InterceptingVtl=2),
    ]


@pytest.mark.tlfs("VSM-090")
@pytest.mark.parametrize(("partition", "access", "status"), [(3, R, 0x0D), (SELF, 1 << 4, BAD)])
def test_access_check_refuses(partition: int, access: int, status: int) -> None:
    world = Protected(vtl=2)
    header = HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS(partition, input_vtl(0), access).pack()

    assert world.caller().status(Code.HvCallCheckSparseGpaPageVtlAccess, header + bytes(8), 1) == status
