# SPDX-License-Identifier: Apache-2.0
"""Order, bounds and threads of the output buffer."""

from __future__ import annotations

import threading

from vmm.machine.devices.output_buffer import FLUSH_BYTES, IDLE_FLUSH_NS, LIMIT_BYTES, OutputBuffer

from .fakes import FakeClock


def test_bytes_of_two_threads_all_arrive_and_each_thread_keeps_its_order() -> None:
    chunks: list[bytes] = []
    buffer = OutputBuffer(FakeClock(), chunks.append)
    count = 5000

    def write(first: int) -> None:
        for index in range(count):
            buffer.append(first + index % 100)  # 100 values for each thread, a newline among the first's

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.flush()
    output = b"".join(chunks)

    for first in (0, 100):
        mine = [byte for byte in output if first <= byte < first + 100]
        assert mine == [first + index % 100 for index in range(count)]


def test_a_writer_does_not_wait_for_a_busy_sink_and_the_busy_one_takes_its_bytes() -> None:
    in_sink, let_go = threading.Event(), threading.Event()
    chunks: list[bytes] = []

    def slow_sink(chunk: bytes) -> None:
        chunks.append(chunk)
        if len(chunks) == 1:
            in_sink.set()
            assert let_go.wait(10)

    buffer = OutputBuffer(FakeClock(), slow_sink)
    first = threading.Thread(target=buffer.append, args=(0x0A,))
    first.start()
    assert in_sink.wait(10)

    for byte in b"two\n":
        buffer.append(byte)  # returns although the sink is taken
    let_go.set()
    first.join(10)

    assert chunks == [b"\n", b"two\n"]


def test_a_full_buffer_waits_for_the_sink() -> None:
    in_sink, let_go = threading.Event(), threading.Event()
    sizes: list[int] = []

    def slow_sink(chunk: bytes) -> None:
        sizes.append(len(chunk))
        in_sink.set()
        assert let_go.wait(10)

    buffer = OutputBuffer(FakeClock(), slow_sink)
    first = threading.Thread(target=buffer.append, args=(0x0A,))
    first.start()
    assert in_sink.wait(10)

    def append_many() -> None:
        for _ in range(3 * LIMIT_BYTES):
            buffer.append(0x41)

    second = threading.Thread(target=append_many)
    second.start()
    second.join(0.5)  # ample time for 192 KiB when nothing held it back

    held_back = second.is_alive()
    let_go.set()
    first.join(10)
    second.join(10)
    buffer.flush()

    assert held_back
    assert sum(sizes) == 3 * LIMIT_BYTES + 1
    assert max(sizes) <= LIMIT_BYTES


def test_a_steady_trickle_is_shown_at_the_idle_time_of_its_first_byte() -> None:
    clock = FakeClock()
    chunks: list[bytes] = []
    buffer = OutputBuffer(clock, chunks.append)

    for _ in range(4):
        buffer.append(0x41)
        clock.advance(IDLE_FLUSH_NS // 2)

    assert b"".join(chunks) == b"AAAA"
    assert len(chunks) == 2


def test_chunks_without_newline_have_the_flush_size() -> None:
    chunks: list[bytes] = []
    buffer = OutputBuffer(FakeClock(), chunks.append)

    for _ in range(3 * FLUSH_BYTES):
        buffer.append(0x41)

    assert [len(chunk) for chunk in chunks] == [FLUSH_BYTES] * 3
