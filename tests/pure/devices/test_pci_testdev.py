# SPDX-License-Identifier: Apache-2.0
"""pci-testdev on a PCI bus, driven as the documented protocol says and as kvm-unit-tests' vmexit does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.pci.pci_board import MEMORY_WINDOW, SLOT, PciBoard
from vmm.machine.devices.pci_testdev import IoEventFd, PciTestdev
from vmm.machine.pci.windows import IO_WINDOW

MEMORY, IO = MEMORY_WINDOW[0], IO_WINDOW[0]
TEST, WIDTH, OFFSET, DATA, COUNT, NAME = 0, 1, 4, 8, 12, 16
WRITES = 16


class FakeEventFd:
    def __init__(self, host: FakeHost, key: tuple[bool, int, int, int | None]) -> None:
        self.host = host
        self.key = key
        self.writes = 0

    def drain(self) -> int:
        writes, self.writes = self.writes, 0
        return writes

    def remove(self) -> None:
        self.host.armed.remove(self)


class FakeHost:
    """KVM's ioeventfds: takes a matching write before the VMM sees it."""

    def __init__(self, any_length: bool = True, limit: int = 10) -> None:
        self.any_length = any_length
        self.limit = limit
        self.armed: list[FakeEventFd] = []

    def add_ioeventfd(self, port: bool, address: int, size: int, datamatch: int | None) -> IoEventFd | None:
        if len(self.armed) >= self.limit or (size == 0 and not self.any_length):
            return None
        eventfd = FakeEventFd(self, (port, address, size, datamatch))
        self.armed.append(eventfd)
        return eventfd

    def takes(self, port: bool, address: int, size: int, value: int) -> bool:
        for eventfd in self.armed:
            of_port, at, width, datamatch = eventfd.key
            if (of_port, at) == (port, address) and width in (0, size) and datamatch in (None, value):
                eventfd.writes += 1
                return True
        return False


class Rig:
    """The device in slot 3 of a board, and a guest's accesses to it."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host
        self.device = PciTestdev(host)
        self.board = PciBoard()
        self.board.bus.add_function(SLOT, self.device.function)
        self.board.bus.reset()
        self.device.reset()
        self.exits = 0

    def read(self, address: int, size: int) -> int:
        port = address < 0x10000
        return self.board.ports.read(address, size) if port else self.board.mmio.read(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        port = address < 0x10000
        if self.host is not None and self.host.takes(port, address, size, value):
            return
        self.exits += 1
        (self.board.ports if port else self.board.mmio).write(address, size, value)

    def name(self, base: int) -> str:
        characters = ""
        while byte := self.read(base + NAME + len(characters), 1):
            characters += chr(byte)
        return characters

    def scan(self, base: int) -> list[tuple[str, int]]:
        """Run every test that the BAR offers; its name and the count it reports."""
        results: list[tuple[str, int]] = []
        while True:
            self.write(base + TEST, 1, len(results))
            if (width := self.read(base + WIDTH, 1)) not in (1, 2, 4):
                return results
            data, offset = self.read(base + DATA, 4), self.read(base + OFFSET, 4)
            for _ in range(WRITES):
                self.write(base + offset, width, data)
            results.append((self.name(base), self.read(base + COUNT, 4)))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_identity_and_bars(rig: Rig) -> None:
    board = rig.board

    assert board.read(0, 4) == 0x00051B36
    assert board.read(0x3D, 1) == 0  # no interrupt pin
    assert (board.read(0x10, 4), board.read(0x14, 4)) == (MEMORY, IO | 1)


@pytest.mark.parametrize(("base", "kind"), [(MEMORY, "mmio"), (IO, "portio")])
def test_without_eventfds_only_the_plain_test_is_there(rig: Rig, base: int, kind: str) -> None:
    assert rig.scan(base) == [(f"{kind}-no-eventfd", WRITES)]


@pytest.mark.parametrize(("base", "kind"), [(MEMORY, "mmio"), (IO, "portio")])
@pytest.mark.parametrize("any_length", [True, False])
def test_with_eventfds_all_tests_are_there(base: int, kind: str, any_length: bool) -> None:
    rig = Rig(FakeHost(any_length))

    assert rig.scan(base) == [
        (f"{kind}-no-eventfd", WRITES),
        (f"{kind}-wildcard-eventfd", WRITES),
        (f"{kind}-datamatch-eventfd", WRITES),
    ]


def test_eventfd_writes_do_not_reach_the_device() -> None:
    rig = Rig(FakeHost())

    rig.scan(MEMORY)

    # Four times a test number, and the writes of the one test without eventfd.
    assert rig.exits == 4 + WRITES


@pytest.mark.parametrize(
    ("base", "number", "any_length", "armed"),
    [
        (MEMORY, 1, True, (False, MEMORY + 2049, 0, None)),
        (MEMORY, 1, False, (False, MEMORY + 2049, 1, None)),
        (MEMORY, 2, True, (False, MEMORY + 2050, 1, 0xFA)),
        (IO, 1, True, (True, IO + 132, 1, None)),
        (IO, 2, True, (True, IO + 133, 1, 0xFA)),
    ],
)
def test_what_is_armed(
    base: int, number: int, any_length: bool, armed: tuple[bool, int, int, int | None]
) -> None:
    host = FakeHost(any_length)
    rig = Rig(host)

    rig.write(base + TEST, 1, number)

    assert [eventfd.key for eventfd in host.armed] == [armed]


def test_the_next_test_and_reset_disarm() -> None:
    host = FakeHost()
    rig = Rig(host)

    rig.write(MEMORY + TEST, 1, 1)
    rig.write(MEMORY + TEST, 1, 2)
    after_next = len(host.armed)
    rig.device.reset()

    assert (after_next, len(host.armed)) == (1, 0)


def test_a_host_that_refuses_has_no_eventfd_tests() -> None:
    rig = Rig(FakeHost(limit=0))

    assert rig.scan(MEMORY) == [("mmio-no-eventfd", WRITES)]


def test_an_eventfd_follows_its_bar_and_keeps_its_count() -> None:
    host = FakeHost()
    rig = Rig(host)
    rig.write(MEMORY + TEST, 1, 2)
    rig.write(MEMORY + 2050, 1, 0xFA)

    rig.board.write(0x10, 4, 0xD0000000)
    rig.write(0xD0000000 + 2050, 1, 0xFA)

    assert [eventfd.key[1] for eventfd in host.armed] == [0xD0000000 + 2050]
    assert rig.read(0xD0000000 + COUNT, 4) == 2


def test_an_eventfd_sleeps_while_its_bar_is_off() -> None:
    host = FakeHost()
    rig = Rig(host)
    rig.write(IO + TEST, 1, 1)

    rig.board.write(0x04, 2, 0)
    while_off = len(host.armed)
    rig.board.write(0x04, 2, 3)

    assert (while_off, len(host.armed)) == (0, 1)


def test_only_the_right_data_at_the_right_place_counts(rig: Rig) -> None:
    rig.write(MEMORY + TEST, 1, 0)

    rig.write(MEMORY + 2048, 1, 0xFB)  # wrong data
    rig.write(MEMORY + 2049, 1, 0xFA)  # wrong place
    rig.write(MEMORY + 2046, 4, 0x00FA0000)  # its third byte hits

    assert rig.read(MEMORY + COUNT, 4) == 1


def test_a_write_to_the_other_bar_does_not_count(rig: Rig) -> None:
    rig.write(IO + TEST, 1, 0)

    rig.write(MEMORY + 131, 1, 0xFA)  # the place of the I/O test, in the memory BAR

    assert rig.read(IO + COUNT, 4) == 0


def test_starting_again_counts_from_zero(rig: Rig) -> None:
    rig.write(MEMORY + TEST, 1, 0)
    rig.write(MEMORY + 2048, 1, 0xFA)

    rig.write(MEMORY + TEST, 1, 0)

    assert rig.read(MEMORY + COUNT, 4) == 0


@pytest.mark.parametrize("number", [3, 255])
def test_a_test_that_is_not_there_has_width_zero(rig: Rig, number: int) -> None:
    rig.write(MEMORY + TEST, 1, number)

    assert rig.read(MEMORY + WIDTH, 1) == 0


def test_before_any_test_the_header_is_zero(rig: Rig) -> None:
    assert [rig.read(IO + offset, 4) for offset in range(0, 32, 4)] == [0] * 8


def test_reads_behind_the_name_are_zero(rig: Rig) -> None:
    rig.write(MEMORY + TEST, 1, 0)

    assert rig.read(MEMORY + NAME + len("mmio-no-eventfd"), 8) == 0
    assert rig.read(MEMORY + 4092, 4) == 0


OFFSETS = st.one_of(st.integers(0, 40), st.integers(126, 136), st.integers(248, 255), st.integers(2044, 2053))
ACCESSES = st.lists(
    st.tuples(
        st.sampled_from([MEMORY, IO, None]),  # None: the COMMAND register, to let BARs come and go
        OFFSETS,
        st.sampled_from([1, 2, 4]),
        st.none() | st.sampled_from([0, 1, 2, 3, 0xFA, 0xCE]) | st.integers(0, 2**32 - 1),
    ),
    max_size=50,
)


@settings(deadline=None)  # a loaded machine is no failure
@given(ACCESSES, st.sampled_from([None, 0, 10]))
def test_any_access_sequence(
    accesses: list[tuple[int | None, int, int, int | None]], eventfd_limit: int | None
) -> None:
    host = None if eventfd_limit is None else FakeHost(limit=eventfd_limit)
    rig = Rig(host)

    for base, offset, size, value in accesses:
        if base is None:
            rig.board.write(0x04, 2, offset & 3)
        elif value is None:
            assert 0 <= rig.read(base + offset, size) < 1 << 8 * size
        else:
            rig.write(base + offset, size, value & (1 << 8 * size) - 1)
        assert host is None or len(host.armed) <= 1
    rig.device.reset()

    assert host is None or host.armed == []
