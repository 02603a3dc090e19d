# SPDX-License-Identifier: Apache-2.0
"""Whatever a guest does with the configuration ports, nothing raises and a reset undoes it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.pci.pci_board import FakeRegion, PciBoard
from vmm.machine.pci.bridges import host_bridge, isa_bridge
from vmm.machine.pci.function import Bar, BarKind

SIZES = st.sampled_from([1, 2, 4])
PORTS = st.sampled_from([0xCF8, 0xCFC, 0xCFD, 0xCFE, 0xCFF, 0xC000, 0xC0FF])
# Addresses near what exists: three slots, the header, and the edges of the register number.
ADDRESSES = st.builds(
    lambda enable, slot, number, register: enable << 31 | slot << 11 | number << 8 | register,
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(0, 0xFF),
)
VALUES = st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from([0, 0xFFFFFFFF, 0xC000, 0xC0000000, 0xCF8, 7]))
ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("select"), st.just(0xCF8), st.just(4), ADDRESSES),
        st.tuples(st.just("write"), PORTS, SIZES, VALUES),
        st.tuples(st.just("read"), PORTS, SIZES, st.just(0)),
    ),
    max_size=60,
)


def make_board() -> PciBoard:
    board = PciBoard()
    board.bus.add_function(0, host_bridge())
    board.bus.add_function(1, isa_bridge())
    board.add(
        (Bar(0, BarKind.MEMORY_32, 0x1000, FakeRegion()), Bar(1, BarKind.IO, 0x100, FakeRegion())), slot=2
    )
    board.add((Bar(4, BarKind.MEMORY_64, 0x10000, FakeRegion()),), slot=3, pin=1)
    board.bus.reset()
    return board


def snapshot(board: PciBoard) -> tuple[object, ...]:
    """All a guest can see of the bus: every register of every function, and where BARs decode."""
    registers = [board.read(offset, 4, slot=slot) for slot in range(4) for offset in range(0, 0x100, 4)]
    return registers, sorted(board.ports.ports), list(board.mmio._map[1])


@settings(deadline=None)  # a loaded machine is no failure
@given(ACCESSES)
def test_any_access_sequence(accesses: list[tuple[str, int, int, int]]) -> None:
    board = make_board()
    fresh = snapshot(board)

    for kind, port, size, value in accesses:
        if kind == "read":
            assert 0 <= board.ports.read(port, size) < 1 << 8 * size
        else:
            board.ports.write(port, size, value & (1 << 8 * size) - 1)
    board.bus.reset()

    assert snapshot(board) == fresh
