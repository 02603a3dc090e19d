# SPDX-License-Identifier: Apache-2.0
"""Readers that stall and writers that type too much: the run still ends when it should."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host.run.launch import command, guest, vmm_run
from tests.host.run.pipes import wait_until_full
from tests.host.run.test_serial_ends import read_until
from tests.host.run.test_terminal import at_terminal
from tests.patience import patient

pytestmark = pytest.mark.host
WATCHDOG_S = patient(30)
# Real mode: mov $0xe9, %dx; 1: mov $0x0a, %al; out %al, %dx; jmp 1b
FLOOD_DEBUG_CONSOLE = bytes.fromhex("bae900 b00a ee ebfb")


def start(*arguments: str, **streams: int) -> subprocess.Popen[bytes]:
    def stream(name: str, ordinary: int) -> int:
        return streams.get(name, ordinary)

    return subprocess.Popen(
        command("run", *arguments),
        stdin=stream("stdin", subprocess.DEVNULL),
        stdout=stream("stdout", subprocess.PIPE),
        stderr=stream("stderr", subprocess.PIPE),
    )


def finish(child: subprocess.Popen[bytes]) -> int:
    """The exit status of a child whose pipes nobody reads until it has ended."""
    try:
        return child.wait(timeout=WATCHDOG_S)
    finally:
        child.kill()
        child.communicate()


def test_the_escape_sequence_works_behind_input_that_the_guest_does_not_read() -> None:
    with at_terminal(guest("halt")) as user:
        user.see(b"halting")
        for _ in range(60):
            user.press(b"x" * 1000)
            time.sleep(0.01)
        user.press(b"\x01x")

        assert user.wait() == 130


def test_the_time_limit_holds_when_nobody_reads_the_output() -> None:
    child = start(guest("output"), "--append", "kib=100000", "--time-limit", "3")

    assert finish(child) == 124


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_fifo_whose_reader_stalls_does_not_hold_up_the_end(tmp_path: Path, number: signal.Signals) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        child = start(guest("output"), "--append", "kib=100000", "--serial", f"file:{fifo}")
        wait_until_full(reader)
        child.send_signal(number)

        assert finish(child) == 128 + number
    finally:
        os.close(reader)


def test_a_fifo_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    result = vmm_run(guest("dummy"), "--serial", f"file:{fifo}")

    assert (result.returncode, "nobody reads" in result.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--result", "--stats"])
def test_a_fifo_for_results_that_nobody_reads_is_not_waited_for(tmp_path: Path, option: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    result = vmm_run(guest("dummy"), option, f"json:{fifo}" if option == "--stats" else str(fifo))

    assert result.returncode == 2
    assert result.stderr.endswith(f"{fifo}: nobody reads this FIFO\n") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--result", "--stats"])
def test_a_fifo_for_results_is_read_by_who_waits_for_them(tmp_path: Path, option: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)

    result = vmm_run(guest("dummy"), option, f"json:{fifo}" if option == "--stats" else str(fifo))

    text, _ = reader.communicate(timeout=WATCHDOG_S)
    assert (result.returncode, result.stderr) == (1, "")
    assert isinstance(json.loads(text), dict)


def caught(child: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the child catches a signal."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(mask >> number - 1 & 1)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.01)


def test_a_signal_ends_who_waits_behind_the_end_of_the_run() -> None:
    """The table of --stats is for a reader who reads nothing."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    child = start(guest("dummy"), "--stats", "end", stderr=write_end)
    try:
        wait_until(lambda: caught(child, signal.SIGTERM))
        wait_until(lambda: not caught(child, signal.SIGTERM))
        child.send_signal(signal.SIGTERM)

        assert finish(child) == -signal.SIGTERM
    finally:
        child.kill()
        os.close(write_end)
        os.close(read_end)


def test_the_debug_console_stalls_and_the_run_still_ends(tmp_path: Path) -> None:
    image = tmp_path / "flood.bin"
    image.write_bytes(FLOOD_DEBUG_CONSOLE)
    child = start(str(image), "--raw", "0x7c00", "--no-testdev")
    assert child.stderr is not None
    wait_until_full(child.stderr.fileno())
    child.send_signal(signal.SIGTERM)

    assert finish(child) == 128 + signal.SIGTERM


def test_the_debug_console_writes_to_standard_error(tmp_path: Path) -> None:
    image = tmp_path / "hello.bin"
    # mov $'h', %al; out %al, $0xe9; mov $0x0a, %al; out %al, $0xe9; cli; hlt
    image.write_bytes(bytes.fromhex("b068 e6e9 b00a e6e9 fa f4"))

    result = vmm_run(str(image), "--raw", "0x7c00", "--no-testdev", "--time-limit", "1")

    assert result.stderr.startswith("h\n")


def test_a_client_that_ends_only_its_input_still_gets_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    child = start(guest("echo"), "--serial", f"unix:{path}", "--time-limit", "20")
    assert child.stderr is not None
    child.stderr.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WATCHDOG_S)
        client.connect(str(path))
        read_until(client.recv, b"\n")
        client.sendall(b"bye\x04")
        client.shutdown(socket.SHUT_WR)

        assert b"bye" in read_until(client.recv, b"SUMMARY")
    assert finish(child) == 1


def test_nohup_is_respected() -> None:
    child = subprocess.Popen(
        ["nohup", *command("run", guest("hang"), "--time-limit", "3")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.read(4)
    child.send_signal(signal.SIGHUP)

    assert finish(child) == 124


def test_the_guests_own_file_is_not_overwritten(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.flat"
    kernel.write_bytes(Path(guest("dummy")).read_bytes())
    before = kernel.read_bytes()

    result = vmm_run(str(kernel), "--serial", f"file:{kernel}")

    assert (result.returncode, "guest's own file" in result.stderr) == (2, True)
    assert kernel.read_bytes() == before


def test_a_log_survives_a_kernel_that_does_not_boot(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an earlier run")

    result = vmm_run("/no/such/kernel", "--serial", f"file:{log}")

    assert result.returncode == 2
    assert log.read_text() == "an earlier run"


def test_a_closed_terminal_is_no_defect() -> None:
    with at_terminal(guest("echo")) as user:
        user.see(b"ends it")
        os.close(user.master)
        user.master = os.open(os.devnull, os.O_RDONLY)
        status = user.child.wait(timeout=WATCHDOG_S)

    assert status == 128 + signal.SIGHUP
