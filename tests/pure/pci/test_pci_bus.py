# SPDX-License-Identifier: Apache-2.0
"""Mechanism 1, the type 0 header, BARs and INTx as a guest without firmware finds them."""

import pytest

from tests.pure.pci.pci_board import MEMORY_WINDOW, FakeRegion, PciBoard
from vmm.machine.pci.function import Bar, BarKind, Capability
from vmm.machine.pci.windows import IO_WINDOW, PciResourceError

COMMAND, STATUS = 0x04, 0x06
BAR0, BAR1 = 0x10, 0x14
IO_SPACE, MEMORY_SPACE, INTERRUPT_DISABLE = 1, 2, 1 << 10


@pytest.fixture
def board() -> PciBoard:
    return PciBoard()


def memory_bar(size: int = 0x1000, index: int = 0, value: int = 0x4D) -> Bar:
    return Bar(index, BarKind.MEMORY_32, size, FakeRegion(value))


def io_bar(size: int = 0x100, index: int = 0, value: int = 0x10) -> Bar:
    return Bar(index, BarKind.IO, size, FakeRegion(value))


class TestMechanism:
    def test_config_address_reads_back_without_reserved_bits(self, board: PciBoard) -> None:
        board.ports.write(0xCF8, 4, 0xFFFFFFFF)

        assert board.ports.read(0xCF8, 4) == 0x80FFFFFC

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_small_access_to_0xcf8_is_no_config_address(self, board: PciBoard, size: int) -> None:
        board.ports.write(0xCF8, 4, 0x80000000)
        board.ports.write(0xCF8, size, 0)

        assert board.ports.read(0xCF8, 4) == 0x80000000
        assert board.ports.read(0xCF8, size) == (1 << 8 * size) - 1

    def test_0xcf9_is_left_to_the_reset_register(self, board: PciBoard) -> None:
        assert [port for port in board.ports.ports if 0xCF8 <= port < 0xD00] == [
            0xCF8,
            *range(0xCFC, 0xD00),
        ]

    def test_ids_are_read_in_any_width(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()

        assert board.read(0, 4) == 0x12341B36
        assert (board.read(0, 2), board.read(2, 2)) == (0x1B36, 0x1234)
        assert [board.read(offset, 1) for offset in range(4)] == [0x36, 0x1B, 0x34, 0x12]

    @pytest.mark.parametrize("size", [1, 2, 4])
    def test_an_absent_function_reads_all_ones(self, board: PciBoard, size: int) -> None:
        board.add()
        board.bus.reset()

        assert board.read(0, size, slot=9) == (1 << 8 * size) - 1
        assert board.read(0, size, number=1) == (1 << 8 * size) - 1
        assert board.ports.read(board.select(0, bus=1), size) == (1 << 8 * size) - 1

    def test_without_the_enable_bit_nothing_answers(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()
        board.ports.write(0xCF8, 4, 3 << 11)

        assert board.ports.read(0xCFC, 4) == 0xFFFFFFFF

    def test_an_access_across_the_end_of_the_data_register(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()
        board.select(0)

        # Port 0xcff holds the last byte of the dword; the three bytes beyond are nobody's.
        assert board.ports.read(0xCFF, 4) == 0xFFFFFF12

    def test_a_write_across_the_end_of_the_data_register(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()
        board.select(0x0C)

        board.ports.write(0xCFD, 4, 0xAABBCC40)  # latency timer, then three bytes that change nothing

        assert board.read(0x0C, 4) == 0x00004000

    @pytest.mark.parametrize("register", [0x38, 0xFC])
    def test_a_write_across_the_end_does_not_reach_the_next_register(
        self, board: PciBoard, register: int
    ) -> None:
        board.add(pin=1)
        board.bus.reset()
        line = board.read(0x3C, 1)
        board.select(register)

        board.ports.write(0xCFD, 4, 0x55AAAAAA)  # interrupt line, behind 0x38, could be written

        assert board.read(0x3C, 1) == line != 0x55


class TestHeader:
    def test_identity(self, board: PciBoard) -> None:
        board.add(pin=1)
        board.bus.reset()

        assert board.read(0x08, 4) == 0x00FF0007  # class code, revision
        assert board.read(0x2C, 4) == 0x11001AF4  # subsystem
        assert board.read(0x3D, 1) == 1

    def test_read_only_registers_stay(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()

        for offset in (0x00, 0x08, 0x2C, 0x40, 0xFC):
            before = board.read(offset, 4)
            board.write(offset, 4, ~before & 0xFFFFFFFF)
            assert board.read(offset, 4) == before

    def test_command_keeps_only_the_defined_bits(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()

        board.write(COMMAND, 2, 0xFFFF)

        assert board.read(COMMAND, 2) == 0x0547

    def test_header_type_says_multi_function_only_where_it_is(self, board: PciBoard) -> None:
        board.add()
        board.add(number=2)
        board.add(slot=5)
        board.bus.reset()

        assert (board.read(0x0E, 1), board.read(0x0E, 1, number=2), board.read(0x0E, 1, slot=5)) == (
            0x80,
            0x80,
            0,
        )

    def test_capabilities_are_chained(self, board: PciBoard) -> None:
        vendor_specific = Capability(9, b"\x05\xaa\xbb", b"\x00\x00\x0f")
        board.add(capabilities=(vendor_specific, Capability(5, bytes(8), bytes(8))))
        board.bus.reset()

        assert board.read(STATUS, 2) >> 4 & 1
        assert board.read(0x34, 1) == 0x40
        assert (board.read(0x40, 2), board.read(0x48, 2)) == (0x4809, 0x0005)
        board.write(0x44, 1, 0xFF)
        assert board.read(0x44, 1) == 0xBF

    def test_without_capabilities_there_is_no_list(self, board: PciBoard) -> None:
        board.add()
        board.bus.reset()

        assert (board.read(STATUS, 2) >> 4 & 1, board.read(0x34, 1)) == (0, 0)


class TestBars:
    def test_reset_assigns_and_enables(self, board: PciBoard) -> None:
        board.add((memory_bar(), io_bar(index=1)))
        board.bus.reset()

        memory, io = board.read(BAR0, 4), board.read(BAR1, 4) & ~3
        assert (memory, io) == (MEMORY_WINDOW[0], IO_WINDOW[0])
        assert board.read(COMMAND, 2) & 7 == IO_SPACE | MEMORY_SPACE
        assert (board.mmio.read(memory + 0xFFF, 1), board.ports.read(io + 0xFF, 1)) == (0x4D, 0x10)
        assert board.moves == [(0, memory), (1, io)]

    @pytest.mark.parametrize(
        ("bar", "flags", "mask"), [(memory_bar(0x4000), 0, 0xFFFFC000), (io_bar(0x20), 1, 0xFFFFFFE1)]
    )
    def test_sizing(self, board: PciBoard, bar: Bar, flags: int, mask: int) -> None:
        board.add((bar,))
        board.bus.reset()
        original = board.read(BAR0, 4)

        board.write(BAR0, 4, 0xFFFFFFFF)
        sized = board.read(BAR0, 4)
        board.write(BAR0, 4, original)

        address = original & ~flags
        assert (sized, original & 1) == (mask, flags)
        # All ones is no place: the device is nowhere while it is being sized.
        assert board.moves == [(0, address), (0, None), (0, address)]

    def test_sizing_a_64_bit_bar(self, board: PciBoard) -> None:
        board.add((Bar(0, BarKind.MEMORY_64, 0x100000, FakeRegion(0x64)),))
        board.bus.reset()

        for offset in (BAR0, BAR1):
            board.write(offset, 4, 0xFFFFFFFF)

        assert (board.read(BAR0, 4), board.read(BAR1, 4)) == (0xFFF00004, 0xFFFFFFFF)
        assert board.moves[-1] == (0, None)

    def test_a_64_bit_bar_moves_above_4_gib(self, board: PciBoard) -> None:
        board.add((Bar(0, BarKind.MEMORY_64, 0x1000, FakeRegion(0x64)),))
        board.bus.reset()

        board.write(BAR1, 4, 0x10)

        assert board.mmio.read(0x10_0000_0000 + MEMORY_WINDOW[0], 1) == 0x64
        assert board.mmio.read(MEMORY_WINDOW[0], 1) == 0xFF

    def test_a_memory_bar_moves(self, board: PciBoard) -> None:
        board.add((memory_bar(),))
        board.bus.reset()

        board.write(BAR0, 4, 0xD0000000)

        assert board.mmio.read(0xD0000000, 1) == 0x4D
        assert board.mmio.read(MEMORY_WINDOW[0], 1) == 0xFF
        assert board.moves[-1] == (0, 0xD0000000)

    def test_an_io_bar_moves(self, board: PciBoard) -> None:
        board.add((io_bar(),))
        board.bus.reset()

        board.write(BAR0, 4, 0xD000)

        assert (board.ports.read(0xD0FF, 1), board.ports.read(IO_WINDOW[0], 1)) == (0x10, 0xFF)

    @pytest.mark.parametrize(
        ("bar", "enable"), [(memory_bar(), MEMORY_SPACE), (io_bar(), IO_SPACE)], ids=["memory", "io"]
    )
    def test_command_switches_decoding(self, board: PciBoard, bar: Bar, enable: int) -> None:
        board.add((bar,))
        board.bus.reset()

        board.write(COMMAND, 2, 0)
        off = list(board.moves)
        board.write(COMMAND, 2, enable)

        address = board.read(BAR0, 4) & ~3
        assert off[-1] == (0, None)
        assert board.moves[-1] == (0, address)

    def test_a_bar_at_zero_decodes_nothing(self, board: PciBoard) -> None:
        board.add((memory_bar(),))
        board.bus.reset()

        board.write(BAR0, 4, 0)

        assert board.moves[-1] == (0, None)

    @pytest.mark.parametrize(
        ("address", "decoded"), [(0xFF00, 0xFF00), (0x1_0000, None), (0x1_C000, None), (0xFFFF_FF00, None)]
    )
    def test_io_bars_end_where_ports_do(self, board: PciBoard, address: int, decoded: int | None) -> None:
        board.add((io_bar(),))
        board.bus.reset()

        board.write(BAR0, 4, address)

        assert board.moves[-1] == (0, decoded)
        assert (address & 0xFFFF in board.ports.ports) is (decoded is not None)

    def test_an_occupied_place_is_taken_once_it_is_free(self, board: PciBoard) -> None:
        board.add((memory_bar(value=1),), slot=4)
        board.add((memory_bar(value=2),), slot=5)
        board.bus.reset()
        first, second = MEMORY_WINDOW[0], MEMORY_WINDOW[0] + 0x1000

        board.write(BAR0, 4, first, slot=5)
        blocked = (board.mmio.read(first, 1), board.mmio.read(second, 1))
        board.write(BAR0, 4, 0xD0000000, slot=4)

        assert blocked == (1, 0xFF)
        assert (board.mmio.read(first, 1), board.mmio.read(0xD0000000, 1)) == (2, 1)

    def test_a_bar_on_a_fixed_port_leaves_that_port_alone(self, board: PciBoard) -> None:
        board.ports.add(0x3F8, 8, FakeRegion(0x55), "COM1")
        board.add((io_bar(),))
        board.bus.reset()

        board.write(BAR0, 4, 0x300)
        during = board.ports.read(0x3F8, 1)
        board.bus.reset()

        assert during == 0x55
        assert (board.ports.read(0x3F8, 1), board.ports.read(IO_WINDOW[0], 1)) == (0x55, 0x10)

    def test_two_bars_may_swap_places(self, board: PciBoard) -> None:
        board.add((memory_bar(value=1), memory_bar(index=1, value=2)))
        board.bus.reset()
        first, second = board.read(BAR0, 4), board.read(BAR1, 4)

        board.write(BAR0, 4, second)
        board.write(BAR1, 4, first)

        assert (board.mmio.read(second, 1), board.mmio.read(first, 1)) == (1, 2)

    def test_windows_that_are_full_name_the_device(self, board: PciBoard) -> None:
        with pytest.raises(PciResourceError, match="device: a BAR of 0x80000000 bytes does not fit"):
            board.add((memory_bar(0x80000000),))

    @pytest.mark.parametrize(
        ("index", "kind", "size"),
        [
            (0, BarKind.MEMORY_32, 24),
            (0, BarKind.MEMORY_32, 8),
            (0, BarKind.IO, 512),
            (6, BarKind.IO, 4),
            (5, BarKind.MEMORY_64, 16),
        ],
    )
    def test_bars_that_cannot_be(self, index: int, kind: BarKind, size: int) -> None:
        with pytest.raises(ValueError, match=f"BAR {index}"):
            Bar(index, kind, size, FakeRegion())

    def test_bars_that_overlap(self, board: PciBoard) -> None:
        with pytest.raises(ValueError, match="same register"):
            board.add((Bar(0, BarKind.MEMORY_64, 16, FakeRegion()), io_bar(index=1)))


class TestInterrupts:
    @pytest.mark.parametrize(
        ("slot", "pin", "irq"),
        # Slot 1 INTA is link A, then one link further per slot and per pin; links A, B are 10, links C, D 11.
        [(1, 1, 10), (2, 1, 10), (3, 1, 11), (4, 1, 11), (5, 1, 10), (1, 3, 11), (1, 4, 11)],
    )
    def test_pins_reach_the_noted_line(self, board: PciBoard, slot: int, pin: int, irq: int) -> None:
        function = board.add(slot=slot, pin=pin)
        board.bus.reset()

        function.set_interrupt(True)

        assert board.read(0x3C, 1, slot=slot) == irq
        assert board.lines[irq].level
        assert board.read(STATUS, 2, slot=slot) >> 3 & 1

    def test_the_interrupt_status_is_in_its_byte_only(self, board: PciBoard) -> None:
        function = board.add(slot=3, pin=1)
        board.bus.reset()
        quiet = [board.read(offset, size) for offset, size in ((4, 2), (5, 1), (7, 1), (8, 4))]

        function.set_interrupt(True)

        assert [board.read(offset, size) for offset, size in ((4, 2), (5, 1), (7, 1), (8, 4))] == quiet
        assert (board.read(6, 1) & 8, board.read(4, 4) >> 16 & 8) == (8, 8)

    def test_a_shared_line_stays_high_until_all_let_go(self, board: PciBoard) -> None:
        first, second = board.add(slot=3, pin=1), board.add(slot=7, pin=1)
        board.bus.reset()
        line = board.lines[11]

        first.set_interrupt(True)
        second.set_interrupt(True)
        first.set_interrupt(False)
        still = line.level
        second.set_interrupt(False)

        assert still
        assert (line.level, line.rises) == (False, 1)

    def test_interrupt_disable_masks_the_line_but_not_the_status(self, board: PciBoard) -> None:
        function = board.add(slot=3, pin=1)
        board.bus.reset()
        function.set_interrupt(True)

        board.write(COMMAND, 2, INTERRUPT_DISABLE)
        masked = (board.lines[11].level, board.read(STATUS, 2) >> 3 & 1)
        board.write(COMMAND, 2, 0)

        assert masked == (False, 1)
        assert board.lines[11].level

    def test_reset_releases_the_pins_even_masked_ones(self, board: PciBoard) -> None:
        function = board.add(slot=3, pin=1)
        board.bus.reset()
        function.set_interrupt(True)
        board.write(COMMAND, 2, INTERRUPT_DISABLE)

        board.bus.reset()

        assert (board.lines[11].level, board.read(STATUS, 2) >> 3 & 1) == (False, 0)

    def test_a_function_without_pin_has_no_line(self, board: PciBoard) -> None:
        function = board.add()
        board.bus.reset()

        function.set_interrupt(True)

        assert not any(line.level for line in board.lines.values())
        assert board.read(0x3C, 2) == 0


class TestPlaces:
    def test_a_pin_that_does_not_exist(self, board: PciBoard) -> None:
        with pytest.raises(ValueError, match=r"interrupt pin 5 is not 0\.\.4"):
            board.add(pin=5)

    def test_capabilities_beyond_the_end(self, board: PciBoard) -> None:
        fitting = [Capability(9, bytes(94), bytes(94))] * 2  # 96 bytes each: 0x40 to 0x100

        board.add(capabilities=fitting)
        with pytest.raises(ValueError, match="does not fit into 256 bytes"):
            board.add(slot=4, capabilities=[*fitting, Capability(9, b"", b"")])

    def test_a_taken_slot(self, board: PciBoard) -> None:
        board.add()

        with pytest.raises(ValueError, match=r"00:03\.0 already is device"):
            board.add()

    @pytest.mark.parametrize(("slot", "number"), [(32, 0), (-1, 0), (0, 8)])
    def test_a_slot_that_does_not_exist(self, board: PciBoard, slot: int, number: int) -> None:
        with pytest.raises(ValueError, match="does not exist"):
            board.add(slot=slot, number=number)
