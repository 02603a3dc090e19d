# SPDX-License-Identifier: Apache-2.0
"""The user's terminal: raw while the guest runs, an escape sequence, and put back whatever happens."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.host.run.launch import command, guest
from tests.patience import patient

pytestmark = pytest.mark.host
WATCHDOG_S = patient(20)


class Session:
    """A `vmm run` on a pseudo-terminal of its own, and the user in front of it."""

    def __init__(self, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""
        self.child = subprocess.Popen(
            command("run", *arguments, "--time-limit", "15"),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def see(self, words: bytes) -> None:
        """Wait until `words` are on the screen."""
        deadline = time.monotonic() + WATCHDOG_S
        while words not in self.screen:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 0.1)[0]:
                self.screen += os.read(self.master, 4096)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def wait(self) -> int:
        """The exit status; keeps reading, so that the child never waits for the screen."""
        deadline = time.monotonic() + WATCHDOG_S
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 0.05)[0]:
                self.screen += os.read(self.master, 4096)
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def at_terminal(*arguments: str) -> Iterator[Session]:
    session = Session(*arguments)
    try:
        yield session
    finally:
        session.close()


def test_every_key_reaches_the_guest_and_none_is_echoed_by_the_terminal() -> None:
    with at_terminal(guest("echo")) as user:
        user.see(b"ends it")
        raw = user.mode()
        user.press(b"\x03\x1aabc")  # Ctrl-C and Ctrl-Z are the guest's, too
        user.see(b"abc")
        user.press(b"\x04")
        status = user.wait()
        after = user.mode()

    assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    assert user.screen.count(b"abc") == 1
    assert status == 1
    assert after == user.before


def test_the_escape_sequences() -> None:
    with at_terminal(guest("echo")) as user:
        user.see(b"ends it")
        user.press(b"\x01h")
        user.see(b"end the guest")
        user.press(b"x\x01\x01y")
        user.see(b"x\x01y")
        user.press(b"\x01x")
        status = user.wait()
        after = user.mode()

    assert status == 130
    assert b"ended by Ctrl-A x" in user.screen
    assert after == user.before


def test_the_power_button_lets_the_guest_switch_itself_off() -> None:
    with at_terminal(guest("button")) as user:
        user.see(b"press it")
        user.press(b"\x01p")
        status = user.wait()

    assert status == 0
    assert b"PASS: 1 presses of the power button" in user.screen
    assert b"does not listen" not in user.screen


def test_a_guest_that_does_not_listen_to_the_power_button() -> None:
    with at_terminal(guest("button"), "--append", "deaf") as user:
        user.see(b"press it")
        user.press(b"\x01p")
        user.see(b"the guest does not listen to the power button")
        user.press(b"\x01x")
        status = user.wait()

    assert status == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_put_back_after_a_signal(number: signal.Signals) -> None:
    with at_terminal(guest("echo")) as user:
        user.see(b"ends it")
        user.child.send_signal(number)
        status = user.wait()
        after = user.mode()

    assert status == 128 + number
    assert after == user.before


@pytest.mark.parametrize("name", ["triple", "abort", "poweroff", "dummy"])
def test_the_terminal_is_put_back_however_the_guest_ends(name: str) -> None:
    with at_terminal(guest(name)) as user:
        user.wait()
        after = user.mode()

    assert after == user.before


def test_a_defect_of_ours_puts_the_terminal_back_too() -> None:
    with at_terminal(guest("dummy"), "--result", "/no/such/directory/result") as user:
        status = user.wait()
        after = user.mode()

    assert status == 2
    assert after == user.before


def test_keys_in_the_middle_of_an_escape_sequence_do_not_hold_up_the_end() -> None:
    with at_terminal(guest("echo")) as user:
        user.see(b"ends it")
        user.press(b"\x01")
        time.sleep(0.2)
        user.press(b"x")
        status = user.wait()

    assert status == 130
