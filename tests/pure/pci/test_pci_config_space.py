# SPDX-License-Identifier: Apache-2.0
"""Configuration registers by their declared masks."""

import pytest

from vmm.machine.pci.config_space import ConfigSpace, Register


def test_a_write_reaches_writable_bits_only() -> None:
    config = ConfigSpace([Register("R", 0x40, 2, reset=0x1234, writable=0x00FF)])

    config.guest_write(0x40, 2, 0xABCD)

    assert config.read(0x40, 2) == 0x12CD


def test_writing_ones_clears_and_writing_zeros_keeps() -> None:
    config = ConfigSpace([Register("R", 0x40, 1, reset=0b1111, write_one_clears=0b0110)])

    config.guest_write(0x40, 1, 0b0011)

    assert config.read(0x40, 1) == 0b1101


def test_undeclared_bytes_read_zero_and_ignore_writes() -> None:
    config = ConfigSpace([])

    config.guest_write(0xFC, 4, 0xFFFFFFFF)

    assert config.read(0xFC, 4) == 0


def test_a_byte_write_leaves_its_neighbours() -> None:
    config = ConfigSpace([Register("R", 0x40, 4, reset=0x11223344, writable=0xFFFFFFFF)])

    config.guest_write(0x41, 1, 0xAA)

    assert config.read(0x40, 4) == 0x1122AA44


def test_store_ignores_the_masks_and_reset_undoes_all() -> None:
    config = ConfigSpace([Register("R", 0x40, 2, reset=5)])

    config.store(0x40, 2, 0xFFFF)
    stored = config.read(0x40, 2)
    config.reset()

    assert (stored, config.read(0x40, 2)) == (0xFFFF, 5)


def test_a_later_declaration_replaces_an_earlier_one() -> None:
    config = ConfigSpace([Register("A", 0x40, 1, 1, writable=0xFF), Register("B", 0x40, 1, 2)])

    config.guest_write(0x40, 1, 9)

    assert config.read(0x40, 1) == 2


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (Register("R", 0xFE, 4), "outside"),
        (Register("R", -1, 1), "outside"),
        (Register("R", 0x40, 1, reset=0x100), "does not fit"),
        (Register("R", 0x40, 1, writable=3, write_one_clears=2), "both"),
    ],
)
def test_declarations_that_make_no_sense(register: Register, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfigSpace([register])
