# SPDX-License-Identifier: Apache-2.0
"""The machine code beside Python does what it says."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest

from vmm.backend.native import NativeCode


@pytest.fixture
def native() -> Iterator[NativeCode]:
    code = NativeCode()
    yield code
    code.close()


def test_the_time_stamp_counter_moves_on(native: NativeCode) -> None:
    readings = [native.rdtsc() for _ in range(5)]

    assert readings == sorted(set(readings))
    assert all(0 < reading < 1 << 64 for reading in readings)


@pytest.mark.parametrize(("before", "mask", "after"), [(0, 1, 1), (0x80, 0x80, 0x80), (0x0F, 0xF1, 0xFF)])
def test_or_of_a_byte_leaves_its_neighbours(native: NativeCode, before: int, mask: int, after: int) -> None:
    memory = (ctypes.c_uint8 * 3)(0x11, before, 0x22)

    returned = native.fetch_or(ctypes.addressof(memory) + 1, mask)

    assert returned == before
    assert list(memory) == [0x11, after, 0x22]


def test_every_bit_is_set_by_exactly_one_of_two_threads(native: NativeCode) -> None:
    memory = (ctypes.c_uint8 * 512)()
    first_ones = [0, 0]

    def set_all(number: int) -> None:
        for bit in range(512 * 8):
            address = ctypes.addressof(memory) + bit // 8
            first_ones[number] += not native.fetch_or(address, 1 << bit % 8) & 1 << bit % 8

    threads = [threading.Thread(target=set_all, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(first_ones) == 512 * 8
    assert bytes(memory) == b"\xff" * 512


def sixteen_bytes() -> tuple[ctypes.Array[ctypes.c_char], int]:
    """A buffer, and the address of 16 aligned bytes in it."""
    buffer = ctypes.create_string_buffer(32)
    return buffer, -(-ctypes.addressof(buffer) // 16) * 16


def test_16_bytes_are_exchanged_only_if_they_are_as_expected(native: NativeCode) -> None:
    buffer, address = sixteen_bytes()
    before, other, new = b"0123456789abcdef", b"0123456789abcdeF", b"ghijklmnopqr\0tuv"
    ctypes.memmove(address, before, 16)

    assert native.compare_exchange_16(address, other, new) == before
    assert ctypes.string_at(address, 16) == before
    assert native.compare_exchange_16(address, before, new) == before
    assert ctypes.string_at(address, 16) == new
    assert len(buffer) == 32


def test_counting_by_exchanging_loses_nothing(native: NativeCode) -> None:
    buffer, address = sixteen_bytes()

    def count() -> None:
        for _ in range(500):
            seen = bytes(16)
            while True:
                number = int.from_bytes(seen, "little")
                found = native.compare_exchange_16(address, seen, (number + (1 << 64)).to_bytes(16, "little"))
                if found == seen:
                    break
                seen = found

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert int.from_bytes(ctypes.string_at(address, 16), "little") == 1000 << 64
    assert len(buffer) == 32


def test_close_is_idempotent() -> None:
    code = NativeCode()
    code.close()
    code.close()
