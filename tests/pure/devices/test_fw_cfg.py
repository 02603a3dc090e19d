# SPDX-License-Identifier: Apache-2.0
"""fw_cfg: items, files, DMA (QEMU's fw_cfg specification)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.machine.devices.fw_cfg import MAX_FILES, FwCfg, FwCfgDma
from vmm.outside import Region

from .fakes import FakeMemory
from .fuzz import ACCESSES, carry_out

RAM_BYTES = 0x10000
GIB = 1 << 30
DESCRIPTOR = 0x1000
BUFFER = 0x2000

ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16


class Board:
    def __init__(self) -> None:
        self.memory = FakeMemory(RAM_BYTES)
        self.device = FwCfg(self.memory, ram_bytes=5 * GIB, cpu_count=3, max_cpus=8)
        self.dma_port = FwCfgDma(self.device)

    def select(self, key: int) -> None:
        self.device.write(0, 2, key)

    def bytes_of(self, key: int, size: int) -> bytes:
        self.select(key)
        return bytes(self.device.read(1, 1) for _ in range(size))

    def dma(self, control: int, length: int, gpa: int) -> int:
        """Do one transfer the way drivers do: two big-endian halves. Returns the control word left behind."""
        self.memory.write(DESCRIPTOR, struct.pack(">IIQ", control, length, gpa))
        self.dma_port.write(0, 4, 0)
        self.dma_port.write(4, 4, int.from_bytes(struct.pack(">I", DESCRIPTOR), "little"))
        (result,) = struct.unpack(">I", self.memory.read(DESCRIPTOR, 4))
        return int(result)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0x00, b"QEMU"),
        (0x01, b"\x03\0\0\0"),  # traditional interface and DMA
        (0x03, (5 * GIB).to_bytes(8, "little")),
        (0x05, b"\x03\0"),
        (0x0F, b"\x08\0"),
        (0x11, bytes(8)),  # kvm-unit-tests read it as a RAM limit; 0 is none
        (0x19, bytes(4)),  # no files
    ],
)
def test_fixed_keys(key: int, value: bytes) -> None:
    assert Board().bytes_of(key, len(value)) == value


def test_the_signature_is_selected_after_reset() -> None:
    board = Board()
    board.bytes_of(5, 1)

    board.device.reset()

    assert bytes(board.device.read(1, 1) for _ in range(4)) == b"QEMU"


def test_zeros_behind_the_end_and_for_unknown_keys() -> None:
    board = Board()

    assert board.bytes_of(0x05, 4) == b"\x03\0\0\0"
    assert board.bytes_of(0x1234, 4) == bytes(4)


def test_selecting_again_starts_anew() -> None:
    board = Board()
    board.bytes_of(0, 2)

    assert board.bytes_of(0, 4) == b"QEMU"


def test_the_write_channel_bit_selects_the_same_item() -> None:
    assert Board().bytes_of(0x4000, 4) == b"QEMU"


def test_other_sizes_neither_select_nor_move_on() -> None:
    board = Board()
    board.select(0)

    board.device.write(0, 1, 5)
    board.device.write(0, 4, 5)
    board.device.write(1, 1, 5)
    wide = board.device.read(1, 4)
    selector = board.device.read(0, 2)

    assert (wide, selector) == (0xFFFFFFFF, 0xFFFF)
    assert bytes(board.device.read(1, 1) for _ in range(4)) == b"QEMU"


def test_files_are_listed_and_readable() -> None:
    board = Board()

    board.device.add_file("etc/one", b"first")
    board.device.add_file("opt/two", b"2")

    directory = board.bytes_of(0x19, 4 + 2 * 64)
    assert struct.unpack(">I", directory[:4]) == (2,)
    assert struct.unpack(">IHH56s", directory[4:68]) == (5, 0x20, 0, b"etc/one".ljust(56, b"\0"))
    assert struct.unpack(">IHH56s", directory[68:]) == (1, 0x21, 0, b"opt/two".ljust(56, b"\0"))
    assert board.bytes_of(0x20, 5) == b"first"
    assert board.bytes_of(0x21, 1) == b"2"


@pytest.mark.parametrize("name", ["", "x" * 56, "etc/ä", "a\0b", "etc/there"])
def test_bad_file_names_are_refused(name: str) -> None:
    board = Board()
    board.device.add_file("etc/there", b"")

    with pytest.raises(ValueError, match="fw_cfg file"):
        board.device.add_file(name, b"")


def test_the_longest_name_is_accepted() -> None:
    board = Board()

    board.device.add_file("x" * 55, b"data")

    assert board.bytes_of(0x20, 4) == b"data"


def test_the_directory_is_bounded() -> None:
    board = Board()
    for index in range(MAX_FILES):
        board.device.add_file(f"opt/{index}", b"")

    with pytest.raises(ValueError, match="no more than 64"):
        board.device.add_file("opt/more", b"")


def test_an_own_item_can_be_added_once() -> None:
    board = Board()

    board.device.add_item(0x08, b"abc")

    assert board.bytes_of(0x08, 3) == b"abc"
    with pytest.raises(ValueError, match="taken"):
        board.device.add_item(0x08, b"")
    with pytest.raises(ValueError, match="kept for files"):
        board.device.add_item(0x20, b"")


@pytest.mark.parametrize("key", [-1, 0xC000, 0x18000])
def test_an_item_that_cannot_be_selected_is_refused(key: int) -> None:
    with pytest.raises(ValueError, match="cannot be selected"):
        Board().device.add_item(key, b"")


def test_items_of_the_architecture() -> None:
    board = Board()

    board.device.add_item(0x8000, b"abc")

    assert board.bytes_of(0x8000, 3) == b"abc"


# DMA


def test_dma_address_reads_as_signature() -> None:
    dma = Board().dma_port

    assert dma.read(0, 8).to_bytes(8, "little") == b"QEMU CFG"
    assert dma.read(0, 4).to_bytes(4, "little") == b"QEMU"
    assert dma.read(4, 4).to_bytes(4, "little") == b" CFG"
    assert dma.read(7, 4).to_bytes(4, "little") == b"G\0\0\0"


def test_dma_selects_and_reads_with_zeros_behind_the_end() -> None:
    board = Board()
    board.device.add_file("etc/file", b"payload")

    control = board.dma(0x20 << 16 | SELECT | READ, 10, BUFFER)

    assert control == 0
    assert board.memory.read(BUFFER, 11) == b"payload\0\0\0\xcc"  # the byte behind stays as it was


def test_dma_goes_on_where_the_last_transfer_ended() -> None:
    board = Board()
    board.device.add_file("etc/file", b"payload")
    board.dma(0x20 << 16 | SELECT | READ, 2, BUFFER)

    board.dma(SKIP, 2, 0)
    board.dma(READ, 2, BUFFER)

    assert board.memory.read(BUFFER, 2) == b"oa"
    assert board.device.read(1, 1) == ord("d")  # the data port shares the position


def test_dma_skip_behind_the_end_is_harmless() -> None:
    board = Board()

    board.dma(SELECT | SKIP, 0xFFFFFFFF, 0)

    assert board.dma(SKIP, 0xFFFFFFFF, 0) == 0
    assert board.device.read(1, 1) == 0


def test_dma_write_is_an_error() -> None:
    board = Board()

    assert board.dma(SELECT | WRITE, 4, BUFFER) == ERROR
    assert board.bytes_of(0, 4) == b"QEMU"


@pytest.mark.parametrize(
    ("length", "gpa"), [(4, RAM_BYTES - 2), (0xFFFFFFFF, BUFFER), (4, 2**64 - 2), (0xFFFFFFFF, 2**64 - 1)]
)
def test_dma_outside_ram_is_an_error(length: int, gpa: int) -> None:
    assert Board().dma(SELECT | READ, length, gpa) == ERROR


def test_a_descriptor_outside_ram_changes_nothing() -> None:
    board = Board()
    before = bytes(board.memory.ram)

    board.dma_port.write(0, 8, 0xFFFFFFFFFFFFFFFF)

    assert board.memory.ram == before


def test_dma_uses_the_high_half_once() -> None:
    board = Board()
    board.memory.write(DESCRIPTOR, struct.pack(">IIQ", READ, 4, BUFFER))
    low = int.from_bytes(struct.pack(">I", DESCRIPTOR), "little")

    board.dma_port.write(0, 4, 0x01000000)  # 4 GiB and up: no RAM there
    board.dma_port.write(4, 4, low)
    nowhere = board.memory.read(BUFFER, 4)
    board.dma_port.write(4, 4, low)

    assert nowhere == b"\xcc" * 4
    assert board.memory.read(BUFFER, 4) == b"QEMU"


def test_reset_forgets_a_half_written_address() -> None:
    board = Board()
    board.memory.write(DESCRIPTOR, struct.pack(">IIQ", READ, 4, BUFFER))
    board.dma_port.write(0, 4, 0x01000000)

    board.dma_port.reset()
    board.dma_port.write(4, 4, int.from_bytes(struct.pack(">I", DESCRIPTOR), "little"))

    assert board.memory.read(BUFFER, 4) == b"QEMU"


EDGES = (0, 1, 7, RAM_BYTES - 1, RAM_BYTES, 1 << 32, (1 << 64) - 1)
TRANSFERS = st.lists(
    st.tuples(
        st.builds(
            int.__or__, st.sampled_from((0, 0x20 << 16, 0x4020 << 16, 0x1234 << 16)), st.integers(0, 31)
        ),
        st.sampled_from((0, 1, 3, 7, 8, 100, RAM_BYTES, (1 << 32) - 1)),
        st.sampled_from((*EDGES, BUFFER)),
    ),
    max_size=8,
)


@given(TRANSFERS)
def test_any_transfers_move_through_the_item_as_a_model_says(transfers: list[tuple[int, int, int]]) -> None:
    items = {0: b"QEMU", 0x20: b"payload", 0x4020: b"payload"}
    board = Board()
    board.device.add_file("etc/file", b"payload")
    rest = items[0]
    for control, length, gpa in transfers:
        before = bytes(board.memory.ram)
        if control & SELECT:
            rest = items.get(control >> 16, b"")
        moved = min(length, len(rest)) if control & (READ | SKIP | WRITE) else 0
        if control & READ:
            expected = ERROR if length and gpa + length > RAM_BYTES else 0
        else:
            expected = ERROR if length and control & WRITE else 0

        result = board.dma(control, length, gpa)

        assert result == expected
        if control & READ and not expected:
            # The outcome is stored last: in a transfer over the descriptor it is what stays.
            wanted = bytearray(before)
            wanted[gpa : gpa + length] = rest[:moved].ljust(length, b"\0")
            wanted[DESCRIPTOR : DESCRIPTOR + 4] = bytes(4)
            assert board.memory.ram[BUFFER:] == wanted[BUFFER:]
            assert board.memory.ram[:DESCRIPTOR] == wanted[:DESCRIPTOR]
        elif not expected:
            assert board.memory.ram[BUFFER:] == before[BUFFER:]
        rest = rest if expected else rest[moved:]
    assert bytes(board.device.read(1, 1) for _ in range(8)) == rest.ljust(8, b"\0")


@given(ACCESSES, st.binary(max_size=64))
def test_any_accesses_are_survived(
    accesses: list[tuple[int, int, int | None, int]], descriptor: bytes
) -> None:
    board = Board()
    board.device.add_file("etc/file", b"payload")
    board.memory.write(0, descriptor)
    ports: list[tuple[Region, int]] = [(board.device, 0), (board.device, 1)]
    ports += [(board.dma_port, offset) for offset in range(8)]
    for access in accesses:
        carry_out(access, ports)
