# SPDX-License-Identifier: Apache-2.0
"""The bridges that guests look for, and that the DSDT and the PIIX agree on interrupts."""

import pytest

from tests.pure.pci.pci_board import PciBoard
from vmm.machine.acpi import AcpiConfig
from vmm.machine.pci.bridges import HOST_BRIDGE_SLOT, ISA_BRIDGE_SLOT, host_bridge, isa_bridge


@pytest.fixture
def board() -> PciBoard:
    board = PciBoard()
    board.bus.add_function(HOST_BRIDGE_SLOT, host_bridge())
    board.bus.add_function(ISA_BRIDGE_SLOT, isa_bridge())
    board.bus.reset()
    return board


@pytest.mark.parametrize(
    ("slot", "ids", "class_code"), [(0, 0x12378086, 0x060000), (1, 0x70008086, 0x060100)]
)
def test_identity(board: PciBoard, slot: int, ids: int, class_code: int) -> None:
    assert board.read(0x00, 4, slot=slot) == ids
    assert board.read(0x08, 4, slot=slot) >> 8 == class_code
    assert board.read(0x2C, 4, slot=slot) == 0x11001AF4


@pytest.mark.parametrize(("slot", "command"), [(0, 0x0106), (1, 0x0007)])
def test_wired_command_bits(board: PciBoard, slot: int, command: int) -> None:
    board.write(0x04, 2, 0xFFFF, slot=slot)
    most = board.read(0x04, 2, slot=slot)
    board.write(0x04, 2, 0, slot=slot)

    assert most == command
    assert board.read(0x04, 2, slot=slot) == command & 7


def test_no_memory_or_io_is_decoded(board: PciBoard) -> None:
    assert [board.read(offset, 4, slot=slot) for slot in (0, 1) for offset in range(0x10, 0x28, 4)] == [
        0
    ] * 12


def test_pirq_routes_are_those_of_the_board(board: PciBoard) -> None:
    board.write(0x60, 4, 0x80808080, slot=1)

    assert board.read(0x60, 4, slot=1) == 0x0B0B0A0A


def test_passive_release_is_on_as_firmware_leaves_it(board: PciBoard) -> None:
    assert board.read(0x82, 1, slot=1) == 0b10


def test_acpi_names_the_same_isa_bridge() -> None:
    assert AcpiConfig(apic_ids=(0,)).isa_bridge_slot == ISA_BRIDGE_SLOT
