# SPDX-License-Identifier: Apache-2.0
"""What a VTL's mapping of memory allows, as the kernel tells it in /proc/self/maps."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.backend.protection.mapping import Mapping, area_limit
from vmm.backend.protection.view import ProtectedView
from vmm.hv.status import HvStatus
from vmm.machine.ram import MIB, GuestRam, RamMapping, RamView
from vmm.vsm.outside import RightsChange
from vmm.vsm.rights import ALL, EXECUTE, NONE, READ, WRITE

PAGE = 4096
PAGES = 16 * MIB // PAGE
GPN = 0x100  # 1 MiB
RX, RW = READ | EXECUTE, READ | WRITE
LEGAL = {ALL: "rw", RX: "r-", READ: "--", RW: "--", NONE: "--"}


class Kernel:
    """The mapping of a view, as the kernel has it."""

    def __init__(self, ram: GuestRam) -> None:
        self.mapping: RamMapping = ram.map_for_kvm()
        blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
        self.view = ProtectedView(RamView(ram, self.mapping), ram, blocks)
        self._start, self._end = self.mapping.address, self.mapping.address + ram.size_bytes

    def areas(self) -> list[tuple[int, int, str]]:
        """`(first page, end page, such as "rw")` of the mapping."""
        found = []
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, permissions = line.split()[:2]
                low, high = (int(part, 16) for part in span.split("-"))
                if self._start <= low < self._end:
                    pages = (low - self._start) // PAGE, (high - self._start) // PAGE
                    found.append((*pages, permissions[:2]))
        return found

    def allows(self, gpn: int) -> str:
        return next(permissions for low, high, permissions in self.areas() if low <= gpn < high)


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(16 * MIB) as ram:
        yield ram


@pytest.fixture
def kernel(ram: GuestRam) -> Kernel:
    return Kernel(ram)


@pytest.fixture
def overlay() -> Iterator[int]:
    fd = os.memfd_create("overlay")
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("rights", LEGAL)
def test_a_page_and_its_neighbours(kernel: Kernel, rights: int) -> None:
    kernel.view.apply([RightsChange(GPN, 1, rights)])

    assert kernel.allows(GPN) == LEGAL[rights]
    assert kernel.allows(GPN - 1) == kernel.allows(GPN + 1) == "rw"
    assert kernel.view.rights(GPN) == rights and kernel.view.rights(GPN + 1) == ALL


def test_a_run_is_one_area_and_one_again_when_it_is_given_back(kernel: Kernel) -> None:
    before = kernel.areas()

    kernel.view.apply([RightsChange(GPN, 1000, NONE)])
    assert (GPN, GPN + 1000, "--") in kernel.areas()
    kernel.view.apply([RightsChange(GPN, 1000, ALL)])

    assert kernel.areas() == before and not kernel.view.restricts()


def test_rights_that_the_mapping_cannot_tell_apart_cost_no_area(kernel: Kernel) -> None:
    changes = [RightsChange(GPN + page, 1, (NONE, READ, RW)[page % 3]) for page in range(300)]

    kernel.view.apply(changes)

    assert (GPN, GPN + 300, "--") in kernel.areas()


@pytest.mark.tlfs("MISC-008", "VSM-068")
@pytest.mark.parametrize("rights", LEGAL)
def test_an_overlay_is_not_the_page_below(kernel: Kernel, overlay: int, rights: int) -> None:
    """It keeps its own mapping; the page's rights count when it is seen again."""
    offset = kernel.view.offset_of(GPN * PAGE, PAGE)
    kernel.view.put_over(offset, overlay, 0, writable=True)

    kernel.view.apply([RightsChange(GPN - 4, 9, rights)])

    assert kernel.allows(GPN) == "rw" and kernel.allows(GPN + 1) == LEGAL[rights]
    assert kernel.view.covered(GPN) and not kernel.view.lacks(GPN, READ)
    kernel.view.put_back(offset)
    assert kernel.allows(GPN) == LEGAL[rights] and not kernel.view.covered(GPN)


def test_an_overlay_over_a_restricted_page(kernel: Kernel, overlay: int) -> None:
    kernel.view.apply([RightsChange(GPN, 1, NONE)])
    offset = kernel.view.offset_of(GPN * PAGE, PAGE)

    kernel.view.put_over(offset, overlay, 0, writable=False)
    assert kernel.allows(GPN) == "r-"
    kernel.view.put_back(offset)

    assert kernel.allows(GPN) == "--"


def test_let_in_for_an_instruction(kernel: Kernel) -> None:
    kernel.view.apply([RightsChange(GPN, 4, RW), RightsChange(GPN + 4, 1, READ)])
    assert kernel.view.lacks(GPN, WRITE) and not kernel.view.lacks(GPN, EXECUTE)

    assert kernel.view.let_in({GPN: WRITE, GPN + 1: READ}, walked=[GPN + 4])
    assert [kernel.allows(GPN + page) for page in range(5)] == ["rw", "rw", "--", "--", "rw"]
    assert kernel.view.let_out()

    assert all(kernel.allows(GPN + page) == "--" for page in range(5))


def test_what_may_not_be_done_is_not_let_in(kernel: Kernel) -> None:
    kernel.view.apply([RightsChange(GPN, 1, RW), RightsChange(GPN + 1, 1, READ)])

    assert not kernel.view.let_in({GPN: WRITE, GPN + 1: WRITE})

    assert kernel.allows(GPN) == kernel.allows(GPN + 1) == "--"


def test_rights_that_change_while_a_page_is_in(kernel: Kernel) -> None:
    """From the return of `apply` on it is out, whoever let it in."""
    kernel.view.apply([RightsChange(GPN, 1, RW)])
    kernel.view.let_in({GPN: WRITE})

    kernel.view.apply([RightsChange(GPN, 1, READ)])

    assert kernel.allows(GPN) == "--"
    assert not kernel.view.let_out()


def test_memory_as_a_processor_finds_it(ram: GuestRam, kernel: Kernel, overlay: int) -> None:
    """Whatever the rights are: RAM, or an overlay on it."""
    kernel.view.apply([RightsChange(GPN, 1, NONE)])
    ram.write(GPN * PAGE, b"secret")
    os.pwrite(overlay, b"overlay", 0)

    assert kernel.view.read(GPN * PAGE, 6) == b"secret"
    offset = kernel.view.offset_of(GPN * PAGE, PAGE)
    kernel.view.put_over(offset, overlay, 0, writable=False)
    assert kernel.view.read(GPN * PAGE, 7) == b"overlay"
    kernel.view.put_back(offset)
    assert kernel.view.read(GPN * PAGE, 6) == b"secret"


def test_reset_gives_everything_back_but_overlays(kernel: Kernel, overlay: int) -> None:
    before = kernel.areas()
    offset = kernel.view.offset_of(GPN * PAGE, PAGE)
    kernel.view.put_over(offset, overlay, 0, writable=False)
    kernel.view.apply([RightsChange(GPN - 8, 100, NONE)])

    kernel.view.reset()
    assert kernel.allows(GPN) == "r-" and kernel.allows(GPN - 1) == "rw"
    kernel.view.put_back(offset)

    assert kernel.areas() == before


SHOWN = {rights: "r-" if allowed != "--" else "--" for rights, allowed in LEGAL.items()}
"""What the mapping has of a higher VTL's overlay, by rights to the page."""


@pytest.mark.tlfs("VSM-068", "VSM-077")
@pytest.mark.parametrize("rights", LEGAL)
def test_a_higher_vtl_s_overlay_is_bound_by_the_rights(kernel: Kernel, overlay: int, rights: int) -> None:
    view = kernel.view
    offset = view.offset_of(GPN * PAGE, PAGE)
    os.pwrite(overlay, b"overlay", 0)
    view.apply([RightsChange(GPN, 1, rights)])

    view.put_from_above(offset, overlay, 0)
    assert kernel.allows(GPN) == SHOWN[rights]
    assert view.read(GPN * PAGE, 7) == b"overlay"
    assert not view.covered(GPN) and view.read_only(GPN) and view.shows_read_only()
    for after in LEGAL:
        view.apply([RightsChange(GPN - 4, 9, after)])
        assert (kernel.allows(GPN), kernel.allows(GPN + 1)) == (SHOWN[after], LEGAL[after])
    view.reset()
    assert kernel.allows(GPN) == "r-"
    view.apply([RightsChange(GPN, 1, rights)])
    view.put_back(offset)

    assert kernel.allows(GPN) == LEGAL[rights]
    assert not view.read_only(GPN) and not view.shows_read_only()


@pytest.mark.tlfs("VSM-068")
def test_a_higher_vtl_s_overlay_is_let_in_to_be_read_only(kernel: Kernel, overlay: int) -> None:
    view = kernel.view
    view.put_from_above(view.offset_of(GPN * PAGE, PAGE), overlay, 0)
    assert not view.lacks(GPN, READ) and not view.lacks(GPN, WRITE)

    view.apply([RightsChange(GPN, 1, RW)])

    assert view.lacks(GPN, READ) and not view.lacks(GPN, WRITE)
    for pages, walked in (({GPN: READ}, []), ({GPN: WRITE}, []), ({}, [GPN])):
        assert view.let_in(pages, walked) and kernel.allows(GPN) == "r-"
        view.let_out()
        assert kernel.allows(GPN) == "--"
    view.take_out([GPN])
    view.let_out()
    view.apply([RightsChange(GPN, 1, ALL)])
    assert kernel.allows(GPN) == "r-"


@pytest.mark.tlfs("VSM-068", "MISC-008")
def test_what_a_guest_may_not_write(kernel: Kernel, overlay: int) -> None:
    offset = kernel.view.offset_of(GPN * PAGE, PAGE)
    found = []
    for writable in (True, False):
        kernel.view.put_over(offset, overlay, 0, writable=writable)
        found.append(kernel.view.read_only(GPN))
        kernel.view.put_back(offset)

    assert found == [False, True] and not kernel.view.read_only(GPN)


class Refusing:
    """A mapping that the host refuses to change after some calls."""

    def __init__(self, pages: RamView, calls: int) -> None:
        self.offset_of, self.put_over, self.put_back = pages.offset_of, pages.put_over, pages.put_back
        self.put_from_above = pages.put_from_above
        self.shown = pages.shown
        self._protect = pages.protect
        self.calls = calls

    def protect(self, offset: int, size: int, protection: int) -> None:
        self.calls -= 1
        if self.calls == 0:
            raise OSError(12, "no more areas")
        self._protect(offset, size, protection)


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_host_that_refuses_leaves_the_old_rights(ram: GuestRam, calls: int) -> None:
    kernel = Kernel(ram)
    blocks = [(block.gpa, block.size, block.offset) for block in ram.blocks]
    pages = Refusing(RamView(ram, kernel.mapping), 0)
    view = ProtectedView(pages, ram, blocks)
    view.apply([RightsChange(GPN, 2, RX), RightsChange(GPN + 2, 2, NONE)])
    mapping = Mapping()
    mapping.add(0, view)
    before = kernel.areas()
    pages.calls = calls

    changes = [RightsChange(GPN + page, 1, (ALL, NONE, RX, ALL)[page % 4]) for page in range(7)]
    status = mapping.apply(0, changes)

    assert status is HvStatus.INSUFFICIENT_MEMORY
    assert kernel.areas() == before
    assert [view.rights(GPN + page) for page in range(5)] == [RX, RX, NONE, NONE, ALL]


def test_a_guest_that_alternates_rights_runs_into_the_limit_of_areas(ram: GuestRam) -> None:
    """INSUFFICIENT_MEMORY, no crash, and the old rights."""
    kernel = Kernel(ram)
    mapping = Mapping(areas=200)
    mapping.add(0, kernel.view)
    every_other = [RightsChange(GPN + page, 1, NONE) for page in range(0, 400, 2)]

    assert mapping.apply(0, every_other[:80]) is HvStatus.SUCCESS
    before = kernel.areas()
    assert mapping.apply(0, every_other) is HvStatus.INSUFFICIENT_MEMORY

    assert kernel.areas() == before and kernel.view.rights(GPN + 300) == ALL


def test_the_limit_of_this_host(ram: GuestRam) -> None:
    """Up to it, for real: more areas than the process has is refused and undone."""
    kernel = Kernel(ram)
    mapping = Mapping(areas=1 << 30)  # so that only the kernel refuses
    mapping.add(0, kernel.view)
    others = [Kernel(ram) for _ in range(area_limit() // PAGES + 2)]
    for number, other in enumerate(others):
        mapping.add(number + 1, other.view)
    alternating = [RightsChange(page, 1, NONE) for page in range(0, 0xA0, 2)]
    alternating += [RightsChange(page, 1, NONE) for page in range(0xC0, PAGES, 2)]

    statuses = [mapping.apply(number + 1, alternating) for number in range(len(others))]

    assert statuses[0] is HvStatus.SUCCESS and statuses[-1] is HvStatus.INSUFFICIENT_MEMORY
    assert {area[2] for area in others[-1].areas()} == {"rw"}
    mapping.reset()
    assert all(len(other.areas()) <= 2 for other in others)  # a split that was half done is left over


def test_pages_without_execute_where_a_kvm_walks_page_tables_itself(ram: GuestRam) -> None:
    """A default mask without execute is refused there; some pages are not, and taking pages back never is."""
    kernel = Kernel(ram)
    mapping = Mapping(most_without_execute=10)
    mapping.add(0, kernel.view)
    everything = [RightsChange(0, 0xA0, RW), RightsChange(0xC0, PAGES - 0xC0, RW)]

    assert mapping.apply(0, everything) is HvStatus.FEATURE_UNAVAILABLE
    assert not kernel.view.restricts()
    assert mapping.apply(0, [RightsChange(GPN, 10, READ)]) is HvStatus.SUCCESS
    assert mapping.apply(0, [RightsChange(GPN + 20, 1, RW)]) is HvStatus.FEATURE_UNAVAILABLE
    assert mapping.apply(0, [RightsChange(GPN, 5, NONE)]) is HvStatus.SUCCESS
    assert mapping.apply(0, [RightsChange(GPN + 20, 500, NONE), RightsChange(GPN, 3, RW)]) is HvStatus.SUCCESS


def test_a_vtl_without_a_vm_is_kept_from_nothing() -> None:
    assert Mapping().apply(0, [RightsChange(GPN, 1, NONE)]) is HvStatus.SUCCESS


PIECES = st.lists(st.tuples(st.integers(0, 63), st.integers(1, 20), st.sampled_from(list(LEGAL))), max_size=6)
STEPS = st.lists(st.one_of(PIECES, st.integers(0, 127)), max_size=12)


@pytest.mark.tlfs("VSM-077", "VSM-068")
@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_any_changes_and_overlays(steps: list[list[tuple[int, int, int]] | int]) -> None:
    """A list of pieces is a change of rights, a number below 64 shows or hides an overlay there, 64 and more one of a
    higher VTL."""
    fd = os.memfd_create("overlay")
    os.ftruncate(fd, PAGE)
    try:
        with GuestRam(16 * MIB) as ram:
            kernel = Kernel(ram)
            expected = dict.fromkeys(range(GPN, GPN + 96), ALL)
            covered: set[int] = set()
            from_above: set[int] = set()
            for step in steps:
                if isinstance(step, int):
                    gpn = GPN + step % 64
                    offset = kernel.view.offset_of(gpn * PAGE, PAGE)
                    if gpn in covered | from_above:
                        kernel.view.put_back(offset)
                        covered, from_above = covered - {gpn}, from_above - {gpn}
                    elif step < 64:
                        kernel.view.put_over(offset, fd, 0, writable=False)
                        covered |= {gpn}
                    else:
                        kernel.view.put_from_above(offset, fd, 0)
                        from_above |= {gpn}
                    continue
                taken: set[int] = set()
                changes = []
                for first, pages, rights in step:  # pages lie in one change only
                    run = range(GPN + first, GPN + first + pages)
                    if not taken & set(run):
                        taken |= set(run)
                        changes.append(RightsChange(run.start, pages, rights))
                        expected.update(dict.fromkeys(run, rights))
                kernel.view.apply(changes)
            areas = kernel.areas()
            for gpn, rights in expected.items():
                allowed = next(permissions for low, high, permissions in areas if low <= gpn < high)
                shown = (SHOWN if gpn in from_above else LEGAL)[rights]
                assert allowed == ("r-" if gpn in covered else shown)
    finally:
        os.close(fd)


def test_a_page_table_that_may_only_be_read_is_as_it_was(ram: GuestRam, kernel: Kernel) -> None:
    """An instruction that the decoder knows nothing of has written to it while it was in."""
    kernel.view.apply([RightsChange(GPN, 1, RX), RightsChange(GPN + 1, 1, RW)])
    ram.write(GPN * PAGE, b"tables")
    at = kernel.view.offset_of(GPN * PAGE, PAGE)

    kernel.view.let_in({GPN + 1: WRITE}, walked=[GPN, GPN + 1])
    kernel.mapping.view[at : at + 6] = b"attack"
    kernel.mapping.view[at + PAGE : at + PAGE + 6] = b"wanted"
    kernel.view.let_out()

    assert ram.read(GPN * PAGE, 6) == b"tables"
    assert ram.read((GPN + 1) * PAGE, 6) == b"wanted"
