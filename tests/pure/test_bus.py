# SPDX-License-Identifier: Apache-2.0
"""Port and MMIO dispatch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.bus import BusConflictError, MmioBus, PortBus


class Latch:
    """Remembers what was written, per offset."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset * 0x10 + size

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def test_a_port_reaches_its_device_with_the_offset() -> None:
    bus, latch = PortBus(), Latch()
    bus.add(0x3F8, 8, latch, "COM1")

    bus.write(0x3FD, 1, 0x41)

    assert latch.written == [(5, 1, 0x41)]
    assert bus.read(0x3F9, 2) == 0x12


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_a_port_nobody_decodes_reads_all_ones(size: int, ones: int) -> None:
    bus = PortBus()

    bus.write(0x1234, size, 0)

    assert bus.read(0x1234, size) == ones


def test_two_devices_cannot_share_a_port() -> None:
    bus = PortBus()
    bus.add(0x60, 1, Latch(), "keyboard")

    with pytest.raises(BusConflictError, match="port 0x60 already belongs to keyboard"):
        bus.add(0x5F, 2, Latch(), "other")

    assert 0x5F not in bus.ports, "a refused region must not be there in part"


@pytest.mark.parametrize(("base", "count"), [(-1, 1), (0xFFFF, 2), (0, 0)])
def test_ports_outside_the_port_space_are_refused(base: int, count: int) -> None:
    with pytest.raises(BusConflictError, match=r"0\.\.0xffff"):
        PortBus().add(base, count, Latch(), "device")


def test_a_removed_region_is_gone() -> None:
    ports, mmio = PortBus(), MmioBus()
    ports.add(0xC000, 4, Latch(), "bar")
    mmio.add(0xFE000000, 0x1000, Latch(), "bar")

    ports.remove(0xC000, 4)
    mmio.remove(0xFE000000)

    assert ports.read(0xC001, 1) == 0xFF
    assert mmio.find(0xFE000000) is None


def test_a_reserved_port_belongs_to_no_device() -> None:
    bus = PortBus()
    bus.reserve(0xEC, 1, "page")

    with pytest.raises(BusConflictError, match="port 0xec already belongs to page"):
        bus.add(0xEC, 1, Latch(), "other")

    bus.write(0xEC, 1, 0)
    assert bus.read(0xEC, 2) == 0xFFFF
    assert not bus.ins and not bus.outs


def test_a_reserved_port_must_be_free() -> None:
    bus = PortBus()
    bus.add(0xEC, 1, Latch(), "other")

    with pytest.raises(BusConflictError, match="port 0xec already belongs to other"):
        bus.reserve(0xE0, 16, "page")


def test_a_removal_is_told_after_it_has_happened() -> None:
    bus, seen = PortBus(), []
    bus.add(0x60, 1, Latch(), "keyboard")
    bus.on_remove(lambda: seen.append(len(bus.outs)))

    bus.remove(0x60, 1)

    assert seen == [0]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=20), st.integers(0, 240))
def test_mmio_lookup_agrees_with_a_linear_search(wanted: list[tuple[int, int]], gpa: int) -> None:
    bus = MmioBus()
    accepted: list[tuple[int, int]] = []
    for base, size in wanted:
        overlaps = any(base < b + s and b < base + size for b, s in accepted)
        if overlaps:
            with pytest.raises(BusConflictError):
                bus.add(base, size, Latch(), "region")
        else:
            bus.add(base, size, Latch(), "region")
            accepted.append((base, size))

    expected = next(((b, b + s) for b, s in accepted if b <= gpa < b + s), None)
    found = bus.find(gpa)

    assert (found[:2] if found else None) == expected


def test_mmio_reads_and_writes_count_from_the_base() -> None:
    bus, latch = MmioBus(), Latch()
    bus.add(0xFF000000, 0x10000, latch, "testdev")

    bus.write(0xFF000008, 4, 7)

    assert latch.written == [(8, 4, 7)]
    assert bus.read(0xFF000002, 8) == 0x28
    assert bus.read(0xFF010000, 8) == 0xFFFFFFFFFFFFFFFF
