# SPDX-License-Identifier: Apache-2.0
"""pc-testdev as kvm-unit-tests use it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.devices.fakes import FakeLine
from vmm.bus import MmioBus, PortBus
from vmm.machine.devices.pc_testdev import IRQ_COUNT, IRQ_PORT, MEMORY_GPA, MEMORY_SIZE, PcTestdev


class Rig:
    """The device on its buses, with what it acts on."""

    def __init__(self) -> None:
        self.lines = [FakeLine() for _ in range(IRQ_COUNT)]
        self.flushed: list[int] = []
        self.ports = PortBus()
        self.mmio = MmioBus()
        self.device = PcTestdev(self.lines, self.flushed.append)
        self.device.attach(self.ports, self.mmio)
        self.device.reset()


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("base", [0xE0, 0xE8])
@pytest.mark.parametrize(("size", "value"), [(1, 0x5A), (2, 0x1234), (4, 0xDEADBEEF)])
def test_the_latch_gives_back_what_was_written(rig: Rig, base: int, size: int, value: int) -> None:
    rig.ports.write(base, size, value)

    assert rig.ports.read(base, size) == value


def test_latch_bytes_have_ports_of_their_own(rig: Rig) -> None:
    rig.ports.write(0xE0, 4, 0x44332211)
    rig.ports.write(0xE1, 1, 0xAA)

    assert [rig.ports.read(0xE0 + index, 1) for index in range(4)] == [0x11, 0xAA, 0x33, 0x44]
    assert rig.ports.read(0xE2, 2) == 0x4433


def test_both_port_ranges_show_one_latch(rig: Rig) -> None:
    rig.ports.write(0xE0, 4, 0x01020304)

    assert rig.ports.read(0xE8, 4) == 0x01020304


def test_an_access_across_the_latchs_end_is_cut(rig: Rig) -> None:
    rig.ports.write(0xE2, 4, 0xDDCCBBAA)

    assert rig.ports.read(0xE0, 4) == 0xBBAA0000
    assert rig.ports.read(0xE2, 4) == 0xFFFFBBAA
    assert rig.flushed == []


def test_flush_names_the_page(rig: Rig) -> None:
    rig.ports.write(0xE4, 4, 0x12345678)

    assert rig.flushed == [0x12345000]


@pytest.mark.parametrize(("port", "size"), [(0xE4, 1), (0xE4, 2), (0xE5, 4), (0xE6, 2)])
def test_flush_takes_whole_addresses_only(rig: Rig, port: int, size: int) -> None:
    rig.ports.write(port, size, 0)

    assert rig.flushed == []


def test_an_irq_port_drives_its_line(rig: Rig) -> None:
    rig.ports.write(IRQ_PORT + 14, 1, 1)
    driven = [line.level for line in rig.lines]
    rig.ports.write(IRQ_PORT + 14, 1, 0)

    assert driven == [index == 14 for index in range(IRQ_COUNT)]
    assert not rig.lines[14].level


def test_any_value_but_zero_is_high(rig: Rig) -> None:
    rig.ports.write(IRQ_PORT, 1, 0x80)

    assert rig.lines[0].level


@pytest.mark.parametrize("size", [2, 4])
def test_irq_ports_are_bytes(rig: Rig, size: int) -> None:
    rig.ports.write(IRQ_PORT + 1, size, 0x01010101 & (1 << 8 * size) - 1)

    assert not any(line.level for line in rig.lines)


@pytest.mark.parametrize(
    ("size", "value"), [(1, 0x80), (2, 0xBEEF), (4, 0x80000001), (8, 0x0123456789ABCDEF)]
)
def test_memory_keeps_every_width(rig: Rig, size: int, value: int) -> None:
    rig.mmio.write(MEMORY_GPA + 0x123, size, value)

    assert rig.mmio.read(MEMORY_GPA + 0x123, size) == value
    assert rig.mmio.read(MEMORY_GPA + 0x123 + size, 1) == 0


def test_an_access_across_the_memorys_end_is_cut(rig: Rig) -> None:
    rig.mmio.write(MEMORY_GPA + MEMORY_SIZE - 2, 4, 0x44332211)

    assert rig.mmio.read(MEMORY_GPA + MEMORY_SIZE - 2, 4) == 0xFFFF2211
    assert rig.mmio.read(MEMORY_GPA, 4) == 0


@pytest.mark.parametrize("port", [0xE4, 0xE7, IRQ_PORT, IRQ_PORT + 23])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_write_only_registers_read_all_ones(rig: Rig, port: int, size: int) -> None:
    assert rig.ports.read(port, size) == (1 << 8 * size) - 1


def test_reset_clears_all_and_lowers_only_its_own_lines(rig: Rig) -> None:
    rig.ports.write(0xE0, 4, 5)
    rig.mmio.write(MEMORY_GPA, 8, 5)
    rig.ports.write(IRQ_PORT + 3, 1, 1)
    rig.lines[4].set_level(True)  # held by another device

    rig.device.reset()

    assert (rig.ports.read(0xE0, 4), rig.mmio.read(MEMORY_GPA, 8)) == (0, 0)
    assert (rig.lines[3].level, rig.lines[4].level) == (False, True)


def test_too_few_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="24 interrupt lines, 16 were given"):
        PcTestdev([FakeLine()] * 16, lambda gpa: None)


PORTS = st.one_of(st.integers(0xE0, 0xEB), st.integers(IRQ_PORT, IRQ_PORT + IRQ_COUNT - 1))
GPAS = st.one_of(
    st.integers(MEMORY_GPA, MEMORY_GPA + 16),
    st.integers(MEMORY_GPA + MEMORY_SIZE - 16, MEMORY_GPA + MEMORY_SIZE - 1),
)
ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("port"), PORTS, st.sampled_from([1, 2, 4]), st.none() | st.integers(0, 2**32 - 1)),
        st.tuples(
            st.just("mmio"), GPAS, st.sampled_from([1, 2, 4, 8]), st.none() | st.integers(0, 2**64 - 1)
        ),
    ),
    max_size=50,
)


@settings(deadline=None)  # a loaded machine is no failure
@given(ACCESSES)
def test_any_access_sequence(accesses: list[tuple[str, int, int, int | None]]) -> None:
    rig = Rig()
    buses: dict[str, PortBus | MmioBus] = {"port": rig.ports, "mmio": rig.mmio}

    for bus, address, size, value in accesses:
        if value is None:
            assert 0 <= buses[bus].read(address, size) < 1 << 8 * size
        else:
            buses[bus].write(address, size, value & (1 << 8 * size) - 1)
    rig.device.reset()

    assert not any(line.level for line in rig.lines)
    assert all(gpa % 4096 == 0 for gpa in rig.flushed)
