# SPDX-License-Identifier: Apache-2.0
"""Debug console, POST codes, delay ports."""

from __future__ import annotations

from hypothesis import given

from vmm.machine.devices.debug_port import POST_CODE_HISTORY, DebugConsole, DelayPort, PostCodePort

from .fakes import FakeClock
from .fuzz import ACCESSES, carry_out


def test_a_guest_finds_the_console_by_reading_0xe9() -> None:
    assert DebugConsole(FakeClock(), lambda data: None).read(0, 1) == 0xE9


def test_console_output_reaches_the_sink_by_line_and_by_flush() -> None:
    out: list[bytes] = []
    console = DebugConsole(FakeClock(), out.append)

    for byte in b"one\ntwo":
        console.write(0, 1, byte)
    by_line = list(out)
    console.flush()

    assert by_line == [b"one\n"]
    assert out == [b"one\n", b"two"]


def test_console_output_before_a_reset_is_shown() -> None:
    out: list[bytes] = []
    console = DebugConsole(FakeClock(), out.append)
    console.write(0, 1, 0x41)

    console.reset()

    assert out == [b"A"]


def test_post_port_keeps_the_last_codes_in_order() -> None:
    port = PostCodePort()

    for code in range(POST_CODE_HISTORY + 2):
        port.write(0, 1, code)

    assert port.codes() == list(range(2, POST_CODE_HISTORY + 2))
    assert port.read(0, 1) == POST_CODE_HISTORY + 1


def test_post_history_survives_a_reset() -> None:
    port = PostCodePort()
    port.write(0, 1, 0x55)

    port.reset()

    assert port.codes() == [0x55]


def test_a_wide_post_write_records_its_low_byte_only() -> None:
    port = PostCodePort()

    port.write(0, 4, 0x12345678)

    assert port.codes() == [0x78]


def test_delay_ports_read_as_ones() -> None:
    port = DelayPort()

    port.write(0, 1, 0)

    assert port.read(0, 1) == 0xFF


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    clock = FakeClock()
    out: list[bytes] = []
    post = PostCodePort()
    ports = [(DebugConsole(clock, out.append), 0), (post, 0), (DelayPort(), 0)]
    for access in accesses:
        clock.advance(access[3])
        carry_out(access, ports)

    assert len(post.codes()) <= POST_CODE_HISTORY
