# SPDX-License-Identifier: Apache-2.0
"""What low memory holds when a guest starts."""

from __future__ import annotations

from vmm.machine import boot_state
from vmm.machine.memory_map import ACPI_AREA_END_GPA, ACPI_AREA_GPA
from vmm.machine.ram import MIB, GuestRam


def vector(ram: GuestRam, number: int) -> int:
    """The physical address of a real-mode interrupt handler."""
    offset = int.from_bytes(ram.read(4 * number, 2), "little")
    segment = int.from_bytes(ram.read(4 * number + 2, 2), "little")
    return (segment << 4) + offset


def test_every_vector_leads_to_code_in_the_reserved_area_that_returns() -> None:
    with GuestRam(2 * MIB) as ram:
        boot_state.write(ram)

        for number in range(256):
            gpa = vector(ram, number)
            assert ACPI_AREA_GPA <= gpa < ACPI_AREA_END_GPA
            assert 0xCF in ram.read(gpa, 12), f"vector {number:#x} never executes IRET"


def test_hardware_vectors_acknowledge_the_right_controllers() -> None:
    with GuestRam(2 * MIB) as ram:
        boot_state.write(ram)

        master = ram.read(vector(ram, 0x08), 8)
        both = ram.read(vector(ram, 0x77), 10)

        assert b"\xe6\x20" in master and b"\xe6\xa0" not in master
        assert both.index(b"\xe6\xa0") < both.index(b"\xe6\x20"), "the slave is acknowledged first"


def test_the_reset_vector_pulls_the_reset_port() -> None:
    with GuestRam(2 * MIB) as ram:
        boot_state.write(ram)

        assert ram.read(0xFFFF0, 6) == bytes.fromhex("baf90c b006 ee")


def test_the_page_shown_at_the_top_of_4_gib_has_the_reset_vector_at_its_place() -> None:
    reset_vector = 0xFFFFFFF0

    assert boot_state.ROM_GPA + (reset_vector - boot_state.ROM_ALIAS_GPA) == boot_state.RESET_VECTOR_GPA
