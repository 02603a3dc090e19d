# SPDX-License-Identifier: Apache-2.0
"""Where a hung kernel stands."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from scripts.lab_vm import debugger
from scripts.lab_vm.debugger import Monitor, SymbolTable, processors

MAP = """\
ffffffff81000000 T _stext
ffffffff81000100 t do_idle
ffffffff81000200 D not_code
ffffffff81000300 T kvm_vcpu_ioctl
"""
REGISTERS = """\

CPU#0
RAX=0000000000000000 RBX=0000000000000000
RIP=ffffffff81000110 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1

CPU#1
RIP=00007f0000001000 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0
"""


def test_every_processor_gets_a_line_with_its_function() -> None:
    assert processors(REGISTERS, SymbolTable(MAP)) == [
        "processor 0 at 0xffffffff81000110 (do_idle+0x10, halted)",
        "processor 1 at 0x7f0000001000 (not in the kernel: user space, or a guest of KVM)",
    ]


def test_an_address_without_symbols_is_still_shown() -> None:
    assert "(no symbol, halted)" in processors(REGISTERS, SymbolTable())[0]


def test_no_registers_no_lines() -> None:
    assert processors("", SymbolTable(MAP)) == []


def test_data_symbols_do_not_name_code() -> None:
    assert SymbolTable(MAP).name(0xFFFFFFFF81000250) == "do_idle+0x150"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def serve(connection: socket.socket, answers: list[bytes]) -> threading.Thread:
    """A monitor that greets, then gives one scripted answer per request."""

    def run() -> None:
        connection.sendall(b'{"QMP": {}}\n')
        for answer in answers:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_events_between_request_and_answer_are_skipped(ends: tuple[socket.socket, socket.socket]) -> None:
    answer = b'{"event": "RESET"}\n' + json.dumps({"return": "text"}).encode() + b"\n"
    serve(ends[1], [b'{"return": {}}\n', answer])

    assert Monitor(ends[0]).human("info registers") == "text"


def test_a_refused_command_gives_none(ends: tuple[socket.socket, socket.socket]) -> None:
    serve(ends[1], [b'{"return": {}}\n', b'{"error": {"desc": "no"}}\n'])

    assert Monitor(ends[0]).command("inject-nmi") is None


def test_a_silent_monitor_is_given_up(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugger, "REPLY_SECONDS", 0.05)

    assert Monitor(ends[0]).command("inject-nmi") is None


def test_a_monitor_that_closed_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()

    assert Monitor(ends[0]).human("info registers") == ""
