# SPDX-License-Identifier: Apache-2.0
"""Overlay pages: what a guest sees, what comes back, what survives."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.devices.fakes import FakeMemory
from vmm.overlay.copying import CopyingBackend
from vmm.overlay.pages import OverlayMap, OverlayPage

PAGE = 4096
RAM_PAGES = 4
NO_RAM = RAM_PAGES + 1  # a page number behind the end of RAM


def guest_page(number: int) -> bytes:
    """What the guest keeps in its page `number`: tells one page from another."""
    return bytes([0x40 + number]) * PAGE


@pytest.fixture
def memory() -> FakeMemory:
    ram = FakeMemory(RAM_PAGES * PAGE)
    for number in range(RAM_PAGES):
        ram.write(number * PAGE, guest_page(number))
    return ram


@pytest.fixture
def overlays(memory: FakeMemory) -> OverlayMap:
    return OverlayMap(CopyingBackend(memory))


@pytest.mark.tlfs("SYN-003", "MISC-008")
def test_enabling_hides_ram_and_disabling_gives_it_back(memory: FakeMemory, overlays: OverlayMap) -> None:
    page = overlays.page(0, "page")

    page.enable(2)
    seen = memory.read(2 * PAGE, PAGE)
    page.disable()

    assert seen == bytes(PAGE)
    assert memory.read(2 * PAGE, PAGE) == guest_page(2)


@pytest.mark.tlfs("SYN-003")
def test_contents_survive_disabling_and_moving(memory: FakeMemory, overlays: OverlayMap) -> None:
    page = overlays.page(0, "page")
    page.enable(1)
    memory.write(1 * PAGE + 8, b"guest")
    page.disable()
    page.write(0, b"vmm")

    page.enable(3)
    page.enable(2)

    assert memory.read(2 * PAGE, 13) == b"vmm" + bytes(5) + b"guest"
    assert memory.read(3 * PAGE, PAGE) == guest_page(3)


def test_reset_clears_and_disables(memory: FakeMemory, overlays: OverlayMap) -> None:
    page = overlays.page(0, "page")
    page.enable(1)
    page.write(0, b"old")

    page.reset()

    assert page.gpn is None
    assert memory.read(1 * PAGE, PAGE) == guest_page(1)
    assert page.read(0, PAGE) == bytes(PAGE)


@pytest.mark.tlfs("MISC-008")
def test_two_overlays_on_one_page_the_last_is_seen(memory: FakeMemory, overlays: OverlayMap) -> None:
    first, second = overlays.page(0, "first"), overlays.page(0, "second")
    first.write(0, b"1")
    second.write(0, b"2")
    first.enable(1)
    second.enable(1)
    seen = [memory.read(1 * PAGE, 1)]

    first.write(0, b"!")  # while it is hidden
    second.disable()
    seen.append(memory.read(1 * PAGE, 1))
    first.disable()
    seen.append(memory.read(1 * PAGE, 1))

    assert seen == [b"2", b"!", guest_page(1)[:1]]


def test_removing_the_hidden_overlay_does_not_change_what_is_seen(
    memory: FakeMemory, overlays: OverlayMap
) -> None:
    first, second = overlays.page(0, "first"), overlays.page(0, "second")
    second.write(0, b"2")
    first.enable(1)
    second.enable(1)

    first.disable()
    seen = memory.read(1 * PAGE, 1)
    second.disable()

    assert seen == b"2"
    assert memory.read(1 * PAGE, PAGE) == guest_page(1)


@pytest.mark.tlfs("SYN-003")
def test_a_page_where_no_ram_is_works_unseen(memory: FakeMemory, overlays: OverlayMap) -> None:
    before = bytes(memory.ram)
    page = overlays.page(0, "page")

    page.enable(NO_RAM)
    page.write(5, b"x")
    page.enable((1 << 52) - 1)

    assert page.read(5, 1) == b"x"
    assert bytes(memory.ram) == before


def test_fetch_or_gives_the_byte_before(overlays: OverlayMap) -> None:
    page = overlays.page(0, "page")

    hidden = page.fetch_or(7, 0b01), page.fetch_or(7, 0b10)
    page.enable(1)
    shown = page.fetch_or(7, 0b100)

    assert (*hidden, shown) == (0, 0b01, 0b11)
    assert page.read(7, 1) == b"\x07"


def test_the_machines_atomic_or_is_used_where_there_is_one(memory: FakeMemory) -> None:
    calls: list[tuple[int, int]] = []

    def fetch_or(gpa: int, mask: int) -> int:
        calls.append((gpa, mask))
        return 0x80

    page = OverlayMap(CopyingBackend(memory, fetch_or)).page(0, "page")
    page.enable(1)

    assert page.fetch_or(9, 4) == 0x80
    assert calls == [(1 * PAGE + 9, 4)]


def test_the_map_knows_what_a_vtl_sees(overlays: OverlayMap) -> None:
    first, second = overlays.page(0, "first"), overlays.page(0, "second")
    first.enable(1)
    second.enable(1)

    seen = overlays.at(0, 1)
    second.disable()

    assert (seen, overlays.at(0, 1), overlays.at(0, 2)) == (second, first, None)


@dataclass
class SeparateView:
    """A backend like one with a memory slot per VTL: each VTL's view is a dict of pages. VTLs without a view see none
    of other VTLs."""

    separate_views: bool = True
    views: dict[tuple[int, int], bytearray] = field(default_factory=dict)
    without_view: set[int] = field(default_factory=set)

    def show(self, vtl: int, gpn: int, contents: bytes, writable: bool) -> SeparatePage | None:
        assert (vtl, gpn) not in self.views
        if gpn == NO_RAM:
            return None
        self.views[vtl, gpn] = bytearray(contents)
        return SeparatePage(self, (vtl, gpn))


@dataclass
class SeparatePage:
    backend: SeparateView
    key: tuple[int, int]

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.backend.views[self.key][offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.backend.views[self.key][offset : offset + len(data)] = data

    def fetch_or(self, offset: int, mask: int) -> int:
        before = self.backend.views[self.key][offset]
        self.backend.views[self.key][offset] |= mask
        return before

    def hide(self) -> bytes:
        contents = self.backend.views.pop(self.key)
        assert all(other is not contents for other in self.backend.views.values()), (
            "a lower VTL still sees it"
        )
        return bytes(contents)

    def share(self, vtl: int) -> bool:
        key = (vtl, self.key[1])
        assert vtl < self.key[0] and key not in self.backend.views
        if vtl in self.backend.without_view:
            return False
        self.backend.views[key] = self.backend.views[self.key]
        return True

    def withdraw(self, vtl: int) -> None:
        assert self.backend.views.pop((vtl, self.key[1])) is self.backend.views[self.key]


def test_with_a_view_per_vtl_overlays_of_one_do_not_show_in_another() -> None:
    backend = SeparateView()
    overlays = OverlayMap(backend)
    vtl0, vtl1 = overlays.page(0, "VTL0's"), overlays.page(1, "VTL1's")

    vtl0.enable(1)
    vtl1.enable(1)
    vtl0.disable()

    assert set(backend.views) == {(1, 1)}
    assert (overlays.at(0, 1), overlays.at(1, 1)) == (None, vtl1)


def time_page(overlays: OverlayMap, vtl: int) -> OverlayPage:
    page = overlays.page(vtl, f"time page of VTL{vtl}", seen_below=True)
    page.write(100, bytes([0xF0 + vtl]))
    return page


@pytest.mark.tlfs("VSM-068", "TMR-002")
def test_a_time_page_is_seen_from_below_and_not_from_above() -> None:
    backend = SeparateView()
    overlays = OverlayMap(backend)
    page = time_page(overlays, 1)

    page.enable(1)
    page.write(100, b"!")

    assert {key: seen[100:101] for key, seen in backend.views.items()} == {(1, 1): b"!", (0, 1): b"!"}
    assert (overlays.at(0, 1), overlays.at(1, 1), overlays.at(2, 1)) == (page, page, None)
    page.enable(2)
    assert set(backend.views) == {(1, 2), (0, 2)}
    page.disable()
    assert backend.views == {} and not any(overlays.from_above)


@pytest.mark.tlfs("VSM-068")
def test_a_vtl_that_comes_later_sees_what_is_there() -> None:
    """VTL1's VM is made when VTL2 has its time page, and VTL0 an overlay of its own there."""
    backend = SeparateView(without_view={1})
    overlays = OverlayMap(backend)
    page, own = time_page(overlays, 2), overlays.page(0, "VTL0's")
    own.enable(1)
    page.enable(1)
    time_page(overlays, 0).enable(3)
    assert (overlays.at(0, 1), overlays.at(1, 1)) == (own, None)

    backend.without_view.clear()
    overlays.view_added(1)

    assert (overlays.at(0, 1), overlays.at(1, 1), overlays.at(1, 3)) == (own, page, None)
    assert backend.views[1, 1] is backend.views[2, 1]


def test_a_time_page_where_no_ram_is_is_seen_by_nobody() -> None:
    overlays = OverlayMap(SeparateView())
    page = time_page(overlays, 1)

    page.enable(NO_RAM)
    page.disable()

    assert overlays.at(0, NO_RAM) is None and not any(overlays.from_above)


SHARING_STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 2))),
    max_size=30,
)


@pytest.mark.tlfs("VSM-068", "HCP-008", "TMR-002")
@given(SHARING_STEPS)
def test_in_any_order_each_vtl_sees_what_it_should(steps: list[tuple[int, int | None]]) -> None:
    """Three VTLs, each with a time page (0 to 2) and another one (3 to 5), moved about on three guest pages.

    The rule, as a list per VTL and guest page: the last one of its own, else the time page of the lowest VTL above that
    sees its time page there.
    """
    backend = SeparateView()
    overlays = OverlayMap(backend)
    pages = [time_page(overlays, vtl) for vtl in range(3)]
    for vtl in range(3):
        pages.append(overlays.page(vtl, f"messages of VTL{vtl}"))
        pages[-1].write(100, bytes([0x80 + vtl]))
    stacks: dict[tuple[int, int], list[int]] = {}
    where: dict[int, int] = {}

    for number, gpn in steps:
        vtl = number % 3
        if where.get(number) != gpn:
            if number in where:
                stacks[vtl, where.pop(number)].remove(number)
            if gpn is not None:
                where[number] = gpn
                stacks.setdefault((vtl, gpn), []).append(number)
        if gpn is None:
            pages[number].disable()
        else:
            pages[number].enable(gpn)

        top = {key: stack[-1] for key, stack in stacks.items() if stack}
        for view in range(3):
            for at in range(3):
                above = [top[higher, at] for higher in range(view + 1, 3) if top.get((higher, at), 3) < 3]
                expected = top.get((view, at), above[0] if above else None)
                assert overlays.at(view, at) is (None if expected is None else pages[expected])
                seen = backend.views.get((view, at))
                mark = None if expected is None else (0xF0 if expected < 3 else 0x80) + expected % 3
                assert (None if seen is None else seen[100]) == mark
    for page in pages:
        page.reset()
    assert backend.views == {} and not any(overlays.from_above)


def test_vtls_that_share_ram_get_it_back_in_any_order(memory: FakeMemory, overlays: OverlayMap) -> None:
    vtl0, vtl1 = overlays.page(0, "VTL0's"), overlays.page(1, "VTL1's")
    vtl0.enable(1)
    vtl1.enable(1)

    vtl0.disable()
    vtl1.disable()

    assert memory.read(1 * PAGE, PAGE) == guest_page(1)


STEPS = st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, RAM_PAGES))), max_size=30)


@given(STEPS)
def test_any_order_of_enabling_leaves_the_model_right(steps: list[tuple[int, int | None]]) -> None:
    """Three pages, each marked, against a model: a list per GPA, last one seen."""
    memory = FakeMemory(RAM_PAGES * PAGE)
    for number in range(RAM_PAGES):
        memory.write(number * PAGE, guest_page(number))
    overlays = OverlayMap(CopyingBackend(memory))
    pages: list[OverlayPage] = []
    for mark in range(3):
        pages.append(overlays.page(mark, f"page {mark}"))
        pages[mark].write(100, bytes([mark + 1]))
    model: dict[int, list[int]] = {}
    where: dict[int, int] = {}

    for mark, gpn in steps:
        if where.get(mark) != gpn:
            if mark in where:
                model[where.pop(mark)].remove(mark)
            if gpn is not None:
                where[mark] = gpn
                model.setdefault(gpn, []).append(mark)
        if gpn is None:
            pages[mark].disable()
        else:
            pages[mark].enable(gpn)

        for number in range(RAM_PAGES):
            stack = model.get(number)
            expected = stack[-1] + 1 if stack else 0x40 + number
            assert memory.ram[number * PAGE + 100] == expected
        assert [page.read(100, 1)[0] for page in pages] == [1, 2, 3]
