# SPDX-License-Identifier: Apache-2.0
"""Overlay pages in a VTL's mapping: RAM below and other VTLs' views stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm.backend.hyperv.mapped_overlays import MappedOverlays
from vmm.machine.ram import MIB, GuestRam, RamView
from vmm.overlay.pages import OverlayMap

GPN, HOLE_GPN = 0x180, 0xB0
PAGE = 4096
POOL_PAGES = 2


class Rig:
    """RAM with a view for VTLs 0 to 2 each, and an overlay map over all."""

    def __init__(self, ram: GuestRam) -> None:
        self.ram = ram
        self.mappings = [ram.map_for_kvm() for _ in range(3)]
        views = {vtl: RamView(ram, mapping) for vtl, mapping in enumerate(self.mappings)}
        self.overlays = MappedOverlays(views, POOL_PAGES, None)
        self.map = OverlayMap(self.overlays)
        ram.fill(GPN * PAGE, PAGE, 0x11)

    def seen(self, vtl: int, gpn: int = GPN) -> int:
        """The first byte that a VTL sees of a page."""
        return self.mappings[vtl].view[gpn * PAGE]

    def rights(self, vtl: int) -> str:
        """Of the host's mapping of the page."""
        address = self.mappings[vtl].address + GPN * PAGE
        for line in Path("/proc/self/maps").read_text().splitlines():
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()[1]
        raise AssertionError(f"{address:#x} is not mapped")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with GuestRam(4 * MIB) as ram:
        made = Rig(ram)
        yield made
        made.overlays.close()


@pytest.mark.tlfs("HCP-007", "HCP-008", "VSM-068")
def test_one_vtl_sees_it_and_ram_stays(rig: Rig) -> None:
    page = rig.map.page(0, "page")
    page.write(0, b"\x22")

    page.enable(GPN)

    assert (rig.seen(0), rig.seen(1), rig.ram.read(GPN * PAGE, 1)) == (0x22, 0x11, b"\x11")
    rig.mappings[0].view[GPN * PAGE] = 0x33  # the guest
    assert page.read(0, 1) == b"\x33"
    page.disable()
    assert (rig.seen(0), page.read(0, 1)) == (0x11, b"\x33")


@pytest.mark.tlfs("HCP-008", "VSM-068", "IMP-008")
def test_two_vtls_have_one_each_at_the_same_place(rig: Rig) -> None:
    for vtl in (0, 1):
        page = rig.map.page(vtl, f"page of {vtl}")
        page.write(0, bytes([0x40 + vtl]))
        page.enable(GPN)

    assert (rig.seen(0), rig.seen(1)) == (0x40, 0x41)


@pytest.mark.tlfs("HCP-007")
def test_a_page_that_is_not_writable_is_mapped_so(rig: Rig) -> None:
    page = rig.map.page(0, "code", writable=False)
    page.enable(GPN)

    assert rig.rights(0).startswith("r--")
    assert rig.overlays.refused == {(0, GPN)}
    page.write(0, b"\x55")  # the VMM may
    assert rig.seen(0) == 0x55
    page.disable()
    assert rig.rights(0).startswith("rw-")
    assert rig.overlays.refused == frozenset()


def test_setting_bits(rig: Rig) -> None:
    page = rig.map.page(0, "page")
    page.enable(GPN)

    assert (page.fetch_or(5, 0x81), page.fetch_or(5, 2), page.read(5, 1)) == (0, 0x81, b"\x83")


def test_where_there_is_no_ram_it_works_unseen(rig: Rig) -> None:
    page = rig.map.page(0, "page")
    page.enable(HOLE_GPN)
    page.write(0, b"\x66")

    assert page.read(0, 1) == b"\x66"
    page.disable()


def test_pages_of_the_pool_are_used_again(rig: Rig) -> None:
    page = rig.map.page(0, "page")
    for gpn in range(GPN, GPN + 3 * POOL_PAGES):
        page.enable(gpn)

    page.write(0, b"\x77")
    assert rig.seen(0, GPN + 3 * POOL_PAGES - 1) == 0x77


def test_one_more_than_the_pool_has_works_unseen(rig: Rig) -> None:
    pages = [rig.map.page(0, f"page {number}") for number in range(POOL_PAGES + 1)]
    for number, page in enumerate(pages):
        page.write(0, b"\x88")
        page.enable(GPN + number)

    assert rig.seen(0, GPN + POOL_PAGES) == 0
    assert pages[-1].read(0, 1) == b"\x88"


@pytest.mark.tlfs("VSM-068", "TMR-002")
def test_a_time_page_in_the_views_of_lower_vtls(rig: Rig) -> None:
    page = rig.map.page(1, "time page", seen_below=True)
    page.write(0, b"\x22")

    page.enable(GPN)

    assert [rig.seen(vtl) for vtl in range(3)] == [0x22, 0x22, 0x11]
    assert [rig.rights(vtl)[:2] for vtl in range(3)] == ["r-", "rw", "rw"]
    assert not rig.overlays.refused and rig.overlays.from_above == {(0, GPN)}
    rig.mappings[1].view[GPN * PAGE] = 0x33  # the guest, in VTL1
    assert (rig.seen(0), rig.ram.read(GPN * PAGE, 1)) == (0x33, b"\x11")
    page.enable(GPN + 1)
    assert [rig.seen(vtl) for vtl in range(3)] == [0x11] * 3
    assert rig.rights(0).startswith("rw") and rig.overlays.from_above == {(0, GPN + 1)}
    page.disable()
    assert rig.overlays.from_above == frozenset()


@pytest.mark.tlfs("VSM-068")
def test_a_lower_vtl_s_time_page_does_not_show_above(rig: Rig) -> None:
    page = rig.map.page(0, "time page", seen_below=True)
    page.write(0, b"\x22")

    page.enable(GPN)

    assert [rig.seen(vtl) for vtl in range(3)] == [0x22, 0x11, 0x11]


def test_views_that_are_gone_are_not_touched(rig: Rig) -> None:
    """VTL2 comes back after a reset before VTL1 does: VTL1's view of then is nobody's."""
    rig.overlays.drop_higher()
    rig.overlays.views[2] = RamView(rig.ram, rig.mappings[2])
    page = rig.map.page(2, "time page", seen_below=True)
    page.write(0, b"\x22")
    page.enable(GPN)
    assert [rig.seen(vtl) for vtl in range(3)] == [0x22, 0x11, 0x22]

    rig.overlays.views[1] = RamView(rig.ram, rig.mappings[1])
    rig.map.view_added(1)

    assert rig.seen(1) == 0x22 and rig.rights(1).startswith("r-")
    page.disable()
    assert [rig.seen(vtl) for vtl in range(3)] == [0x11] * 3
