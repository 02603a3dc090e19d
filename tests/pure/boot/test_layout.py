# SPDX-License-Identifier: Apache-2.0
"""The table of boot structures, and the planner's search for free memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.pure.boot.fake_memory import GIB, MIB, FakeMemory
from tests.pure.boot.images import image
from vmm.machine.boot import BootError, Segment
from vmm.machine.boot.layout import BOARD_AREAS, BOOT_AREAS, GDT, PAGE_SIZE
from vmm.machine.boot.plan import LoadPlan


def test_areas_are_sorted_whole_pages_and_do_not_overlap() -> None:
    for area in BOOT_AREAS:
        assert area.gpa % PAGE_SIZE == area.size % PAGE_SIZE == 0, area
    for area, following in pairwise((*BOOT_AREAS, *BOARD_AREAS)):
        assert area.gpa + area.size <= following.gpa, (area, following)


def test_areas_leave_the_first_576_kib_to_guests() -> None:
    assert min(area.gpa for area in BOOT_AREAS) == 0x90000


def plan(memory: FakeMemory | None = None) -> LoadPlan:
    return LoadPlan(memory or FakeMemory(), image(b"x"))


def test_lowest_free_is_aligned_and_skips_what_is_taken() -> None:
    it = plan()
    it.claim("a", MIB, 0x1800)
    it.claim("b", MIB + 0x3000, 0x1000)
    assert it.lowest_free(0x1000, 0x1000, MIB, 2 * MIB) == MIB + 0x2000
    assert it.lowest_free(0x1001, 0x1000, MIB, 2 * MIB) == MIB + 0x4000
    assert it.lowest_free(MIB, 0x1000, MIB, 2 * MIB) is None


def test_highest_free_is_aligned_and_skips_what_is_taken() -> None:
    it = plan()
    it.claim("a", 16 * MIB - 0x800, 0x800)
    assert it.highest_free(0x1000, 0x1000, MIB, 16 * MIB) == 16 * MIB - 0x2000
    assert it.highest_free(0x1000, 0x1000, MIB, MIB + 0x1000) == MIB
    assert it.highest_free(0x1001, 0x1000, MIB, MIB + 0x1000) is None


def test_free_memory_never_lies_in_a_hole() -> None:
    it = plan(FakeMemory(4 * GIB))
    assert it.highest_free(0x1000, 0x1000, 0, 4 * GIB) == 3 * GIB - 0x1000
    assert it.lowest_free(0x1000, 0x1000, 3 * GIB, 8 * GIB) == 4 * GIB
    assert it.lowest_free(0x1000, 0x1000, 0x9F000, 4 * GIB) == 0xC0000  # 0x9fc00 belongs to the board


def test_ram_ends() -> None:
    it = plan(FakeMemory(5 * GIB))
    assert (it.low_ram_end, it.ram_end) == (3 * GIB, 6 * GIB)


def test_claim_may_span_blocks_without_a_hole_between_them() -> None:
    class Split(FakeMemory):
        def ranges(self) -> list[tuple[int, int]]:
            return [(0, 2 * MIB), (2 * MIB, MIB)]

    it = plan(Split())
    it.claim("both", 2 * MIB - 1, 2)
    for gpa in (2 * MIB - 1, 2 * MIB):
        with pytest.raises(BootError, match="but both takes"):
            it.claim("another", gpa, 1)


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x1000, 1), (0x1FFF, 1), (0xFFF, 2), (0xFFF, 0x2000), (0x1FFF, 9)]
)
def test_claims_that_touch_are_refused(gpa: int, size: int) -> None:
    it = plan()
    it.claim("first", 0x1000, 0x1000)
    with pytest.raises(BootError, match=r"second needs .* but first takes \[0x1000, 0x2000\)"):
        it.claim("second", gpa, size)


def test_claims_side_by_side_are_accepted() -> None:
    it = plan()
    it.claim("middle", 0x1000, 0x1000)
    it.claim("below", 0xFFF, 1)
    it.claim("above", 0x2000, 1)


def test_empty_claim_takes_nothing() -> None:
    it = plan()
    it.claim("nothing", 0xA0000, 0)  # not even of RAM
    it.claim("nothing", 0x1000, 0)
    it.claim("something", 0xFFF, 2)


def test_a_structure_larger_than_its_area_is_refused() -> None:
    plan().place_area(GDT, bytes(GDT.size))
    with pytest.raises(BootError, match="the GDT has 4097 bytes, there is room for 4096"):
        plan().place_area(GDT, bytes(GDT.size + 1))


@pytest.mark.parametrize("gpa", [16 * MIB - 1, 16 * MIB])
def test_a_claim_at_the_end_of_ram_is_refused(gpa: int) -> None:
    with pytest.raises(BootError, match=r"\[0xc0000, 0x1000000\): give the guest at least 17 MiB"):
        plan(FakeMemory(16 * MIB)).claim("it", gpa, 2)


@pytest.mark.parametrize(
    ("segment", "descriptor"),
    [
        # SDM volume 3, figure 3-8, put together by hand: base 0x12345678, limit 0xabcde bytes.
        (Segment(8, 0x12345678, 0xABCDE, 0xB, 1, 3, 1, 1, 0, 0), 0x124AFB345678BCDE),
        # Limit 4 GiB in pages: 0xfffff with G.
        (Segment(8, 0, 0xFFFFFFFF, 0x3, 1, 0, 1, 1, 0, 1), 0x00CF93000000FFFF),
        (Segment(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0),
    ],
)
def test_descriptor_of_a_segment(segment: Segment, descriptor: int) -> None:
    assert segment.descriptor() == descriptor
