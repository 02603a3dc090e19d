# SPDX-License-Identifier: Apache-2.0
"""Overlay pages that are copied into guest RAM, on pages that VTL1 protects: no way around, in either direction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.pure.vsm.protected import Told
from tests.pure.vsm.test_memory import PAGE, Ram
from vmm.hv.status import HvStatus
from vmm.overlay.copying import CopyingBackend
from vmm.overlay.pages import OverlayMap, OverlayPage
from vmm.vsm.protections import MemoryProtections

R, RW, RX, RWX = 0x1, 0x3, 0x5, 0xF
SECRET = b"\xaa" * PAGE


class Scene:
    """VTL0's page is full of 0xF0, VTL1's of 0xF1; both VTLs share RAM."""

    def __init__(self) -> None:
        self.ram, self.host = Ram(), Told()
        self.rights = MemoryProtections(self.ram.ranges(), self.host)
        self.map = OverlayMap(CopyingBackend(self.ram, allowed=self.rights.may_use))
        self.rights.overlays = self.map
        self.pages = [self.map.page(vtl, f"VTL{vtl}'s") for vtl in (0, 1)]
        for vtl, page in enumerate(self.pages):
            page.write(0, bytes((0xF0 + vtl,)) * PAGE)

    def protect(self, flags: int, *gpns: int) -> HvStatus:
        return self.rights.modify(1, 0, flags, gpns)[0]

    def at(self, gpn: int) -> int:
        """The byte that a page is full of."""
        contents = set(self.ram.read(gpn * PAGE, PAGE))
        assert len(contents) == 1
        return contents.pop()

    def contents(self, page: OverlayPage) -> int:
        return page.read(0, 1)[0]


def test_a_page_that_vtl0_may_not_use_is_not_covered() -> None:
    scene = Scene()
    for gpn, flags in enumerate((0, R, RX), start=2):
        scene.protect(flags, gpn)
        scene.pages[0].enable(gpn)

        assert scene.at(gpn) == gpn
        scene.pages[0].write(0, b"\x11" * PAGE)
        assert scene.at(gpn) == gpn, "what the VMM stores for VTL0 does not go there"
        scene.pages[0].disable()
        assert scene.at(gpn) == gpn
    assert scene.contents(scene.pages[0]) == 0x11, "the overlay works as if nobody looked"


def test_an_overlay_leaves_a_page_that_is_taken_from_its_vtl() -> None:
    """What VTL1 keeps there from then on is neither read as the overlay's contents nor replaced by what was below."""
    scene = Scene()
    scene.pages[0].enable(2)
    assert scene.at(2) == 0xF0

    scene.protect(0, 2)
    assert scene.at(2) == 2
    scene.ram.write(2 * PAGE, SECRET)
    scene.pages[0].write(0, b"\x11" * PAGE)
    scene.pages[0].enable(9)

    assert (scene.at(2), scene.at(9), scene.contents(scene.pages[0])) == (0xAA, 0x11, 0x11)
    assert scene.map.at(0, 2) is None


def test_an_overlay_comes_back_with_the_page() -> None:
    scene = Scene()
    scene.pages[0].enable(2)
    scene.protect(R, 2)
    scene.ram.write(2 * PAGE, SECRET)

    scene.protect(RWX, 2)

    assert (scene.at(2), scene.map.at(0, 2)) == (0xF0, scene.pages[0])
    scene.pages[0].disable()
    assert scene.at(2) == 0xAA


def test_rights_that_leave_read_and_write_move_nothing() -> None:
    scene = Scene()
    scene.pages[0].enable(2)
    scene.ram.write(2 * PAGE, b"\x33")

    scene.protect(RW, 2, 3)
    scene.protect(0, 3)

    assert scene.ram.read(2 * PAGE, 2) == b"\x33\xf0", "what the guest stored in the overlay is still there"


def test_vtl0_does_not_hide_vtl1_s_overlay_on_a_page_of_vtl1() -> None:
    """Else it could take VTL1's message page away by enabling its own there."""
    scene = Scene()
    scene.protect(0, 2)
    scene.pages[1].enable(2)

    scene.pages[0].enable(2)

    assert (scene.at(2), scene.map.at(1, 2)) == (0xF1, scene.pages[1])
    scene.pages[1].disable()
    assert scene.at(2) == 2
    scene.protect(RWX, 2)
    assert scene.at(2) == 0xF0


def test_a_host_that_refuses_leaves_the_overlay_where_it_was() -> None:
    scene = Scene()
    scene.pages[0].enable(2)
    scene.host.answer = HvStatus.INSUFFICIENT_MEMORY

    assert scene.protect(0, 2) == HvStatus.INSUFFICIENT_MEMORY

    assert (scene.at(2), scene.contents(scene.pages[0])) == (0xF0, 0xF0)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("rights"),
            st.sampled_from([0, R, RX, RW, RWX]),
            st.frozensets(st.integers(0, 3), min_size=1),
        ),
        st.tuples(st.just("enable"), st.sampled_from([0, 1]), st.integers(0, 3)),
        st.tuples(st.just("disable"), st.sampled_from([0, 1]), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS)
def test_in_any_order_pages_show_what_they_should(steps: list[tuple[str, int, object]]) -> None:
    """A page shows the last overlay whose VTL may read and write it, else its own contents, which nobody changes."""
    scene = Scene()
    stacks: dict[int, list[int]] = {gpn: [] for gpn in range(4)}
    usable = dict.fromkeys(range(4), True)

    for step, value, where in steps:
        if step == "rights":
            assert isinstance(where, frozenset)
            scene.protect(value, *where)
            usable |= dict.fromkeys(where, value & RW == RW)
            continue
        for gpn, stack in stacks.items():
            if value in stack and (step == "disable" or gpn != where):
                stack.remove(value)
        if step == "disable":
            scene.pages[value].disable()
        else:
            assert isinstance(where, int)
            scene.pages[value].enable(where)
            if value not in stacks[where]:
                stacks[where].append(value)
        for gpn, stack in stacks.items():
            seen = [vtl for vtl in stack if vtl == 1 or usable[gpn]]
            assert scene.at(gpn) == (0xF0 + seen[-1] if seen else gpn)
        assert [scene.contents(page) for page in scene.pages] == [0xF0, 0xF1]
