# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear line, exit status 2, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.host.run.launch import command, guest, vmm_run
from tests.patience import patient

pytestmark = pytest.mark.host
DUMMY = "dummy"


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vmm: ")
    assert result.stdout == ""
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "64K"], "at least 2 MiB"),
        (["--memory", "0"], "at least 2 MiB"),
        (["--memory", f"{psutil.virtual_memory().total * 2 >> 20}M"], "more than this host's"),
        (["--memory", "plenty"], "expected a number and a unit"),
        (["--memory", "-1"], "expected a number and a unit"),
        (["--memory", "\uff11\uff12\uff18"], "expected a number and a unit"),  # digits, but no ASCII
        (["--cpus", "0"], "1 to 1024"),
        (["--cpus", "1000000"], "1 to 1024"),
        (["--cpu", "no-such-model"], "no-such-model"),
        (["--cpu", ""], "no CPU model is called ''"),
        (["--cpu", "max,level=abc"], "expected 0x1 to 0xff, found 'abc'"),
        (["--cpu", "max,+no-such-feature"], "no-such-feature"),
        (["--machine", "irqchip=none"], "irqchip"),
        (["--machine", "colour=red"], "colour=red"),
        (["--machine", ",,,"], "irqchip=kernel|split"),
        (["--machine", "vsm=on,vtls=three"], "vtls=3"),
        (["--machine", "vtls=3"], "vsm=on"),
        (["--result", ""], "expected the name of a file"),
        (["--result", "/no/such/directory/result"], "No such file or directory"),
        (["--result", "/"], "Is a directory"),
        (["--machine", "pit=maybe"], "pit=on or pit=off"),
        (["--serial", "carrier-pigeon"], "stdio, file:PATH, pty, unix:PATH or none"),
        (["--serial", "file:/no/such/directory/log"], "No such file or directory"),
        (["--serial", "unix:/no/such/directory/socket"], "No such file or directory"),
        (["--time-limit", "-1"], "--time-limit"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--raw", "start"], "expected an address"),
        (["--initrd", "/no/such/initrd"], "No such file or directory"),
        (["--append", "x" * 70_000], "shorten"),
    ],
)
def test_options_that_make_no_machine(options: list[str], words: str) -> None:
    line = one_line(vmm_run(guest(DUMMY), *options))

    assert words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"#!/bin/sh\necho this is no kernel\n", "--raw"),
        (b"\x7fELF", "truncated or corrupt"),
        (b"\0" * 4096, "--raw"),
    ],
)
def test_files_that_are_no_kernel(tmp_path: Path, content: bytes | None, words: str) -> None:
    kernel = tmp_path / "kernel"
    if content is not None:
        kernel.write_bytes(content)

    line = one_line(vmm_run(str(kernel)))

    assert words in line and str(kernel) in line


def test_a_directory_is_no_kernel(tmp_path: Path) -> None:
    assert "directory" in one_line(vmm_run(str(tmp_path)))


@pytest.mark.parametrize("cut", [20, 60, 200, 5000])
def test_a_truncated_elf_file(tmp_path: Path, cut: int) -> None:
    kernel = tmp_path / "truncated.flat"
    kernel.write_bytes(Path(guest(DUMMY)).read_bytes()[:cut])

    one_line(vmm_run(str(kernel)))


def test_an_initrd_that_does_not_fit(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(64 << 20)

    line = one_line(vmm_run(guest(DUMMY), "--initrd", str(initrd), "--memory", "32M"))

    assert str(initrd) in line


def where_dev_is(prepare: str) -> subprocess.CompletedProcess[str]:
    """`vmm run` where a tmpfs with nothing but a /dev/null covers /dev, and `prepare` was done then.

    In a mount and a user namespace of its own, which an ordinary user may make too (a kernel without the latter,
    like the lab's, needs root); and without capabilities, so that permission bits count for root as well.
    """
    covered = f"mount -t tmpfs none /dev && touch /dev/null && {prepare}"
    script = f'{covered} && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    user = ["--user", "--map-root-user"] if Path("/proc/self/ns/user").exists() else []
    return subprocess.run(
        ["unshare", *user, "--mount", "sh", "-c", script, "sh", *command("run", guest(DUMMY))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )


def test_missing_kvm_is_said_with_what_to_do() -> None:
    line = one_line(where_dev_is("true"))

    assert "/dev/kvm" in line and "modprobe" in line


def test_no_permission_is_said_with_what_to_do() -> None:
    line = one_line(where_dev_is("touch /dev/kvm && chmod 000 /dev/kvm"))

    assert "/dev/kvm" in line and "group" in line


def test_usage_errors_have_status_2_too() -> None:
    result = vmm_run()

    assert result.returncode == 2
    assert "FILE" in result.stderr and "Traceback" not in result.stderr


def test_a_result_that_cannot_be_written_in_the_end_is_one_line() -> None:
    result = vmm_run(guest(DUMMY), "--result", "/dev/full")

    assert (result.returncode, result.stderr) == (2, "vmm: --result /dev/full: No space left on device\n")


def limited(limits: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`vmm run` of a guest under these `ulimit`s."""
    return subprocess.run(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", *command("run", guest(DUMMY), *arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )


def test_too_little_address_space() -> None:
    line = one_line(limited("ulimit -v 1024000", "-m", "512M"))  # for one mapping of the memory, not for two

    assert "512 MiB cannot be mapped" in line


def test_too_few_files() -> None:
    line = one_line(limited("ulimit -n 64", "--cpus", "20"))

    assert "20 processors need 1" in line and "ulimit -n" in line


def test_a_soft_limit_of_files_is_raised() -> None:
    assert limited("ulimit -S -n 64", "--cpus", "20").returncode == 1  # debug exit with code 0


def test_a_reader_that_leaves_ends_the_run(tmp_path: Path) -> None:
    child = subprocess.Popen(
        command("run", guest("output"), "--append", "kib=4096"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(64)
    child.stdout.close()

    status = child.wait(timeout=patient(30))

    assert status == 2
    lines = child.stderr.read().decode().splitlines()
    child.stderr.close()
    assert len(lines) == 1 and "output" in lines[0]


def test_python_has_not_to_be_told_where_the_package_is() -> None:
    """The command installed into the virtual environment is the same program."""
    installed = Path(sys.executable).parent / "vmm"

    result = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=patient(30))

    assert result.stdout.startswith("vmm ")
